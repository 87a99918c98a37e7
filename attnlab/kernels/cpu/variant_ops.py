"""FLA's softmax attentions with other scores, values or keys: Wall, Parallax, DeltaFormer, MoBA.

Quadratic in T like FLA's kernels; scores [B, H, T, T] in fp32.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from attnlab.kernels.cpu.recurrent.linear_rnn import STRONGEST_LOG_DECAY, causal_masks, decay_of, fold, safe_chunk
from attnlab.kernels.cpu.softmax_ops import causal_softmax
from attnlab.kernels.cpu.varlen import expand_heads, packed, scale_of
from attnlab.kernels.dispatch import substitute


def decayed_scores(q: Tensor, k: Tensor, g: Tensor, chunk: int = 64) -> Tensor:
    """Scores sum_n q_in k_jn e^{g_{j+1,n} + ... + g_in} for j <= i, whose channels fade.

    Within a chunk as in `linear_rnn`; between chunks the exponent is split at the end of the key's chunk, so that both
    factors are at most 1.

    q, k, g: [B, T, H, K]; g a natural logarithm, <= 0. Returns [B, H, T, T], zero above the diagonal.
    """
    steps = q.shape[1]
    g = g.float().clamp(min=STRONGEST_LOG_DECAY)
    size = safe_chunk(g, chunk)
    q, k = fold(q.float(), size), fold(k.float(), size)
    decay = decay_of(g, size)
    local, lasting = decay.scores(q, k, causal_masks(q)[0], before=False), decay.to_end(k)
    whole = decay.after[..., -1:, :]  # [B, H, N, 1, K]
    columns = []
    for j in range(q.shape[2]):
        blank = local.new_zeros(*local.shape[:2], j, size, size)
        # summed from this chunk's end on: the difference of two long sums would lose the nearest chunks' digits
        between = whole[:, :, j + 1 :].cumsum(2) - whole[:, :, j + 1 :]
        later = (q[:, :, j + 1 :] * (between + decay.after[:, :, j + 1 :]).exp()) @ lasting[:, :, j : j + 1].mT
        columns.append(torch.cat([blank, local[:, :, j : j + 1], later], 2))
    return torch.cat(columns, -1).flatten(2, 3)[..., :steps, :steps]


@substitute("fla.ops.utils.cumsum:chunk_global_cumsum")
@packed("s")
def global_cumsum(s, reverse, scale, output_dtype):
    """Running sums over the steps of s [B, T, ...], from the end with `reverse`, in fp32."""
    total = s.float().flip(1).cumsum(1).flip(1) if reverse else s.float().cumsum(1)
    return (total if scale is None else total * scale).to(output_dtype or s.dtype)


@substitute("fla.ops.wall_attn.parallel:parallel_wall_attn")
@packed("q", "k", "v", "g", "g_scalar")
def parallel_wall_attn(q, k, v, g, sink_bias, scale, window_size, g_scalar=None):
    """Wall attention: softmax over `decayed_scores`.

    q, g: [B, T, H, K]; k, v: [B, T, G, K or V]; g_scalar [B, T, H], a forget gate added to the scores.
    """
    heads = q.shape[2]
    scores = decayed_scores(q.float() * scale_of(scale, k), expand_heads(k, heads), g)
    if g_scalar is not None:
        total = g_scalar.float().cumsum(1).transpose(1, 2)
        scores = scores + total.unsqueeze(-1) - total.unsqueeze(-2)
    return causal_softmax(scores, expand_heads(v, heads), window_size, sink_bias).to(v.dtype)


def _parallax(q, r, k, v, scale, window_size, cache_start):
    """Parallax (arXiv 2605.29157): sum_j p_j (1 + c - r.k_j) v_j.

    p is the softmax of q.k and c the mean of r.k under it. q, r: [B, Tq, H, D] at the end of k, v [B, Tk, G, D];
    cache_start: [B], the first key that is no padding, or None.
    """
    heads, queries, keys = q.shape[2], q.shape[1], k.shape[1]
    k, v = expand_heads(k, heads).float(), expand_heads(v, heads).float()
    query = torch.arange(keys - queries, keys, device=q.device)[:, None]
    key = torch.arange(keys, device=q.device)
    seen = query >= key if window_size is None else (query >= key) & (query - key < window_size)
    seen = seen[None, None]
    if cache_start is not None:
        seen = seen & (key >= cache_start[:, None, None, None])
    kt = k.permute(0, 2, 3, 1)
    scores = (q.float().transpose(1, 2) * scale_of(scale, q)) @ kt
    tilt = r.float().transpose(1, 2) @ kt
    # finite, so that a padded query, which sees nothing, is no NaN
    weights = scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1)
    weights = weights * (1 + (weights * tilt).sum(-1, keepdim=True) - tilt)
    return (weights @ v.transpose(1, 2)).transpose(1, 2).to(q.dtype)


@substitute("fla.ops.parallax.parallel:parallel_parallax")
@packed("q", "r", "k", "v")
def parallel_parallax(q, r, k, v, scale, window_size):
    """Parallax without a cache; `_parallax`."""
    return _parallax(q, r, k, v, scale, window_size, None)


@substitute("fla.ops.parallax.decode:parallax_decode", "fla.ops.parallax.decode:parallax_decode_one_step")
def parallax_decode(q, r, k, v, scale, window_size, cache_start):
    """Parallax against cached keys; `_parallax`."""
    return _parallax(q, r, k, v, scale, window_size, cache_start)


@substitute("fla.ops.deltaformer.parallel:deltaformer_attn")
@packed("q", "k", "v", "beta")
def deltaformer_attn(q, k, v, beta=None):
    """DeltaFormer (arXiv 2505.19488): attention over values corrected by attention.

    These are u_t = v_t - beta_t sum_{j < t} p_tj u_j; p is the softmax of q_t k_j over the past alone; all u are one
    triangular system. q, k, v: [B, T, H, D]; beta: [B, T, H].
    """
    q, k, values = (x.float().transpose(1, 2) for x in (q, k, v))
    scores = q * q.shape[-1] ** -0.5 @ k.mT
    _, below = causal_masks(scores)
    # the first token has no past; finite, so that its row is no NaN
    past = scores.masked_fill(~below, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(~below, 0.0)
    if beta is not None:
        past = past * beta.float().transpose(1, 2).unsqueeze(-1)
    system = torch.eye(past.shape[-1], device=q.device) + past
    u = torch.linalg.solve_triangular(system, values, upper=False, unitriangular=True)
    return causal_softmax(scores, u.transpose(1, 2)).to(v.dtype)


# FLA's own needs the flash_attn package on CUDA too
@substitute("fla.ops.moba.parallel:parallel_moba", every_device=importlib.util.find_spec("flash_attn") is None)
@packed("q", "k", "v")
def parallel_moba(q, k, v, chunk_size, topk, max_seqlen=None):
    """Mixture of block attention (arXiv 2502.13189). q, k, v: [B, T, H, D].

    A query sees its own block causally, and of the earlier blocks the topk - 1 whose mean key it scores highest.
    """
    batch, steps, heads, width = k.shape
    scores = (q.float() * width**-0.5).transpose(1, 2) @ k.float().permute(0, 2, 3, 1)
    block = torch.arange(steps, device=q.device) // chunk_size
    whole = (steps - 1) // chunk_size  # blocks that some later query can see
    chosen = min(topk - 1, whole)
    if chosen > 0:
        means = k[:, : whole * chunk_size].float().view(batch, whole, chunk_size, heads, width).mean(2)
        gate = q.float().transpose(1, 2) @ means.permute(0, 2, 3, 1)  # [B, H, T, blocks]
        past = block[:, None] > torch.arange(whole, device=q.device)
        best = gate.masked_fill(~past, -torch.inf).topk(chosen, -1).indices
        seen = torch.zeros_like(past).expand(batch, heads, -1, -1).scatter(-1, best, True) & past
        same_block = block[:, None] == block
        seen = same_block | torch.nn.functional.pad(seen, (0, int(block[-1]) + 1 - whole))[..., block]
        scores = scores.masked_fill(~seen, -torch.inf)
    return causal_softmax(scores, v).to(v.dtype)
