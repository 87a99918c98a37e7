"""FLA's recurrences that decay and write but never erase, in terms of `linear_rnn` and `gated_scan`.

Each function has its FLA namesake's arguments, by name (`dispatch.substitute` fills in FLA's defaults) and keeps its
conventions: [B, T, H, D] tensors, fp32 state [N, H, K, V] ([N, H, V, K] with `state_v_first`), decays as natural
logarithms, scale K^-0.5 unless said otherwise. A final state of None is returned where none was asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attnlab.kernels.cpu.recurrent.linear_rnn import causal_masks, linear_rnn
from attnlab.kernels.cpu.recurrent.scan import gated_scan
from attnlab.kernels.cpu.varlen import CHANNEL_CHUNK, by_sequence, expand_heads, if_wanted, scale_of, swap_state
from attnlab.kernels.dispatch import substitute


def _gla(q, k, v, gk, gv, scale, initial_state, output_final_state, state_v_first):
    start = swap_state(initial_state, state_v_first)
    o, final = linear_rnn(
        q, k, v, gk, value_log_decay=gv, scale=scale_of(scale, q), initial_state=start, chunk=CHANNEL_CHUNK
    )
    return o, if_wanted(swap_state(final, state_v_first), output_final_state)


@substitute("fla.ops.gla.chunk:chunk_gla")
@by_sequence("q", "k", "v", "g")
def chunk_gla(q, k, v, g, scale, initial_state, output_final_state, state_v_first):
    """Gated linear attention (arXiv 2312.06635, equation 3), with g [B, T, H, K]."""
    return _gla(q, k, v, g, None, scale, initial_state, output_final_state, state_v_first)


@substitute("fla.ops.gla.fused_recurrent:fused_recurrent_gla")
@by_sequence("q", "k", "v", "gk", "gv")
def fused_recurrent_gla(q, k, v, scale, initial_state, output_final_state, state_v_first, gk=None, gv=None):
    """The same with the decay on key channels (gk), value channels (gv) or none."""
    if gk is not None and gv is not None:
        raise NotImplementedError("fused_recurrent_gla with both gk and gv has no CPU implementation")
    return _gla(q, k, v, gk, gv, scale, initial_state, output_final_state, state_v_first)


@substitute(
    "fla.ops.simple_gla.chunk:chunk_simple_gla",
    "fla.ops.simple_gla.fused_recurrent:fused_recurrent_simple_gla",
    "fla.ops.simple_gla.fused_chunk:fused_chunk_simple_gla",
)
@by_sequence("q", "k", "v", "g")
def simple_gla(q, k, v, scale, initial_state, output_final_state, state_v_first=False, g=None, g_gamma=None):
    """One decay per head: g [B, T, H], or the constant g_gamma [H]."""
    if g_gamma is not None:
        constant = g_gamma.float().expand(*v.shape[:3])
        g = constant if g is None else g + constant
    q, k = expand_heads(q, v.shape[2]), expand_heads(k, v.shape[2])
    start = swap_state(initial_state, state_v_first)
    o, final = linear_rnn(q, k, v, g, scale=scale_of(scale, q), initial_state=start)
    return o, if_wanted(swap_state(final, state_v_first), output_final_state)


@substitute("fla.ops.simple_gla.parallel:parallel_simple_gla")
def parallel_simple_gla(q, k, v, scale, output_attentions, g=None, cu_seqlens=None):
    """The same without states. Returns o, and the scores [B, H, T, T] with `output_attentions`, else None."""
    o, _ = simple_gla(
        q=q, k=k, v=v, g=g, scale=scale, initial_state=None, output_final_state=False, cu_seqlens=cu_seqlens
    )
    if not output_attentions:
        return o, None
    if cu_seqlens is not None:
        raise NotImplementedError("parallel_simple_gla with output_attentions and cu_seqlens has no CPU implementation")
    scores = torch.einsum("bihd,bjhd->bhij", q.float() * scale_of(scale, q), k.float())
    if g is not None:
        total = g.float().cumsum(1).transpose(1, 2)
        keep, _ = causal_masks(scores)
        scores = scores * (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(~keep, -torch.inf).exp()
    return o, scores.tril().to(q.dtype)


@substitute(
    "fla.ops.retention.chunk:chunk_retention",
    "fla.ops.retention.fused_recurrent:fused_recurrent_retention",
    "fla.ops.retention.fused_chunk:fused_chunk_retention",
)
def retention(q, k, v, scale, initial_state, output_final_state, state_v_first=False, cu_seqlens=None):
    """Retention (arXiv 2307.08621, equation 8): head h decays by 1 - 2^(-5 - h)."""
    head = torch.arange(q.shape[2], dtype=torch.float32, device=q.device)
    gamma = torch.log1p(-torch.exp2(-5.0 - head))
    return simple_gla(
        q=q, k=k, v=v, g_gamma=gamma, scale=scale, initial_state=initial_state, output_final_state=output_final_state,
        state_v_first=state_v_first, cu_seqlens=cu_seqlens,
    )  # fmt: skip


@substitute("fla.ops.retention.parallel:parallel_retention")
def parallel_retention(q, k, v, scale, cu_seqlens=None):
    """The same without states. Returns (o, None): the scores are never formed here."""
    return retention(q, k, v, scale, None, False, cu_seqlens=cu_seqlens)


@substitute(
    "fla.ops.linear_attn.chunk:chunk_linear_attn",
    "fla.ops.linear_attn.fused_recurrent:fused_recurrent_linear_attn",
    "fla.ops.linear_attn.fused_chunk:fused_chunk_linear_attn",
)
@by_sequence("q", "k", "v")
def linear_attn(q, k, v, scale, initial_state, output_final_state, normalize):
    """Linear attention (Katharopoulos et al. 2020, arXiv 2006.16236, equation 9), without decay.

    With `normalize` o_t is divided by q_t . sum of k, whose running sum z [N, 1, H, K] joins the state as (S, z).
    """
    scale = scale_of(scale, q)
    start, z = initial_state if isinstance(initial_state, tuple) else (initial_state, None)
    o, final = linear_rnn(q, k, v, scale=scale, initial_state=start)
    if not normalize:
        return o, if_wanted(final, output_final_state)
    sums = k.float().cumsum(1) if z is None else k.float().cumsum(1) + z
    # 1e-10: FLA's
    o = (o.float() / ((q.float() * scale * sums).sum(-1, keepdim=True) + 1e-10)).to(v.dtype)
    return o, if_wanted((final, sums[:, -1:]), output_final_state)


@substitute("fla.ops.rwkv6.chunk:chunk_rwkv6", "fla.ops.rwkv6.fused_recurrent:fused_recurrent_rwkv6")
@by_sequence("r", "k", "v", "w")
def rwkv6(r, k, v, w, u, scale, initial_state, output_final_state):
    """RWKV6 (arXiv 2404.05892, equation 19): reads before the update; bonus u [H, K]."""
    o, final = linear_rnn(
        r, k, v, w, bonus=u, scale=scale_of(scale, r), initial_state=initial_state, chunk=CHANNEL_CHUNK
    )
    return o, if_wanted(final, output_final_state)


@substitute("fla.ops.hgrn.chunk:chunk_hgrn", "fla.ops.hgrn.fused_recurrent:fused_recurrent_hgrn")
@by_sequence("x", "g")
def hgrn(x, g, initial_state, output_final_state):
    """HGRN's gated scan; x, g [B, T, D], state [N, D]."""
    o, final = gated_scan(x, g, initial_state)
    return o, if_wanted(final, output_final_state)


