"""FLA's delta rules and their kin, which erase before they write, in terms of `linear_rnn`.

Each function has its FLA namesake's arguments, by name (`routing.substitute` fills in FLA's defaults) and keeps its
conventions: [B, T, H, D] tensors, fp32 state [N, H, K, V] ([N, H, V, K] with `state_v_first`), decays as natural
logarithms, scale K^-0.5 unless said otherwise. A final state of None is returned where none was asked for.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attnlab.kernels.adapting import CHANNEL_CHUNK, by_sequence, expand_heads, if_wanted, scale_of, swap_state
from attnlab.kernels.linear_rnn import linear_rnn
from attnlab.kernels.norms import l2norm
from attnlab.kernels.routing import substitute


def _delta(q, k, v, beta, g, scale, initial_state, erase_key=None, erase_undecayed=False):
    """S_t = e^g S + beta k (v - p^T S')^T with p = k unless `erase_key`; S' is e^g S, or S with `erase_undecayed`."""
    heads = v.shape[2]
    erase_key = k if erase_key is None else erase_key
    q, k, erase_key = (expand_heads(x, heads) for x in (q, k, erase_key))
    erase = -erase_key.float()
    if g is not None and not erase_undecayed:
        erase = erase * (g if g.dim() == 4 else g.unsqueeze(-1)).float().exp()
    written = beta.float().unsqueeze(-1) * k.float()
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
    """DeltaNet (arXiv 2406.06484, equation 1): S_t = S + beta k (v - k^T S)^T; beta [B, T, H]."""
    q, k = _unit(use_qk_l2norm_in_kernel, q, k)
    beta = torch.ones_like(q[..., 0]) if beta is None else beta
    o, final = _delta(q, k, v, beta, None, scale_of(scale, q), initial_state)
    return o, if_wanted(final, output_final_state)


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
    """Gated DeltaNet (Yang et al. 2024, arXiv 2412.06464, equation 10), and KDA with a decay per key channel.

    Args:
        g: log decay [B, T, H] or [B, T, H, K]. With `use_gate_in_kernel` it is the raw gate instead, and the decay is
            -exp(A_log) softplus(g + dt_bias), or lower_bound * sigmoid(exp(A_log) (g + dt_bias)); A_log [H].
        beta: [B, T, H], or its logit with `use_beta_sigmoid_in_kernel` (doubled after with `allow_neg_eigval`).
    """
    q, k = _unit(use_qk_l2norm_in_kernel, q, k)
    g = gk if g is None else g
    if use_gate_in_kernel:
        g = g.float()
        per_channel = g.dim() == 4
        if dt_bias is not None:
            g = g + dt_bias.float().view(g.shape[2:])
        rate = torch.ones((), device=g.device) if A_log is None else A_log.float().exp().view(-1)
        rate = rate.unsqueeze(-1) if per_channel and rate.dim() else rate
        g = -rate * F.softplus(g) if lower_bound is None else lower_bound * torch.sigmoid(rate * g)
    if use_beta_sigmoid_in_kernel:
        beta = beta.float().sigmoid() * (2.0 if allow_neg_eigval else 1.0)
    o, final = _delta(q, k, v, beta, g, scale_of(scale, q), swap_state(initial_state, state_v_first))
    return o, if_wanted(swap_state(final, state_v_first), output_final_state)


@substitute("fla.ops.gated_delta_product.chunk:chunk_gated_delta_product")
@by_sequence("q", "k", "v", "g", "beta")
def gated_delta_product(
    q, k, v, beta, num_householder, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, g=None
):  # fmt: skip
    """DeltaProduct (arXiv 2502.10297): n delta-rule steps per token, decay before the first, read after the last.

    Args:
        q: [B, T, H, K]; g: [B, T, H] or None.
        k, v, beta: [B, n T, H, K or V], [B, n T, H]; n is `num_householder`.
    """
    q, k = _unit(use_qk_l2norm_in_kernel, q, k)
    n, (batch, steps) = num_householder, q.shape[:2]

    def at(place: int, x: Tensor) -> Tensor:
        """x at one of each token's n steps, zeros at the others."""
        spread = x.new_zeros(batch, steps, n, *x.shape[2:])
        spread[:, :, place] = x
        return spread.flatten(1, 2)

    decay = None if g is None else at(0, g)
    o, final = _delta(at(n - 1, q), k, v, beta, decay, scale_of(scale, q), initial_state)
    return o.unflatten(1, (steps, n))[:, :, -1], if_wanted(final, output_final_state)


@substitute("fla.ops.comba.chunk:chunk_comba", "fla.ops.comba.fused_recurrent:fused_recurrent_comba")
@by_sequence("q", "k", "v", "p", "g", "beta")
def comba(q, k, v, p, g, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, beta=None):
    """Comba (Hu et al. 2025, arXiv 2506.02475): erases along p what the state held before this step's decay."""
    q, k, p = _unit(use_qk_l2norm_in_kernel, q, k, p)
    beta = torch.ones_like(g) if beta is None else beta
    o, final = _delta(q, k, v, beta, g, scale_of(scale, q), initial_state, erase_key=p, erase_undecayed=True)
    return o, if_wanted(final, output_final_state)


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
    """RWKV7 (Peng et al. 2025, arXiv 2503.14456, equation 17): DPLR with decay w. `lower_bound` only tells FLA's kernel
    how strong w can be."""
    return dplr_delta_rule(
        q=r, k=k, v=v, a=a, b=b, gk=w, scale=scale, initial_state=initial_state,
        output_final_state=output_final_state, cu_seqlens=cu_seqlens,
    )  # fmt: skip


@substitute("fla.ops.rwkv7.fused_recurrent:fused_mul_recurrent_rwkv7")
def fused_mul_recurrent_rwkv7(r, w, k, v, kk, a, scale, initial_state, output_final_state, cu_seqlens=None):
    """The same from the unit removal key kk and its rate a: erases along -kk, writes along kk a."""
    return rwkv7(r, w, k, v, -kk, kk * a, scale, initial_state, output_final_state, cu_seqlens)
