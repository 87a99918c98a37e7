"""MesaNet: each step solves a regularised least-squares problem over its past (arXiv 2506.05233).

    R_t = e^{g_t} R_{t-1} + beta_t k_t k_t^T        S_t = e^{g_t} S_{t-1} + beta_t k_t v_t^T        R: [K, K], S: [K, V]
    o_t = S_t^T x_t,  (R_t + diag(lambda)) x_t = q_t

Conjugate gradients solve all systems of a sequence at once. No R_t is formed: R_t x_t over all t is linear attention
with x as the query and the keys as values. The backward pass differentiates the solution, not the iterations: with
A x = q, dq = A^{-1} dx (A is symmetric) and A's own gradient is that of -(dq . A x) at fixed x.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attnlab.kernels.cpu.norms import l2norm
from attnlab.kernels.cpu.recurrent.linear_rnn import causal_masks, fold
from attnlab.kernels.cpu.varlen import by_sequence, if_wanted
from attnlab.kernels.dispatch import substitute

CHUNK = 64
GUARD = 1e-5  # FLA's, added to both of conjugate gradients' denominators

Apply = Callable[[Tensor], Tensor]


def conjugate_gradients(apply: Apply, q: Tensor, iterations: int) -> Tensor:
    """Solve apply(x) = q from x = 0, for a symmetric positive definite `apply`."""
    x, residual = torch.zeros_like(q), q
    direction, size = residual, residual.square().sum(-1, keepdim=True)
    for _ in range(iterations):
        image = apply(direction)
        step = size / ((direction * image).sum(-1, keepdim=True) + GUARD)
        x, residual = x + step * direction, residual - step * image
        previous, size = size, residual.square().sum(-1, keepdim=True)
        direction = residual + size / (previous + GUARD) * direction
    return x


class _Correct(torch.autograd.Function):
    """0 forward; backward, what its input would pass on through `apply`'s inverse.

    x + correct(q - apply(x)) is then x, with the gradients of the exact solution in q and in all that `apply` holds.
    """

    @staticmethod
    def forward(ctx: Any, residual: Tensor, apply: Apply, iterations: int) -> Tensor:
        ctx.operator, ctx.iterations = apply, iterations
        return torch.zeros_like(residual)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        with torch.no_grad():
            return conjugate_gradients(ctx.operator, grad.contiguous(), ctx.iterations), None, None


def solve(apply: Apply, q: Tensor, iterations: int) -> Tensor:
    """`conjugate_gradients`, differentiable in q and in the tensors that `apply` closes over."""
    with torch.no_grad():
        x = conjugate_gradients(apply, q, iterations)
    return x + _Correct.apply(q - apply(x), apply, iterations) if torch.is_grad_enabled() else x


def _chunk_starts(written: Tensor, decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """States at the chunks' starts and at the end, from written [B, H, N, K, V], decay [B, H, N, 1, 1]."""
    starts = []
    # unbind: indexing chunk by chunk would cost a full-size gradient per chunk, quadratic in T
    for kept, wrote in zip(decay.unbind(2), written.unbind(2), strict=True):
        starts.append(state)
        state = kept * state + wrote
    return torch.stack(starts, 2), state


def mesa(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, lamb: Tensor, initial_state: Any, iterations: int
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The equations above over T steps.

    Args:
        q, k: [B, T, H, K], of unit length. v: [B, T, H, V]. g, beta: [B, T, H]. lamb: [H, K], positive.
        initial_state: (R [B, H, K, K], S [B, H, K, V]), either or both None for zeros.

    Returns:
        o [B, T, H, V] in fp32, and (R, S) after the last step.
    """
    steps, size = q.shape[1], min(CHUNK, 1 << (q.shape[1] - 1).bit_length())
    qc, kc, vc = (fold(x.float(), size) for x in (q, k, v))
    after = fold(g.float().unsqueeze(-1), size).cumsum(-2)  # log decay since the chunk's start, [B, H, N, C, 1]
    rate = fold(beta.float().unsqueeze(-1), size)
    keep, _ = causal_masks(qc)
    within = (after - after.mT).masked_fill(~keep, -torch.inf).exp() * rate.mT
    lasting = (kc * rate * (after[..., -1:, :] - after).exp()).mT
    whole, since = after[..., -1:, :].exp(), after.exp()
    begin = [None, None] if initial_state is None else list(initial_state)
    begin = [
        qc.new_zeros(*qc.shape[:2], qc.shape[-1], x.shape[-1]) if s is None else s.float()
        for s, x in zip(begin, (kc, vc), strict=True)
    ]
    R, R_end = _chunk_starts(lasting @ kc, whole, begin[0])
    S, S_end = _chunk_starts(lasting @ vc, whole, begin[1])
    ridge = lamb.float()[None, :, None, None, :]

    def apply(x: Tensor) -> Tensor:
        # R x, not R^T x: R is symmetric, but the gradient of a state it began with need not be
        return (x * since) @ R.mT + ((x @ kc.mT) * within) @ kc + ridge * x

    x = solve(apply, qc, iterations)
    o = (x * since) @ S + ((x @ kc.mT) * within) @ vc
    return o.movedim(1, 3).flatten(1, 2)[:, :steps], (R_end, S_end)


@by_sequence("q", "k", "v", "g", "beta")
def _with_states(q, k, v, g, beta, lamb, initial_state, iterations):
    return mesa(q, k, v, g, beta, lamb, initial_state, iterations)


# On every device: on an H100 with Triton 3.7.1 FLA's backward gives b_proj a gradient several times its size, and with
# bf16 inputs reads memory that is not its own.
@substitute("fla.ops.mesa_net.chunk:chunk_mesa_net", every_device=True)
def chunk_mesa_net(
    q, k, v, g, beta, lamb, h_kk_init, h_kv_init, output_final_state, max_CG_iteration, use_qk_l2norm_in_kernel,
    cu_seqlens=None,
):  # fmt: skip
    """`mesa`, with its states as separate arguments and results."""
    if use_qk_l2norm_in_kernel:
        q, k = l2norm(q), l2norm(k)
    start = None if h_kk_init is None and h_kv_init is None else (h_kk_init, h_kv_init)
    o, (R, S) = _with_states(
        q=q, k=k, v=v, g=g, beta=beta, lamb=lamb, initial_state=start, iterations=max_CG_iteration,
        cu_seqlens=cu_seqlens,
    )  # fmt: skip
    return o.to(q.dtype), if_wanted(R, output_final_state), if_wanted(S, output_final_state)


@substitute("fla.ops.mesa_net.decoding_one_step:mesa_net_decoding_one_step")
def mesa_net_decoding_one_step(q, k, v, g, lamb, beta, prev_h_kk, prev_h_kv, max_CG_iteration):
    """One step per sequence: q, k [B, H, K], already of unit length.

    The solution is sought from 0, as in `chunk_mesa_net`, so that decoding gives what reading the whole text gives.
    FLA's kernel begins here from q / diag(R + diag(lambda)), another number where the iterations are few.
    """
    q, k, v, g, beta = (x.unsqueeze(1) for x in (q, k, v, g, beta))
    o, (R, S) = mesa(q, k, v, g, beta, lamb, (prev_h_kk, prev_h_kv), max_CG_iteration)
    return o.squeeze(1).to(v.dtype), R, S
