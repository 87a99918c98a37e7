"""Rotary positions on CUDA: queries and keys turned in one launch, each direction.

FLA's kernel gives a program as many positions as there are steps per multiprocessor: two at 256 steps, so that a small
model's step spends its time on starting programs, and clears its output first and copies its gradient. At MQAR's size
(d_model 64, 2 layers, 256 x 256 tokens, H100) its eight launches were 0.33 of the 1.60 ms that a step kept the GPU
busy.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048  # pairs of channels per program: 16 per thread of 4 warps


@triton.jit
def _turn(
    q, k, q_out, k_out, cos, sin, q_rows, k_rows, q_heads, k_heads, q_blocks, T, first,
    D: tl.constexpr, R: tl.constexpr, BACK: tl.constexpr, ROWS: tl.constexpr, HALF: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    x, y, rows, heads = q, q_out, q_rows, q_heads
    if block >= q_blocks:
        x, y, rows, heads = k, k_out, k_rows, k_heads
        block -= q_blocks
    row = block * ROWS + tl.arange(0, ROWS)  # of [B, T, heads]
    angle = ((row // heads) % T + first)[:, None] * R
    at, pair = row[:, None].to(tl.int64) * D, tl.arange(0, HALF)[None, :]
    there = row[:, None] < rows
    inside = there & (pair < R)
    c = tl.load(cos + angle + pair, mask=inside, other=1.0).to(tl.float32)
    s = tl.load(sin + angle + pair, mask=inside, other=0.0).to(tl.float32)
    if BACK:
        s = -s
    a = tl.load(x + at + pair, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x + at + R + pair, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + at + pair, a * c - b * s, mask=inside)
    tl.store(y + at + R + pair, a * s + b * c, mask=inside)
    if TAIL:  # channels that are not turned
        rest = 2 * R + tl.arange(0, TAIL)[None, :]
        kept = there & (rest < D)
        tl.store(y + at + rest, tl.load(x + at + rest, mask=kept), mask=kept)


def _run(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, first: int, back: bool) -> tuple[Tensor, Tensor]:
    q, k = q.contiguous(), k.contiguous()
    out = torch.empty_like(q), torch.empty_like(k)
    steps, width, turned = q.shape[1], q.shape[3], cos.shape[1]
    half, tail = triton.next_power_of_2(turned), width - 2 * turned
    rows = max(1, BLOCK // half)
    sizes = q.numel() // width, k.numel() // width
    blocks = [triton.cdiv(size, rows) for size in sizes]
    rest = triton.next_power_of_2(tail) if tail else 0
    with torch.cuda.device_of(q):  # Triton launches on the current one
        _turn[(sum(blocks),)](
            q, k, *out, cos, sin, *sizes, q.shape[2], k.shape[2], blocks[0], steps, first,
            D=width, R=turned, BACK=back, ROWS=rows, HALF=half, TAIL=rest, num_warps=4,
        )  # fmt: skip
    return out


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, first: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        ctx.first = first
        return _run(q, k, cos, sin, first, back=False)

    @staticmethod
    def backward(ctx: Any, d_q: Tensor, d_k: Tensor) -> Any:  # type: ignore[override]
        return *_run(d_q, d_k, *ctx.saved_tensors, ctx.first, back=True), None, None, None


def rotary_triton(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
    """Turn the first 2R channels by position (Su et al. 2021, arXiv 2104.09864, equation 34).

    The pairs are (i, R + i). Computed in fp32.

    Args:
        q: [B, T, H, D]. k: [B, T, H', D], of q's dtype.
        cos, sin: [longest, R], contiguous, of the angles from position 0 on.
        first: the first position.

    Returns:
        q and k turned, in their dtype.

    Raises:
        ValueError: the positions are not all in the tables, or 2R is above D: the kernel would read what is not theirs.
    """
    (longest, pairs), steps, width = cos.shape, q.shape[1], q.shape[3]
    if first < 0 or first + steps > longest:
        raise ValueError(f"positions {first} to {first + steps - 1} are not all in a rotary table of {longest}")
    if 2 * pairs > width:
        raise ValueError(f"rotary embedding of {2 * pairs} channels, and a head has {width}")
    return _Rotary.apply(q, k, cos, sin, first)