# ---- slots and normalised keys --------------------------------------------------------------------------------------
@substitute("fla.ops.gsa.gate:fused_additive_gate")
def additive_gate(x, initial_state=None, cu_seqlens=None, output_dtype=None, gate_dtype=None):
    """Running softmax weights of logits x [B, T, H, K], LightNet's and ABC's (arXiv 2405.21022).

    With z_t = log sum_{j <= t} e^{x_j} it returns what step t adds, e^{x_t - z_t}; the log decay of what came before,
    z_{t-1} - z_t (0 at a first step); and the last z [N, 1, H, K] in fp32.
    """
    bounds = [0, x.shape[1]] if cu_seqlens is None else cu_seqlens.tolist()
    parts = []
    for i, (start, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
        logits = x[:, start:end].float()
        before = None
        if initial_state is not None:
            before = initial_state if cu_seqlens is None else initial_state[i : i + 1]
            logits = torch.cat([before.float(), logits], 1)
        z = logits.logcumsumexp(1)
        after = z if before is None else z[:, 1:]
        previous = torch.cat([z[:, :1], z[:, :-1]], 1) if before is None else z[:, :-1]
        parts.append(((x[:, start:end].float() - after).exp(), previous - after, after[:, -1:]))
    added, decay, last = zip(*parts, strict=True)
    added, decay = torch.cat(added, 1), torch.cat(decay, 1)
    return added.to(output_dtype or x.dtype), decay.to(gate_dtype or x.dtype), torch.cat(last)


@substitute("fla.ops.gsa.chunk:chunk_gsa", "fla.ops.gsa.fused_recurrent:fused_recurrent_gsa")
@by_sequence("q", "k", "v", "s", "g")
def gsa(q, k, v, s, scale, initial_state, output_final_state, g=None):
    """Gated slot attention (arXiv 2409.07146): two recurrences around a softmax over the slots.

    Args:
        q: [B, T, H, K]; k, v: [B, T, G, K or V], G a divisor of H.
        s, g: [B, T, G, M], what each step adds to the M slots and the slots' log decay; without g, ABC's.
        initial_state: (keys [N, G, K, M], values [N, G, M, V]).
    """
    if g is None:
        s, g, _ = additive_gate(s, gate_dtype=torch.float32)
    heads, groups = q.shape[2], k.shape[2]
    k, v, s, g = (expand_heads(x, heads) for x in (k, v, s, g))
    keys, values = (None, None) if initial_state is None else (expand_heads(x, heads, 1) for x in initial_state)
    scores, keys = linear_rnn(
        q, k, s, value_log_decay=g, scale=scale_of(scale, q), initial_state=keys, chunk=CHANNEL_CHUNK
    )
    weights = scores.float().softmax(-1).to(q.dtype)
    o, values = linear_rnn(weights, s, v, g, initial_state=values, chunk=CHANNEL_CHUNK)
    every = heads // groups
    return o, [x[:, ::every].contiguous() if output_final_state else None for x in (keys, values)]


@substitute("fla.ops.abc.chunk:chunk_abc")
def abc(q, k, v, s, initial_state=None, output_final_state=False):
    """Attention with bounded-memory control (arXiv 2110.02488), on any device, through FLA's gated slot attention.

    Slot m holds the mean of keys and values, weighted by e^{s_m}.

    The state is (keys [B, H, K, M], values [B, H, M, V], log of the weights' sum [B, 1, H, M]). FLA's own kernel keeps
    the first two only, so that its next step weighs the whole past as one step of the new one's weight.
    """
    from fla.ops.gsa import chunk_gsa
    from fla.ops.gsa.gate import fused_additive_gate

    *start, z = initial_state if initial_state is not None else (None, None, None)
    added, decay, z = fused_additive_gate(s, z, gate_dtype=torch.float32)
    before = None if initial_state is None else tuple(start)
    o, final = chunk_gsa(q=q, k=k, v=v, s=added, g=decay, initial_state=before, output_final_state=output_final_state)
    return o, (*final, z) if output_final_state else None


# ---- polynomial kernels, by their scores ----------------------------------------------------------------------------
def _polynomial(q: Tensor, k: Tensor, v: Tensor, scale: float, power: Callable[[Tensor], Tensor]):
    """sum_j p(q_i k_j) v_j over j <= i, and the weights' sum.

    [B, H, T, V] and [B, H, T, 1], fp32. Quadratic in T like FLA's kernels: as a recurrence the state would have K^2
    rows.
    """
    q, k, v = (x.float().transpose(1, 2) for x in (q, k, v))
    weights = power(q * scale @ k.mT).tril()
    return weights @ v, weights.sum(-1, keepdim=True)


@substitute("fla.ops.based.parallel:parallel_based", "fla.ops.based.fused_chunk:fused_chunk_based")
def based(q, k, v, scale, use_norm):
    """Based (arXiv 2402.18668): the weight is e^x to second order."""
    o, total = _polynomial(q, k, v, scale_of(scale, q), lambda x: 1 + x + x.square() / 2)
    if use_norm:
        o = o / (total + 1e-6)  # FLA's
    return o.transpose(1, 2).to(q.dtype)


@substitute("fla.ops.rebased.parallel:parallel_rebased")
def rebased(q, k, v, eps, use_scale, use_normalize):
    """ReBased (arXiv 2402.10644): the weight is x^2, of keys and queries normalised by the layer."""
    o, total = _polynomial(q, k, v, q.shape[-1] ** -0.5 if use_scale else 1.0, torch.square)
    if use_normalize:
        o = o / (total + eps)
    return o.transpose(1, 2).to(q.dtype)
