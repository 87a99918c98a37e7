"""What lies between the mixers, as functions that can be compiled: before the first, between two, and the loss; and
what lies between the kernels inside a mixer.

    stem: tokens -> (x, norm(x));  seam: (x, what a mixer gave) -> (x after mixer and MLP, the next norm of it);  loss

One compiled seam serves all layers of a model, whatever their mixers, because the layers' weights are its inputs.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from attnlab.models.block import Block

IGNORED = -100  # targets that do not count
CHUNK_BYTES = 1 << 26  # of one chunk's logits


class Parts(NamedTuple):
    """The three functions."""

    stem: Callable[..., tuple[Tensor, Tensor]]
    seam: Callable[..., tuple[Tensor, Tensor]]
    loss: Callable[..., Tensor]


def stem(embed: nn.Embedding, dropout: nn.Module, norm: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """tokens [B, T] -> the residual stream [B, T, D], and what the first mixer reads of it."""
    x = dropout(embed(tokens))
    return x, _read(norm(x))


def seam(block: Block, norm: nn.Module, x: Tensor, mixed: Tensor) -> tuple[Tensor, Tensor]:
    """The rest of a layer and the next norm: x and the mixer's output, [B, T, D] -> the same pair for the next one."""
    x = block.after(x, mixed)
    return x, _read(norm(x))


def _read(normed: Tensor) -> Tensor:
    """In the precision in which the mixers' matrices will read it. Under autocast each of them would round it by
    itself; the residual stream keeps its own precision."""
    kind = normed.device.type
    return normed.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else normed


def loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """hidden [N, D], the head's weight [V, D], targets [N] -> their cross entropy's sum in nats, fp32."""
    return F.cross_entropy(F.linear(hidden, weight).float(), targets, ignore_index=IGNORED, reduction="sum")


class _ChunkedLoss(torch.autograd.Function):
    """`loss` with the logits of `CHUNK_BYTES` at a time: their gradient is computed with them and they are forgotten,
    so the memory is the chunk's and the head is read once per chunk and direction."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        head = weight.to(hidden.dtype)
        rows = max(128, CHUNK_BYTES // (len(head) * head.element_size()))
        total = torch.zeros((), device=hidden.device)
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros(head.shape, device=hidden.device)
        for start in range(0, len(hidden), rows):
            part = hidden[start : start + rows]
            nats, d_logits = _scored()(part @ head.T, targets[start : start + rows])
            total = total + nats
            d_hidden[start : start + rows] = d_logits @ head
            d_weight = _add_product(d_weight, d_logits.T, part)
        ctx.save_for_backward(d_hidden, d_weight)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        d_hidden, d_weight = ctx.saved_tensors
        return d_hidden * grad.to(d_hidden.dtype), d_weight * grad, None


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """total + a @ b, in fp32."""
    if a.dtype != torch.float32 and a.is_cuda:
        return torch.addmm(total, a, b, out_dtype=torch.float32)
    return torch.addmm(total, a.float(), b.float())  # PyTorch 2.13 has no product of that kind on the CPU


def score(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """logits [N, V], targets [N] -> the sum of the cross entropy, and its gradient [N, V] in the logits' dtype."""
    counts = (targets != IGNORED).unsqueeze(1)
    right = targets.clamp(min=0).unsqueeze(1)
    wide = logits.float()
    log_sum = wide.logsumexp(1, keepdim=True)
    picked = logits.gather(1, right).float()
    is_right = torch.arange(logits.shape[1], device=logits.device).unsqueeze(0) == right
    gradient = ((wide - log_sum).exp() - is_right.float()) * counts
    return ((log_sum - picked) * counts).sum(), gradient.to(logits.dtype)


@functools.cache
def _scored() -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return _compiled(score)


def chunked_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """`loss`, without ever holding the logits of all positions."""
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    with torch.autocast(hidden.device.type, enabled=False):
        return _ChunkedLoss.apply(hidden, weight, targets)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    _many_shapes()
    return torch.compile(function, dynamic=False, fullgraph=True)


@functools.cache
def _many_shapes() -> None:
    """All is compiled for fixed shapes; a process that trains many models does so for each, and must not give up."""
    import torch._dynamo

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 256)
    torch._dynamo.config.accumulated_recompile_limit = max(torch._dynamo.config.accumulated_recompile_limit, 4096)


@functools.cache
def compiled_parts() -> Parts:
    """The parts, compiled by Inductor; one set for the process, so that models of one shape share it."""
    return Parts(_compiled(stem), _compiled(seam), chunked_loss)


def compile_between_kernels(model: Any) -> None:
    """Compile the parts of a `BackboneForCausalLM`, and the mixers where that pays (`MixerSpec.compiled`)."""
    model.backbone.parts = compiled_parts()
    compile_mixers([block for block in model.backbone.blocks if block.compiled])


def compile_mixers(blocks: Iterable[Block], backend: str = "inductor") -> None:
    """Compile what mixers' layers do between their kernels, in training: gates, token shifts, low-rank projections.
    They map [B, T, D] to [B, T, D] as before, but for roundings to bf16 that a compiled chain leaves out.

    The kernels themselves, FLA's and ours, are called as they are. Layers of one class and shape share what is
    compiled. In evaluation the layers run as written.

    Args:
        backend: torch.compile's.
    """
    _leave_kernels_alone()
    _many_shapes()
    for block in blocks:
        block.mixer.forward = _in_training(block.mixer, backend)


def _in_training(mixer: nn.Module, backend: str) -> Callable[..., Any]:
    plain = mixer.forward
    compiled = torch.compile(plain, dynamic=False, backend=backend)

    @functools.wraps(plain)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return (compiled if mixer.training else plain)(*args, **kwargs)

    return forward


@functools.cache
def _leave_kernels_alone() -> None:
    """What FLA's layers have imported from where the kernels are, functions and modules, is called from compiled code
    and not compiled with it: its autograd, its tuning and its choice of an implementation are Python that must run.
    Once per process and for all of it: those classes stay out of any other torch.compile there too."""
    kernels = ("fla.ops", "fla.modules", "attnlab.kernels")
    classes: set[type[nn.Module]] = set()  # many layers import the same ones
    for module in [module for name, module in list(sys.modules.items()) if name.startswith("fla.layers.")]:
        for name, value in list(vars(module).items()):
            if not (getattr(value, "__module__", None) or "").startswith(kernels):
                continue
            if not isinstance(value, type):
                if callable(value):
                    setattr(module, name, torch.compiler.disable(value))
            elif issubclass(value, nn.Module):
                classes.add(value)
    for cls in classes:
        cls.forward = torch.compiler.disable(cls.forward)  # type: ignore[method-assign]


PLAIN = Parts(stem, seam, loss)
