"""Elementwise linear recurrences: the gated scan (HGRN) and Mamba's selective scan.

A loop over T of one fused multiply-add on contiguous time-major memory is the fastest form on a CPU; its gradient is
the same loop backwards, written out here so that autograd keeps one tensor instead of T. Mamba's states, N times the
size of its input, are not kept: each chunk of steps is run again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from attnlab.kernels.cuda.selective_scan import selective_scan_triton


class _Scan(torch.autograd.Function):
    """h_t = a_t h_{t-1} + x_t over dimension 0, elementwise; h0: [...] or None."""

    @staticmethod
    def forward(ctx, x: Tensor, a: Tensor, h0: Tensor | None) -> Tensor:
        h = torch.empty_like(x)
        if h0 is None:
            h[0] = x[0]
        else:
            torch.addcmul(x[0], a[0], h0, out=h[0])
        h_at, x_at, a_at = h.unbind(0), x.unbind(0), a.unbind(0)
        for t in range(1, len(h_at)):
            torch.addcmul(x_at[t], a_at[t], h_at[t - 1], out=h_at[t])
        ctx.save_for_backward(a, h, h0)
        return h

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        a, h, h0 = ctx.saved_tensors
        # to become each h_t's gradient through all of the future
        dh = grad.clone(memory_format=torch.contiguous_format)
        dh_at, a_at = dh.unbind(0), a.unbind(0)
        for t in range(len(dh_at) - 2, -1, -1):
            dh_at[t].addcmul_(a_at[t + 1], dh_at[t + 1])
        da = torch.empty_like(a)
        torch.mul(dh[1:], h[:-1], out=da[1:])
        da[0] = 0 if h0 is None else dh[0] * h0
        return dh, da, None if h0 is None else dh[0] * a[0]


def gated_scan(x: Tensor, log_decay: Tensor, initial_state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """HGRN's scan h_t = e^{g_t} h_{t-1} + x_t (arXiv 2311.04823, equation 4).

    x (already gated), log_decay (natural, <= 0): [B, T, D]; initial_state: [B, D] or None for zeros. Returns
    h [B, T, D] in x's dtype and the last state [B, D] in fp32 (fp64 for fp64 x).
    """
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    start = None if initial_state is None else initial_state.to(exact)
    steps = x.to(exact).transpose(0, 1).contiguous()
    decay = log_decay.to(exact).exp().transpose(0, 1).contiguous()
    h = _Scan.apply(steps, decay, start)
    return h.transpose(0, 1).to(x.dtype), h[-1]


def _selective(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None):
    """`selective_scan` without D, time-major: x, delta [T, B, E] and B, C [T, B, N]."""
    h = _Scan.apply((delta * x).unsqueeze(-1) * B.unsqueeze(2), (delta.unsqueeze(-1) * A).exp(), state)
    return (h @ C.unsqueeze(-1)).squeeze(-1), h[-1].clone()  # a view would keep all of h


def _recomputed(function: Callable[..., Any], *inputs: Any) -> Any:
    """function(*inputs), whose intermediate results are computed anew in backward instead of being kept."""
    if not torch.is_grad_enabled():  # where checkpoint would cost 60 us for nothing, at each decoded token
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def selective_scan(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None,
    initial_state: Tensor | None = None, chunk: int = 32,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Mamba's scan (Gu and Dao 2023, arXiv 2312.00752, algorithm 2).

    h_t = e^{dt A} h_{t-1} + dt B_t x_t;  y_t = C_t h_t + D x_t.

    Args:
        x, delta: [B, T, E], delta > 0. A: [E, N], < 0. B, C: [B, T, N]. D: [E] or None.
        initial_state: [B, E, N] or None for zeros.
        chunk: steps at a time on the CPU, so that the [chunk, B, E, N] temporaries stay in cache.

    Returns:
        y [B, T, E] and the last state [B, E, N], both fp32.
    """
    if x.is_cuda:
        return selective_scan_triton(x, delta, A, B, C, D, initial_state)
    x, delta, B, C = (t.float().transpose(0, 1) for t in (x, delta, B, C))
    A, state = A.float(), None if initial_state is None else initial_state.float()
    out = []
    # split: slicing chunk by chunk would cost a full-size gradient per chunk, quadratic in T
    for xs, ds, bs, cs in zip(*(t.split(chunk) for t in (x, delta, B, C)), strict=True):
        y, state = _recomputed(_selective, xs, ds, A, bs, cs, state)
        out.append(y)
    y = torch.cat(out)
    if D is not None:
        y = y + x * D.float()
    return y.transpose(0, 1), state
