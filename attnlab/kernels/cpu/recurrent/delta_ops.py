"""FLA's delta rules and their kin, which erase before they write, in terms of `linear_rnn`.

Each function has its FLA namesake's arguments, by name (`dispatch.substitute` fills in FLA's defaults) and keeps its
conventions: [B, T, H, D] tensors, fp32 state [N, H, K, V] ([N, H, V, K] with `state_v_first`), decays as natural
logarithms, scale K^-0.5 unless said otherwise. A final state of None is returned where none was asked for.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attnlab.kernels.cpu.norms import l2norm
from attnlab.kernels.cpu.recurrent.linear_rnn import linear_rnn
from attnlab.kernels.cpu.recurrent.scan import gated_scan
from attnlab.kernels.cpu.varlen import CHANNEL_CHUNK, by_sequence, expand_heads, if_wanted, scale_of, swap_state
from attnlab.kernels.dispatch import substitute


def _delta(q, k, v, beta, g, scale, initial_state, erase_key=None, erase_undecayed=False):
    """The delta rule S_t = e^g S + beta k (v - p^T S')^T.

    p is k unless `erase_key`; S' is e^g S, or S with `erase_undecayed`. q, k, p may have fewer heads than v; beta [B,
    T, H] or None for 1; g [B, T, H], [B, T, H, K] or None.
    """
    heads = v.shape[2]
    erase_key = k if erase_key is None else erase_key
    q, k, erase_key = (expand_heads(x, heads) for x in (q, k, erase_key))
    erase = -erase_key.float()
    if g is not None and not erase_undecayed:
        erase = erase * (g if g.dim() == 4 else g.unsqueeze(-1)).float().exp()
    written = k.float() if beta is None else beta.float().unsqueeze(-1) * k.float()
    return linear_rnn(
        q, written, v, g, erase=erase, write=written, scale=scale, initial_state=initial_state, chunk=CHANNEL_CHUNK
    )


def _unit(wanted: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(l2norm(x) for x in tensors) if wanted else tensors


@substitute(
    "fla.ops.delta_rule.chunk:chunk_delta_rule", "fla.ops.delta_rule.fused_recurrent:fused_recurrent_delta_rule"
)
@by_sequence("q", "k", "v", "beta")
def delta_rule(q, k, v, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, beta=None):
    """DeltaNet (Yang et al. 2024, arXiv 2406.06484, equation 1); beta [B, T, H]."""
    q, k = _unit(use_qk_l2norm_in_kernel, q, k)
    beta = torch.ones_like(q[..., 0]) if beta is None else beta
    o, final = _delta(q, k, v, beta, None, scale_of(scale, q), initial_state)
    return o, if_wanted(final, output_final_state)


@substitute("fla.ops.kda.gate:fused_kda_gate")
def kda_gate(g: Tensor, A_log=None, dt_bias=None, lower_bound=None, output_dtype=torch.float32) -> Tensor:
    """Log decay from a raw gate g, [B, T, H] or [B, T, H, K].

    -exp(A_log) softplus(g + dt_bias), or with `lower_bound` lower_bound * sigmoid(exp(A_log) (g + dt_bias)); A_log [H].
    """
    g = g.float()
    if dt_bias is not None:
        g = g + dt_bias.float().view(g.shape[2:])
    rate = torch.ones((), device=g.device) if A_log is None else A_log.float().exp().view(-1)
    rate = rate.unsqueeze(-1) if g.dim() == 4 and rate.dim() else rate
    g = -rate * F.softplus(g) if lower_bound is None else lower_bound * torch.sigmoid(rate * g)
    return g.to(output_dtype)


@substitute(
    "fla.ops.gated_delta_rule.chunk:chunk_gated_delta_rule",
    "fla.ops.gated_delta_rule.fused_recurrent:fused_recurrent_gated_delta_rule",
    "fla.ops.kda.chunk:chunk_kda",
    "fla.ops.kda.fused_recurrent:fused_recurrent_kda",
)
@by_sequence("q", "k", "v", "g", "gk", "beta")
def gated_delta_rule(
    q, k, v, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, use_beta_sigmoid_in_kernel,
    allow_neg_eigval, state_v_first, beta, g=None, gk=None, use_gate_in_kernel=False, A_log=None, dt_bias=None,
    lower_bound=None,
):  # fmt: skip
    """Gated DeltaNet (arXiv 2412.06464, equation 10); KDA with a decay per key channel.

    Args:
        g: log decay [B, T, H] or [B, T, H, K]; with `use_gate_in_kernel` the raw gate, of which `kda_gate` makes it.
        beta: [B, T, H], or its logit with `use_beta_sigmoid_in_kernel` (doubled after with `allow_neg_eigval`).
    """
    q, k = _unit(use_qk_l2norm_in_kernel, q, k)
    g = gk if g is None else g
    if use_gate_in_kernel:
        g = kda_gate(g, A_log, dt_bias, lower_bound)
    if use_beta_sigmoid_in_kernel:
        beta = beta.float().sigmoid() * (2.0 if allow_neg_eigval else 1.0)
    o, final = _delta(q, k, v, beta, g, scale_of(scale, q), swap_state(initial_state, state_v_first))
    return o, if_wanted(swap_state(final, state_v_first), output_final_state)


@substitute("fla.ops.gated_delta_product.chunk:chunk_gated_delta_product")
@by_sequence("q", "k", "v", "g", "beta")
def gated_delta_product(
    q, k, v, beta, num_householder, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, g=None
):  # fmt: skip
    """DeltaProduct (arXiv 2502.10297): n = `num_householder` delta-rule steps per token.

    It decays before the first and reads after the last. q [B, T, H, K]; g [B, T, H] or None; k, v [B, n T, H, K or V];
    beta [B, n T, H].
    """
    q, k = _unit(use_qk_l2norm_in_kernel, q, k)
    n, (batch, steps) = num_householder, q.shape[:2]

    def spread_to(step: int, x: Tensor) -> Tensor:
        """Put x at one of each token's n steps, zeros at the others."""
        spread = x.new_zeros(batch, steps, n, *x.shape[2:])
        spread[:, :, step] = x
        return spread.flatten(1, 2)

    decay = None if g is None else spread_to(0, g)
    o, final = _delta(spread_to(n - 1, q), k, v, beta, decay, scale_of(scale, q), initial_state)
    return o.unflatten(1, (steps, n))[:, :, -1], if_wanted(final, output_final_state)


