"""Causal softmax attention with flash-attn's call, through PyTorch's scaled_dot_product_attention."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

# cuDNN's kernel, which PyTorch may prefer on an H100, is built anew for every number of keys, so at every decoded
# token: 10 ms a call (measured; 0.1 without it).
NOT_CUDNN = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, window_size: tuple[int, int] = (-1, -1),
    softmax_scale: float | None = None,
) -> Tensor:  # fmt: skip
    """`flash_attn_func`'s contract, in which the last query meets the last key.

    Args:
        q: [B, Tq, H, D]. k, v: [B, Tk, G, D], G a divisor of H; query head h reads group h // (H / G).
        causal: position i sees keys up to i.
        window_size: (left, right): keys that many positions back and ahead are seen; -1 means no limit.
        softmax_scale: default D^-0.5.

    Returns:
        [B, Tq, H, D].
    """
    queries, keys, left = q.shape[1], k.shape[1], window_size[0]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    limited = 0 <= left < keys - 1
    # Without a mask PyTorch picks its flash kernel; a single query sees every key, so it needs none.
    plain = causal and not limited and queries == keys
    mask = None
    if causal and not plain and (limited or queries > 1):
        positions = torch.arange(keys - queries, keys, device=q.device)[:, None]
        back = positions - torch.arange(keys, device=q.device)[None]
        mask = (back >= 0) & (back <= left) if limited else back >= 0
    if mask is not None and q.shape[1] != k.shape[1]:
        # with a mask, grouped heads would push CUDA to its unfused kernel
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    with sdpa_kernel(NOT_CUDNN) if queries < keys else nullcontext():
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=plain, scale=softmax_scale, enable_gqa=q.shape[1] != k.shape[1]
        )
    return out.transpose(1, 2)


def attend_varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None, **options: Any,
) -> Tensor:  # fmt: skip
    """`flash_attn_varlen_func`'s contract, q [sum Tq, H, D] and k, v [sum Tk, G, D] laid end to end."""
    starts_q, starts_k = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    out = [
        attend(q[None, qs:qe], k[None, ks:ke], v[None, ks:ke], **options)[0]
        for qs, qe, ks, ke in zip(starts_q, starts_q[1:], starts_k, starts_k[1:], strict=False)
    ]
    return torch.cat(out)
