"""FLA's attentions over all past keys with gates, Householder positions or stick-breaking.

All are quadratic in T like FLA's kernels, and form their scores [B, H, T, T] in fp32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attnlab.kernels.cpu.recurrent.linear_rnn import causal_masks, fold
from attnlab.kernels.cpu.varlen import expand_heads, packed, scale_of
from attnlab.kernels.dispatch import substitute

PATH_CHUNK = 64


def causal_softmax(scores: Tensor, v: Tensor, window: int | None = None, sink: Tensor | None = None) -> Tensor:
    """Causal softmax of scores [B, H, Tq, Tk] over v [B, Tk, H, V]: [B, Tq, H, V].

    The last query is at the last key. window: how many keys a query sees, its own included. sink: [H], a score without
    a value.
    """
    queries, keys = scores.shape[-2:]
    back = torch.arange(keys - queries, keys, device=v.device)[:, None] - torch.arange(keys, device=v.device)
    seen = back >= 0 if window is None else (back >= 0) & (back < window)
    scores = scores.masked_fill(~seen, -torch.inf)
    if sink is not None:
        scores = torch.cat([scores, sink.float()[None, :, None, None].expand(*scores.shape[:-1], 1)], -1)
    weights = scores.softmax(-1)[..., :keys]
    return (weights @ v.float().transpose(1, 2)).transpose(1, 2)


def _forgetting(q, k, v, g, scale, gate_scale, window_size, sink_bias):
    """Attend from q [B, Tq, H, K], at the end of k [B, Tk, G, K], with log forget gates g [B, Tk, H]."""
    heads, queries = q.shape[2], q.shape[1]
    k, v = expand_heads(k, heads), expand_heads(v, heads)
    scores = (q.float() * scale).transpose(1, 2) @ k.float().permute(0, 2, 3, 1)
    if g is not None:
        total = g.float().cumsum(1).transpose(1, 2) * gate_scale
        scores = scores + total[..., -queries:].unsqueeze(-1) - total.unsqueeze(-2)
    return causal_softmax(scores, v, window_size, sink_bias).to(v.dtype)


@substitute("fla.ops.attn.parallel:parallel_attn")
@packed("q", "k", "v", "g")
def parallel_attn(q, k, v, scale, window_size, sink_bias, g=None):
    """Softmax attention with a forget gate (Forgetting Transformer, arXiv 2503.02130).

    Key j's score at query i gains g_{j+1} + ... + g_i. q: [B, T, H, K]; k, v: [B, T, G, K or V]; g: [B, T, H], log
    gates; sink_bias: [H].
    """
    return _forgetting(q, k, v, g, scale_of(scale, k), 1.0, window_size, sink_bias)


@substitute("fla.ops.attn.decoding:attn_decoding_one_step")
def attn_decoding_one_step(q, k, v, scale, cu_seqlens, do_gate_scale, window_size, sink_bias, g=None):
    """One query [1, N, H, K] for each of N sequences of keys [1, sum T, G, K] laid end to end."""
    scale, bounds = scale_of(scale, k), cu_seqlens.tolist()
    outs = [
        _forgetting(
            q[:, i : i + 1], k[:, s:e], v[:, s:e], None if g is None else g[:, s:e], scale,
            scale if do_gate_scale else 1.0, window_size, sink_bias,
        )
        for i, (s, e) in enumerate(zip(bounds, bounds[1:], strict=False))
    ]  # fmt: skip
    return torch.cat(outs, 1)


@substitute("fla.ops.stickbreaking_attn.parallel:parallel_stickbreaking_attn")
@packed("q", "k", "v")
def parallel_stickbreaking_attn(q, k, v, scale, attend_current):
    """Stick-breaking attention (arXiv 2410.17980).

    Going back from query i, key j takes the share sigmoid(z_ij) of what the keys between left over. Returns o
    [B, T, H, V] and the share left at the end [B, T, H].
    """
    heads = q.shape[2]
    k, v = expand_heads(k, heads), expand_heads(v, heads)
    z = (q.float() * scale_of(scale, k)).transpose(1, 2) @ k.float().permute(0, 2, 3, 1)
    upto, below = causal_masks(z)
    seen = upto if attend_current else below
    passed = F.logsigmoid(-z).masked_fill(~seen, 0.0)
    between = passed.flip(-1).cumsum(-1).flip(-1) - passed  # log of what the keys after j, up to i, leave over
    share = (F.logsigmoid(z) + between).masked_fill(~seen, -torch.inf).exp()
    o = (share @ v.float().transpose(1, 2)).transpose(1, 2)
    return o.to(q.dtype), passed.sum(-1).exp().transpose(1, 2).to(q.dtype)


def path_scores(q: Tensor, k: Tensor, w: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """q_i^T H_i ... H_{j+1} k_j for j <= i, with H_t = I - beta_t w_t w_t^T.

    Within a chunk the products are resolved by one triangular system, as in a delta rule. Across chunks, from the last
    to the first, the queries of all later chunks move on together through the product of the whole chunk.

    q, k, w: [B, T, H, D]; beta: [B, T, H]. Returns scores [B, H, T, T], of which the upper triangle means nothing, and
    H_T ... H_{j+1} k_j [B, T, H, D], fp32.
    """
    steps = q.shape[1]
    qc, kc, wc = (fold(x.float(), PATH_CHUNK) for x in (q, k, w))
    wb = wc * fold(beta.float().unsqueeze(-1), PATH_CHUNK)
    upto, below = causal_masks(qc)
    system = torch.eye(PATH_CHUNK, device=q.device) + (wb @ wc.mT).masked_fill(~below, 0.0)
    right = torch.cat([wb, (wb @ kc.mT).masked_fill(~below, 0.0)], -1)
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    reflect, meets = solved.split([wc.shape[-1], PATH_CHUNK], -1)
    qw = (qc @ wc.mT).masked_fill(~upto, 0.0)
    local = qc @ kc.mT - qw @ meets
    at_start, at_end = qc - qw @ reflect, kc - meets.mT @ wc  # queries, keys carried to their chunk's start, end
    whole = wc.mT @ reflect  # a chunk's product is I - whole

    chunks, columns, moving = qc.shape[2], [], qc[:, :, :0]
    for j in reversed(range(chunks)):
        later = moving @ at_end[:, :, j : j + 1].mT
        blank = local.new_zeros(*local.shape[:2], j, *local.shape[-2:])
        columns.append(torch.cat([blank, local[:, :, j : j + 1], later], 2))
        moving = torch.cat([at_start[:, :, j : j + 1], moving - moving @ whole[:, :, j : j + 1]], 2)
    scores = torch.cat(columns[::-1], -1).flatten(2, 3)[..., :steps, :steps]

    carried = at_end[:, :, :0]
    for j in range(chunks):
        carried = torch.cat([carried - carried @ whole[:, :, j : j + 1].mT, at_end[:, :, j : j + 1]], 2)
    return scores, carried.movedim(1, 3).flatten(1, 2)[:, :steps]


@substitute("fla.ops.path_attn.parallel:parallel_path_attn")
@packed("q", "k", "v", "w", "beta", "g")
def parallel_path_attn(q, k, v, w, beta, scale, use_cache, g=None):
    """PaTH attention (arXiv 2505.16381): positions as products of Householder transformations, w of unit length.

    q: [B, T, H, D]; k, v, w: [B, T, G, D]; beta: [B, T, G]; g: [B, T, H], log forget gates or None. Returns o
    [B, T, H, D], and with `use_cache` the keys as a next query meets them [B, T, G, D], else None.
    """
    heads, groups = q.shape[2], k.shape[2]
    scores, carried = path_scores(q, *(expand_heads(x, heads) for x in (k, w, beta)))
    if g is not None:
        total = g.float().cumsum(1).transpose(1, 2)
        scores = scores + total.unsqueeze(-1) - total.unsqueeze(-2)
    o = causal_softmax(scores * scale_of(scale, k), expand_heads(v, heads)).to(q.dtype)
    return o, carried[:, :, :: heads // groups].to(k.dtype) if use_cache else None