@substitute("fla.ops.comba.chunk:chunk_comba", "fla.ops.comba.fused_recurrent:fused_recurrent_comba")
@by_sequence("q", "k", "v", "p", "g", "beta")
def comba(q, k, v, p, g, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, beta=None):
    """Comba (arXiv 2506.02475): erases along p what the undecayed state held."""
    q, k, p = _unit(use_qk_l2norm_in_kernel, q, k, p)
    beta = torch.ones_like(g) if beta is None else beta
    o, final = _delta(q, k, v, beta, g, scale_of(scale, q), initial_state, erase_key=p, erase_undecayed=True)
    return o, if_wanted(final, output_final_state)


@substitute("fla.ops.gdn2.chunk:chunk_gdn2", "fla.ops.gdn2.fused_recurrent:fused_recurrent_gdn2")
@by_sequence("q", "k", "v", "g", "b", "w")
def gdn2(q, k, v, g, b, w, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, state_v_first):
    """Gated DeltaNet-2 (arXiv 2605.22791), with gates on what is erased and written.

    S_t = e^g S + k (w v - (b k)^T e^g S)^T, b [B, T, H, K], w [B, T, H, V].
    """
    q, k = _unit(use_qk_l2norm_in_kernel, q, k)
    start, scale = swap_state(initial_state, state_v_first), scale_of(scale, q)
    o, final = _delta(q, k, (w.float() * v.float()).to(v.dtype), None, g, scale, start, erase_key=b * k)
    return o, if_wanted(swap_state(final, state_v_first), output_final_state)


def _preconditioned(k: Tensor, g: Tensor, beta: Tensor, center: Any, start: Tensor | None, x: float, eps: float):
    """Scale k per channel by the keys' running second moment (arXiv 2604.21100).

    A_t = e^g A_{t-1} + beta k^2 is squashed to s in (-1, 1) about `center` in logarithm, and k times x^{-s} and the
    last A returned. k: [B, T, H, K]; g, beta: [B, T, H]; center: [H] or a number; start: [B, H, K].
    """
    added = beta.float().unsqueeze(-1) * k.float().square()
    decay = g.float().unsqueeze(-1).expand_as(k)
    moment, last = gated_scan(added.flatten(2), decay.flatten(2), None if start is None else start.flatten(1))
    center = -0.2 if center is None else center  # FLA's
    if isinstance(center, Tensor):
        center = center.float().view(-1, 1)
    distance = torch.log(moment.view_as(k) + eps) - center
    factor = torch.exp(-math.log(x) * distance / (1.0 + distance.abs()))
    return k.float() * factor, last.view_as(k[:, -1])


