"""What lies between the mixers, and between a mixer's kernels, as functions to compile.

    embedding: tokens -> (x, norm(x))
    residual:  (x, what a mixer gave) -> (x after mixer and MLP, the next norm of it)
    loss:      (hidden states, targets) -> the cross entropy

One compiled residual serves all layers of a model, whatever their mixers, because the layers' weights are its inputs.
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


class Fused(NamedTuple):
    """The three functions."""

    embedding: Callable[..., tuple[Tensor, Tensor]]
    residual: Callable[..., tuple[Tensor, Tensor]]
    loss: Callable[..., Tensor]


def embedding(embed: nn.Embedding, dropout: nn.Module, norm: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Embed tokens [B, T]: the residual stream [B, T, D] and its first norm."""
    x = dropout(embed(tokens))
    return x, _read(norm(x))


def residual(block: Block, norm: nn.Module, x: Tensor, mixed: Tensor) -> tuple[Tensor, Tensor]:
    """Run the rest of a layer and the next norm, from and to [B, T, D] each."""
    x = block.after(x, mixed)
    return x, _read(norm(x))


def _read(normed: Tensor) -> Tensor:
    """Round to the precision in which the mixers' matrices will read it.

    Under autocast each of them would round it by itself; the residual stream keeps its own precision.
    """
    kind = normed.device.type
    return normed.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else normed


def loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Sum the cross entropy, in nats, fp32; hidden [N, D], weight [V, D], targets [N]."""
    return F.cross_entropy(F.linear(hidden, weight).float(), targets, ignore_index=IGNORED, reduction="sum")


class _ChunkedLoss(torch.autograd.Function):
    """`loss` with the logits of `CHUNK_BYTES` at a time.

    Their gradient is computed with them and they are forgotten, so the memory is the chunk's and the head is read once
    per chunk and direction.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        head = weight.to(hidden.dtype)
        rows = max(128, CHUNK_BYTES // (len(head) * head.element_size()))
        total = torch.zeros((), device=hidden.device)
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros(head.shape, device=hidden.device)
        for start in range(0, len(hidden), rows):
            chunk = hidden[start : start + rows]
            nats, d_logits = _scored()(chunk @ head.T, targets[start : start + rows])
            total = total + nats
            d_hidden[start : start + rows] = d_logits @ head
            d_weight = _add_product(d_weight, d_logits.T, chunk)
        ctx.save_for_backward(d_hidden, d_weight)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        d_hidden, d_weight = ctx.saved_tensors
        return d_hidden * grad.to(d_hidden.dtype), d_weight * grad, None


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Compute total + a @ b, in fp32."""
    if a.dtype != torch.float32 and a.is_cuda:
        return torch.addmm(total, a, b, out_dtype=torch.float32)
    return torch.addmm(total, a.float(), b.float())  # PyTorch 2.13 has no product of that kind on the CPU


def score(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the cross entropy of logits [N, V] and targets [N]; also its gradient [N, V]."""
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
    """Let a process compile for the fixed shapes of many models without giving up."""
    import torch._dynamo

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 256)
    torch._dynamo.config.accumulated_recompile_limit = max(torch._dynamo.config.accumulated_recompile_limit, 4096)


@functools.cache
def compiled_functions() -> Fused:
    """The functions, compiled once per process, so that models of one shape share them."""
    return Fused(_compiled(embedding), _compiled(residual), chunked_loss)


def compile_between_kernels(model: Any) -> None:
    """Compile what is fused of a `BackboneForCausalLM`, and the mixers where that pays (`MixerSpec.compiled`)."""
    model.backbone.fused = compiled_functions()
    compile_mixers([block for block in model.backbone.blocks if block.compiled])


def compile_mixers(blocks: Iterable[Block], backend: str = "inductor") -> None:
    """Compile what mixers' layers do between their kernels, in training: gates, token shifts, low-rank projections.

    They map [B, T, D] to [B, T, D] as before, except for roundings to bf16 that a compiled chain leaves out. The
    kernels themselves, FLA's and ours, are called as they are. Layers of one class and shape share what is compiled. In
    evaluation the layers run as written.

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
    """Have compiled code call the kernels that FLA's layers import instead of compiling them.

    The autograd of these functions and modules, their tuning and their choice of an implementation are Python that
    must run. Once per process and for all of it: those classes stay out of any other torch.compile there too.
    """
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


EAGER = Fused(embedding, residual, loss)
