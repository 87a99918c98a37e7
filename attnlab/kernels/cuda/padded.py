"""Padding with zeros for shapes that FLA 0.6's Triton kernels get wrong or refuse.

Seen on an H100 with Triton 3.7.1 (`tests/tools/compare_with_cuda.py`). Zero channels add nothing to a product of
queries and keys, zero values give zero outputs, and steps behind the last one are not seen by those before: what is
computed stays the same. CPU tensors do not come here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

WALL_BLOCK = 128  # the largest block of steps its kernels choose
WIDE_HEAD = 64


def patch() -> None:
    """Put the padding where FLA's layers call the kernels; once, after `install` routed them."""
    from fla.layers import log_linear_mamba2, path_attn, wall_attn

    _wrap(log_linear_mamba2, "chunk_log_linear_attn", _log_linear)
    _wrap(path_attn, "parallel_path_attn", _path)
    _wrap(wall_attn, "parallel_wall_attn", _wall)


def _wrap(module: Any, name: str, pad: Callable[..., Any]) -> None:
    original = getattr(module, name)

    @functools.wraps(original)
    def run(q: Tensor, *args: Any, **kwargs: Any) -> Any:
        return pad(original, q, *args, **kwargs) if q.is_cuda else original(q, *args, **kwargs)

    setattr(module, name, run)


def widened(x: Tensor, width: int) -> Tensor:
    """[..., C] with zeros up to [..., width]."""
    return F.pad(x, (0, width - x.shape[-1])) if x.shape[-1] < width else x


def power_of_two(n: int) -> int:
    """The smallest at or above n."""
    return 1 << (n - 1).bit_length()


def _wall(original: Any, q: Tensor, k: Tensor, v: Tensor, g: Tensor, g_scalar=None, cu_seqlens=None, **kwargs: Any):
    """With a last block that is not full the gradients are NaN."""
    steps, missing = q.shape[1], -q.shape[1] % WALL_BLOCK
    if cu_seqlens is not None or not missing:
        return original(q, k, v, g, g_scalar=g_scalar, cu_seqlens=cu_seqlens, **kwargs)
    q, k, v, g = (F.pad(x, (0, 0, 0, 0, 0, missing)) for x in (q, k, v, g))
    g_scalar = None if g_scalar is None else F.pad(g_scalar, (0, 0, 0, missing))
    return original(q, k, v, g, g_scalar=g_scalar, **kwargs)[:, :steps]


def _path(original: Any, q: Tensor, k: Tensor, v: Tensor, w: Tensor, scale: float | None = None, **kwargs: Any):
    """With heads narrower than 64 the backward kernel reads memory that is not its own."""
    width = v.shape[-1]
    scale = k.shape[-1] ** -0.5 if scale is None else scale
    q, k, v, w = (widened(x, WIDE_HEAD) for x in (q, k, v, w))
    o, cached = original(q=q, k=k, v=v, w=w, scale=scale, **kwargs)
    return o[..., :width], None if cached is None else cached[..., :width]


def _log_linear(original: Any, q: Tensor, k: Tensor, v: Tensor, g: Tensor, level_scales: Tensor, **kwargs: Any):
    """Fit the kernel: widths it has, and one dtype for all except the decay.

    States are of a multiple of 64 channels, heads of a power of two. The level scales stay fp32 under autocast, and
    FLA's own bf16 models have them in bf16.
    """
    width, states = v.shape[-1], -(-k.shape[-1] // 64) * 64
    q, k, v = widened(q, states), widened(k, states), widened(v, power_of_two(width))
    q, k, level_scales = (x.to(v.dtype) for x in (q, k, level_scales))
    o, state = original(q=q, k=k, v=v, g=g, level_scales=level_scales, **kwargs)
    return o[..., :width], state
