"""Mamba's selective scan on CUDA, for where the `mamba_ssm` package is missing: `scan.selective_scan` in Triton.

One program carries the states of BLOCK_E channels of one sequence, [BLOCK_E, N] in fp32, through time, so that nothing
of size B x T x E x N reaches memory. The forward pass keeps the state at every CHUNK-th step; the backward pass goes
from the last chunk to the first, runs each again from the state kept, and then back through it:

    h_t = a_t h_{t-1} + dt_t B_t x_t,  a_t = e^{dt_t A},  y_t = C_t h_t + D x_t
    dh_t = C_t dy_t + a_{t+1} dh_{t+1}
    dx_t = D dy_t + dt_t sum_n B_t dh_t          d dt_t = sum_n (A a_t h_{t-1} + B_t x_t) dh_t
    dB_t = dt_t sum_e x_t dh_t                   dC_t = sum_e dy_t h_t
    dA = sum_t dt_t a_t h_{t-1} dh_t             dD = sum_t x_t dy_t

Sums over channels (dB, dC) are written per block of channels and added up afterwards, without atomics: two runs give
the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK = 32  # steps between kept states, and steps of states at a time in the backward pass's scratch memory
BLOCK_E = 32  # channels per program; times N = 16 states that is 4 per thread of 4 warps


@triton.jit
def _forward(
    x, delta, A, B, C, D, start, y, kept, last, T, E, N,
    HAS_D: tl.constexpr, HAS_START: tl.constexpr, CHUNK: tl.constexpr, BE: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    b, e, n = tl.program_id(0).to(tl.int64), tl.program_id(1) * BE + tl.arange(0, BE), tl.arange(0, BN)
    in_e, in_n = e < E, n < N
    inside = in_e[:, None] & in_n[None, :]
    en = e[:, None] * N + n[None, :]
    rate = tl.load(A + en, mask=inside, other=0.0).to(tl.float32)
    if HAS_D:
        skip = tl.load(D + e, mask=in_e, other=0.0).to(tl.float32)
    h = tl.zeros([BE, BN], dtype=tl.float32)
    if HAS_START:
        h += tl.load(start + b * E * N + en, mask=inside, other=0.0).to(tl.float32)
    chunks = tl.cdiv(T, CHUNK)
    for t in range(0, T):
        if t % CHUNK == 0:
            tl.store(kept + (b * chunks + t // CHUNK) * E * N + en, h, mask=inside)
        row, col = (b * T + t) * E + e, (b * T + t) * N + n
        xt = tl.load(x + row, mask=in_e, other=0.0).to(tl.float32)
        dt = tl.load(delta + row, mask=in_e, other=0.0).to(tl.float32)
        Bt = tl.load(B + col, mask=in_n, other=0.0).to(tl.float32)
        Ct = tl.load(C + col, mask=in_n, other=0.0).to(tl.float32)
        h = tl.exp(dt[:, None] * rate) * h + (dt * xt)[:, None] * Bt[None, :]
        out = tl.sum(h * Ct[None, :], axis=1)
        if HAS_D:
            out += skip * xt
        tl.store(y + row, out, mask=in_e)
    tl.store(last + b * E * N + en, h, mask=inside)


@triton.jit
def _backward(
    x, delta, A, B, C, D, kept, scratch, dy, dlast, dx, ddelta, dA, dB, dC, dD, dstart, T, E, N,
    HAS_D: tl.constexpr, CHUNK: tl.constexpr, BE: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    b, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    batch, blocks = tl.num_programs(0), tl.num_programs(1)
    e, n = block * BE + tl.arange(0, BE), tl.arange(0, BN)
    in_e, in_n = e < E, n < N
    inside = in_e[:, None] & in_n[None, :]
    en = e[:, None] * N + n[None, :]
    mine = scratch + (b * blocks + block) * CHUNK * BE * BN + tl.arange(0, BE)[:, None] * BN + n[None, :]
    rate = tl.load(A + en, mask=inside, other=0.0).to(tl.float32)
    if HAS_D:
        skip = tl.load(D + e, mask=in_e, other=0.0).to(tl.float32)
    dh = tl.load(dlast + b * E * N + en, mask=inside, other=0.0).to(tl.float32)
    drate, dskip = tl.zeros([BE, BN], dtype=tl.float32), tl.zeros([BE], dtype=tl.float32)
    chunks = tl.cdiv(T, CHUNK)
    for back in range(0, chunks):
        chunk = chunks - 1 - back
        begin = chunk * CHUNK
        steps = tl.minimum(CHUNK, T - begin)
        h = tl.load(kept + (b * chunks + chunk) * E * N + en, mask=inside, other=0.0)
        for i in range(0, steps):  # slot i: the state before step begin + i
            tl.store(mine + i * BE * BN, h)
            row, col = (b * T + begin + i) * E + e, (b * T + begin + i) * N + n
            xt = tl.load(x + row, mask=in_e, other=0.0).to(tl.float32)
            dt = tl.load(delta + row, mask=in_e, other=0.0).to(tl.float32)
            Bt = tl.load(B + col, mask=in_n, other=0.0).to(tl.float32)
            h = tl.exp(dt[:, None] * rate) * h + (dt * xt)[:, None] * Bt[None, :]
        tl.debug_barrier()
        for j in range(0, steps):
            i = steps - 1 - j
            before = tl.load(mine + i * BE * BN)
            row, col = (b * T + begin + i) * E + e, (b * T + begin + i) * N + n
            xt = tl.load(x + row, mask=in_e, other=0.0).to(tl.float32)
            dt = tl.load(delta + row, mask=in_e, other=0.0).to(tl.float32)
            Bt = tl.load(B + col, mask=in_n, other=0.0).to(tl.float32)
            Ct = tl.load(C + col, mask=in_n, other=0.0).to(tl.float32)
            dyt = tl.load(dy + row, mask=in_e, other=0.0).to(tl.float32)
            a = tl.exp(dt[:, None] * rate)
            faded = a * before
            after = faded + (dt * xt)[:, None] * Bt[None, :]
            dh += dyt[:, None] * Ct[None, :]
            into = tl.sum(dh * Bt[None, :], axis=1)
            out = dt * into
            if HAS_D:
                out += skip * dyt
                dskip += xt * dyt
            tl.store(dx + row, out, mask=in_e)
            tl.store(ddelta + row, xt * into + tl.sum(dh * rate * faded, axis=1), mask=in_e)
            part = (block * batch * T).to(tl.int64) * N + col
            tl.store(dB + part, tl.sum(dh * (dt * xt)[:, None], axis=0), mask=in_n)
            tl.store(dC + part, tl.sum(dyt[:, None] * after, axis=0), mask=in_n)
            drate += dh * dt[:, None] * faded
            dh = dh * a
        tl.debug_barrier()  # the next chunk writes over the scratch memory
    tl.store(dstart + b * E * N + en, dh, mask=inside)
    tl.store(dA + b * E * N + en, drate, mask=inside)
    if HAS_D:
        tl.store(dD + b * E + e, dskip, mask=in_e)


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, delta, A, B, C, D, start) -> tuple[Tensor, Tensor]:
        x, delta, A, B, C = (t.contiguous() for t in (x, delta, A, B, C))
        (batch, T, E), N = x.shape, A.shape[-1]
        y = torch.empty(batch, T, E, dtype=torch.float32, device=x.device)
        kept = torch.empty(batch, triton.cdiv(T, CHUNK), E, N, dtype=torch.float32, device=x.device)
        last = torch.empty(batch, E, N, dtype=torch.float32, device=x.device)
        shape = {"CHUNK": CHUNK, "BE": BLOCK_E, "BN": triton.next_power_of_2(N)}
        _forward[(batch, triton.cdiv(E, BLOCK_E))](
            x, delta, A, B, C, A if D is None else D.contiguous(), A if start is None else start.contiguous(), y, kept,
            last, T, E, N, HAS_D=D is not None, HAS_START=start is not None, **shape,
        )  # fmt: skip
        ctx.save_for_backward(x, delta, A, B, C, D, start, kept)
        return y, last

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        x, delta, A, B, C, D, start, kept = ctx.saved_tensors
        (batch, T, E), N, blocks = x.shape, A.shape[-1], triton.cdiv(x.shape[-1], BLOCK_E)

        def new(*size: int) -> Tensor:
            return torch.empty(*size, dtype=torch.float32, device=x.device)

        states = triton.next_power_of_2(N)
        dx, ddelta, dA, dstart = new(batch, T, E), new(batch, T, E), new(batch, E, N), new(batch, E, N)
        dB, dC, dD = new(blocks, batch, T, N), new(blocks, batch, T, N), new(batch, E)
        _backward[(batch, blocks)](
            x, delta, A, B, C, A if D is None else D.contiguous(), kept, new(batch * blocks, CHUNK, BLOCK_E, states),
            dy.contiguous(), dlast.contiguous(), dx, ddelta, dA, dB, dC, dD, dstart, T, E, N,
            HAS_D=D is not None, CHUNK=CHUNK, BE=BLOCK_E, BN=states,
        )  # fmt: skip
        return (
            dx.to(x.dtype), ddelta.to(delta.dtype), dA.sum(0).to(A.dtype), dB.sum(0).to(B.dtype),
            dC.sum(0).to(C.dtype), None if D is None else dD.sum(0).to(D.dtype),
            None if start is None else dstart.to(start.dtype),
        )  # fmt: skip


def selective_scan_triton(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`scan.selective_scan` on CUDA."""
    return _SelectiveScan.apply(x, delta, A, B, C, D, initial_state)
