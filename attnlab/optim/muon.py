"""Muon, batched over matrices of one shape."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

# Quintic Newton-Schulz coefficients: steepest at zero among those that keep singular values near 1 (Keller Jordan,
# "Muon: an optimizer for hidden layers in neural networks", 2024, kellerjordan.github.io/posts/muon). With 5 steps the
# singular values end within about [0.7, 1.2], unless they start far below the largest.
NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NS_STEPS = 5
NS_EPS = 1e-7  # floor of the Frobenius norm: a zero gradient gives a zero update, not NaN (same write-up)
ADAM_RMS = 0.2  # root mean square of a typical AdamW update, in units of lr (Liu et al. 2025, section 2.2)
MAX_BATCH_ELEMENTS = 1 << 26  # of one Newton-Schulz batch: 256 MiB in fp32, so that large models keep a bounded peak


def orthogonalize(matrices: Tensor, steps: int = NS_STEPS) -> Tensor:
    """Push the singular values of each matrix towards 1: near U V^T for U S V^T.

    X <- X / |X|_F, then `steps` times X <- a X + (b A + c A A) X with A = X X^T (Jordan 2024). In bf16 on CUDA,
    where the iteration is stable and the tensor cores are fast; in fp32 on CPU.

    Args:
        matrices: [N, R, C], R <= C (the Gram matrix is then the small one), any floating dtype.

    Returns:
        [N, R, C] in the dtype the iteration ran in.
    """
    a, b, c = NS_COEFFICIENTS
    x = matrices.float()  # the norm of a large bf16 matrix is off by percents
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=NS_EPS)
    x = x.bfloat16() if x.is_cuda else x
    for _ in range(steps):
        gram = x @ x.mT
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, poly, x, beta=a)
    return x


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton-Schulz, for 2-D parameters (Jordan 2024; Liu et al. 2025, arXiv 2502.16982).

    For a matrix W [R, C] with gradient G, momentum mu, rate lr and decay wd:

        M <- mu M + (1 - mu) G;   U = (1 - mu) G + mu M                (Nesterov)
        W <- (1 - lr wd) W - lr 0.2 sqrt(max(R, C)) orthogonalize(U)

    U V^T has a root mean square of 1 / sqrt(max(R, C)), so an update's is 0.2 lr, as AdamW's (Liu et al., section 2.2).

    Matrices of one shape, or of its transpose, go through one batched iteration: small models are bound by launches,
    and a model has few distinct shapes. `lr` may be a 0-dim tensor on the parameters' device. Nothing is read back
    from the device and the momentum exists from the start, so `step` can be captured in a CUDA graph at once.

    Args:
        params: 2-D parameters, or groups of them with settings of their own.
        lr: the rate shared with AdamW; a float or a 0-dim fp32 tensor.
        weight_decay: decoupled, multiplied by `lr`.
        momentum: mu, in [0, 1).

    Raises:
        ValueError: a parameter without exactly two axes, or a setting out of range.
    """

    def __init__(
        self, params: Iterable[Any], lr: float | Tensor = 3e-3, weight_decay: float = 0.1, momentum: float = 0.95
    ):
        if float(lr) < 0 or weight_decay < 0 or not 0 <= momentum < 1:
            raise ValueError(f"lr {lr}, weight_decay {weight_decay}, momentum {momentum}; >= 0, momentum below 1")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        for group in self.param_groups:
            for param in group["params"]:
                if param.ndim != 2:
                    raise ValueError(f"Muon takes matrices; one parameter is of shape {tuple(param.shape)}")
                self.state[param]["momentum_buffer"] = torch.zeros_like(param)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if not params:
                continue
            lr, momentum = group["lr"], group["momentum"]
            grads = [param.grad for param in params]
            buffers = [self.state[param]["momentum_buffer"] for param in params]
            torch._foreach_lerp_(buffers, grads, 1.0 - momentum)
            updates = torch._foreach_lerp(grads, buffers, momentum)
            if group["weight_decay"]:
                torch._foreach_mul_(params, 1.0 - lr * group["weight_decay"])
            for batch in _batches(params):
                scale = ADAM_RMS * math.sqrt(max(params[batch[0]].shape))
                steps = _orthogonalize_all([updates[i] for i in batch], lr * scale)
                torch._foreach_sub_([params[i] for i in batch], steps)
        return loss


def _batches(params: list[Tensor]) -> Iterator[list[int]]:
    """Indices of parameters to orthogonalise together: equal up to transposition, wide ones before tall ones."""
    kinds: dict[Any, list[int]] = {}
    for i, param in enumerate(params):
        kinds.setdefault((*sorted(param.shape), param.dtype, param.device), []).append(i)
    for indices in kinds.values():
        indices.sort(key=lambda i: params[i].shape[0] > params[i].shape[1])  # stable, so the order is the model's
        size = max(1, MAX_BATCH_ELEMENTS // max(1, params[indices[0]].numel()))
        for start in range(0, len(indices), size):
            yield indices[start : start + size]


def _orthogonalize_all(updates: list[Tensor], factor: float | Tensor) -> list[Tensor]:
    """`factor` times each update, orthogonalised; `updates` as `_batches` orders them.

    Tall ones are transposed as one stack on the way in and out: copies of many small transposed views would be a kernel
    launch each, and foreach falls back to a loop when its lists differ in strides.
    """
    n_wide = sum(update.shape[0] <= update.shape[1] for update in updates)
    wide, tall = updates[:n_wide], updates[n_wide:]
    stacks = ([torch.stack(wide)] if wide else []) + ([torch.stack(tall).mT] if tall else [])
    out = orthogonalize(torch.cat(stacks)).to(updates[0].dtype) * factor
    return [*out[:n_wide].unbind(), *out[n_wide:].mT.contiguous().unbind()]
