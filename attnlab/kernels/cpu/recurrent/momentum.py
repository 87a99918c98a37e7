"""The delta rule with momentum: what a step writes is an accumulation.

    M_t = mu_t M_{t-1} - eta_t k_t x_t^T,  x_t = v_t - S_{t-1}^T p_t        S, M: [K, V]
    S_t = alpha_t S_{t-1} - beta_t M_t,    o_t = scale * S_t^T q_t

In a chunk that starts at (S, M), with A[t, i] = alpha_{i+1} .. alpha_t beta_i and U[i, j] = mu_{j+1} .. mu_i for j <= i
<= t, unrolling gives S_t = alpha_1 .. alpha_t S - (A mu)_t M + sum_j (A U)[t, j] eta_j k_j x_j^T, so that the x solve a
triangular system, as in a plain delta rule.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attnlab.kernels.cpu.norms import l2norm
from attnlab.kernels.cpu.recurrent.linear_rnn import causal_masks, fold
from attnlab.kernels.cpu.varlen import if_wanted, scale_of
from attnlab.kernels.dispatch import substitute

CHUNK = 64


def _products(log_factor: Tensor, keep: Tensor) -> Tensor:
    """The product of factors j + 1 to i where `keep`, else 0, of log_factor [B, H, N, C, 1]."""
    total = log_factor.cumsum(-2)
    return (total - total.mT).masked_fill(~keep, -torch.inf).exp()


def _previous(x: Tensor, first: float) -> Tensor:
    """Row t - 1 at row t, `first` at row 0; x: [..., C, D]."""
    return F.pad(x[..., :-1, :], (0, 0, 1, 0), value=first)


def momentum_delta_rule(q, k, v, p, log_alpha, log_mu, beta, initial_state):
    """The equations above, with eta in k and the scale in q.

    Args:
        q, k, p: [B, T, H, K]. v: [B, T, H, V]. log_alpha, log_mu, beta: [B, T, H].
        initial_state: (S, M), each [B, H, K, V], or None for zeros.

    Returns:
        o [B, T, H, V] and the last (S, M), fp32.
    """
    steps = q.shape[1]
    q, k, v, p = (fold(x.float(), CHUNK) for x in (q, k, v, p))
    log_alpha, log_mu, beta = (fold(x.float().unsqueeze(-1), CHUNK) for x in (log_alpha, log_mu, beta))
    upto, below = causal_masks(q)
    A, U = _products(log_alpha, upto) * beta.mT, _products(log_mu, upto)
    alphas, mus = log_alpha.cumsum(-2).exp(), log_mu.cumsum(-2).exp()
    from_M, from_x = A @ mus, A @ U  # [B, H, N, C, 1], [B, H, N, C, C]

    system = torch.eye(CHUNK, device=q.device) + (p @ k.mT) * _previous(from_x, 0.0).masked_fill(~below, 0.0)
    right = torch.cat([v, p * _previous(alphas, 1.0), p * _previous(from_M, 0.0)], -1)
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    x_v, x_S, x_M = solved.split([v.shape[-1], p.shape[-1], p.shape[-1]], -1)

    S, M = initial_state if initial_state is not None else (q.new_zeros(*q.shape[:2], k.shape[-1], v.shape[-1]),) * 2
    reads, read_S, read_M = (q @ k.mT) * from_x, q * alphas, q * from_M
    into_S = (k * from_x[..., -1:, :].mT).mT
    into_M = (k * U[..., -1:, :].mT).mT
    ends = (x[..., -1:, :] for x in (alphas, from_M, mus))
    parts = (x_v, x_S, x_M, reads, read_S, read_M, into_S, into_M, *ends)
    outs = []
    # unbind: indexing chunk by chunk would cost a full-size gradient per chunk, quadratic in T
    for xv, xS, xM, read, rS, rM, iS, iM, kept, moved, faded in zip(*(part.unbind(2) for part in parts), strict=True):
        x = xv - xS @ S + xM @ M
        outs.append(read @ x + rS @ S - rM @ M)
        S, M = kept * S - moved * M + iS @ x, faded * M - iM @ x
    return torch.stack(outs, 2).movedim(1, 3).flatten(1, 2)[:, :steps], (S, M)


# FLA's own is PyTorch too, and its chunked form divides by decays: at the layer's strongest momentum decay its output
# is off by 20 % from its step-by-step form, from which this one is off by 4e-7.
@substitute(
    "fla.ops.momentum_delta_rule.chunk:chunk_momentum_delta_rule",
    "fla.ops.momentum_delta_rule.fused_recurrent:fused_recurrent_momentum_delta_rule",
    every_device=True,
)
def momentum(
    q, k, v, log_alpha, log_mu, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, use_p_times_alpha,
    p=None, beta=None, eta=None,
):  # fmt: skip
    """FLA's call, in which p is k unless given, and beta and eta 1.

    `use_p_times_alpha` has x read alpha_t S_{t-1}. The state is (S, M), each [B, H, K, V]; FLA stacks them, which beam
    search then takes for two sequences.
    """
    p = k if p is None else p
    if use_qk_l2norm_in_kernel:
        q, k, p = l2norm(q), l2norm(k), l2norm(p)
    if use_p_times_alpha:
        p = p.float() * log_alpha.float().exp().unsqueeze(-1)
    beta = torch.ones_like(log_alpha) if beta is None else beta
    k = k.float() if eta is None else k.float() * eta.float().unsqueeze(-1)
    start = None if initial_state is None else tuple(part.float() for part in initial_state)
    o, final = momentum_delta_rule(q.float() * scale_of(scale, q), k, v, p, log_alpha, log_mu, beta, start)
    return o.to(v.dtype), if_wanted(final, output_final_state)