@by_sequence("q", "k", "v", "g", "g_atk", "beta", "beta_atk")
def _preconditioned_delta(q, k, v, g, g_atk, beta, beta_atk, scale, initial_state, x, eps, log_atk_scale):
    start, moment = initial_state if initial_state is not None else (None, None)
    scaled, moment = _preconditioned(k, g_atk, beta_atk, log_atk_scale, moment, x, eps)
    o, final = _delta(q, scaled, v, beta, g, scale_of(scale, q), start, erase_key=k)
    return o, (final, moment)


@substitute(
    "fla.ops.precond_gated_delta_rule.chunk:chunk_precond_gated_delta_rule",
    "fla.ops.precond_gated_delta_rule.fused_recurrent:fused_recurrent_precond_gated_delta_rule",
    "fla.ops.precond_kda.chunk:chunk_precond_kda",
    "fla.ops.precond_kda.fused_recurrent:fused_recurrent_precond_kda",
)
def preconditioned_delta_rule(
    q, k, v, g, g_atk, beta, beta_atk, scale, initial_state, initial_A_state, output_final_state, x, eps,
    log_atk_scale, transpose_state_layout, use_qk_l2norm_in_kernel=True, cu_seqlens=None, lower_bound=None,
    use_gate_in_kernel=False, A_log=None, dt_bias=None,
):  # fmt: skip
    """Preconditioned gated DeltaNet and KDA (arXiv 2604.21100).

    g is [B, T, H] or [B, T, H, K], with `use_gate_in_kernel` the raw gate, of which `kda_gate` makes it. Without,
    `lower_bound` only tells FLA's kernel how strong g can be. It erases along k and writes along the preconditioned k.
    `transpose_state_layout` is these functions' name of `state_v_first`.

    Returns:
        o, the state [B, H, K, V] and the keys' second moment [B, H, K].
    """
    q, k = _unit(use_qk_l2norm_in_kernel, q, k)
    if use_gate_in_kernel:
        g = kda_gate(g, A_log, dt_bias, lower_bound)
    before = swap_state(initial_state, transpose_state_layout)
    start = None if before is None and initial_A_state is None else (before, initial_A_state)
    o, (final, moment) = _preconditioned_delta(
        q=q, k=k, v=v, g=g, g_atk=g_atk, beta=beta, beta_atk=beta_atk, scale=scale, initial_state=start, x=x, eps=eps,
        log_atk_scale=log_atk_scale, cu_seqlens=cu_seqlens,
    )  # fmt: skip
    final = swap_state(final, transpose_state_layout)
    return o, if_wanted(final, output_final_state), if_wanted(moment, output_final_state)


@substitute(
    "fla.ops.generalized_delta_rule.dplr.chunk:chunk_dplr_delta_rule",
    "fla.ops.generalized_delta_rule.dplr.fused_recurrent:fused_recurrent_dplr_delta_rule",
)
@by_sequence("q", "k", "v", "a", "b", "gk")
def dplr_delta_rule(q, k, v, a, b, gk, scale, initial_state, output_final_state):
    """S_t = (diag(e^gk) + b a^T) S + k v^T, all [B, T, H, K]."""
    o, final = linear_rnn(
        q, k, v, gk, erase=a, write=b, scale=scale_of(scale, q), initial_state=initial_state, chunk=CHANNEL_CHUNK
    )
    return o, if_wanted(final, output_final_state)


@substitute("fla.ops.rwkv7.chunk:chunk_rwkv7", "fla.ops.rwkv7.fused_recurrent:fused_recurrent_rwkv7")
def rwkv7(r, w, k, v, a, b, scale, initial_state, output_final_state, cu_seqlens=None, lower_bound=None):
    """RWKV7 (Peng et al. 2025, arXiv 2503.14456, equation 17): DPLR with decay w.

    `lower_bound` only tells FLA's kernel how strong w can be.
    """
    return dplr_delta_rule(
        q=r, k=k, v=v, a=a, b=b, gk=w, scale=scale, initial_state=initial_state,
        output_final_state=output_final_state, cu_seqlens=cu_seqlens,
    )  # fmt: skip


@substitute("fla.ops.rwkv7.fused_recurrent:fused_mul_recurrent_rwkv7")
def fused_mul_recurrent_rwkv7(r, w, k, v, kk, a, scale, initial_state, output_final_state, cu_seqlens=None):
    """`rwkv7` that erases along -kk and writes along kk a."""
    return rwkv7(r, w, k, v, -kk, kk * a, scale, initial_state, output_final_state, cu_seqlens)
