"""Log-linear attention: a past cut into log T stretches, each read with its own weight.

    o_t = scale * sum_{j <= t} lambda_t[level(t, j)] e^{g_{j+1} + ... + g_t} (q_t . k_j) v_j        (arXiv 2506.04761)

level(t, j) is the number of bits of t xor j: 0 at j = t, and level l >= 1 is the stretch of 2^{l-1} steps that a
Fenwick tree keeps. Training works on chunks of 64 steps: levels up to 6 lie within a chunk, and level 6 + m between
chunks a and b means m bits in a xor b. A decoder keeps one state per level; where bit b is the lowest one set in t, the
levels up to b merge into level b + 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attnlab.kernels.cpu.recurrent.linear_rnn import causal_masks, fold, pairwise_decay
from attnlab.kernels.cpu.varlen import expand_heads, packed
from attnlab.kernels.dispatch import substitute

CHUNK = 64
LEVELS_WITHIN = CHUNK.bit_length() - 1


@dataclass
class LevelStates:
    """A decoder's state: one per level, [B, H, L, K, V] in fp32; and the steps seen."""

    levels: Tensor
    seen: int


def level_of(n: int, device: torch.device) -> Tensor:
    """The number of bits of t xor j for t, j < n: [n, n]."""
    steps = torch.arange(n, device=device)
    differ = steps[:, None] ^ steps[None]
    return sum(((differ >> bit) > 0).long() for bit in range(max(1, n.bit_length())))


def attend(q: Tensor, k: Tensor, v: Tensor, g: Tensor, level_scales: Tensor) -> Tensor:
    """The definition without scale, in fp32.

    q, k [B, T, H, K]; v [B, T, H, V]; g [B, T, H]; level_scales [B, T, H, L].
    """
    steps = v.shape[1]
    qc, kc, vc, weights = (fold(x.float(), CHUNK) for x in (q, k, v, level_scales))
    after = fold(g.float().unsqueeze(-1), CHUNK).cumsum(-2)  # log decay since the chunk's start, [B, H, N, C, 1]
    keep, _ = causal_masks(qc)
    level = level_of(CHUNK, q.device).clamp(max=weights.shape[-1] - 1)
    here = weights.gather(-1, level.expand(*weights.shape[:-1], -1))
    scores = (qc @ kc.mT) * pairwise_decay(after, after, keep, before=False) * here
    out = scores @ vc

    chunks = qc.shape[2]
    if chunks > 1:
        written = ((kc * (after[..., -1:, :] - after).exp()).mT @ vc).flatten(-2)  # [B, H, N, K V]
        ends = after[..., -1, 0].cumsum(-1)  # [B, H, N]
        starts = ends - after[..., -1, 0]
        levels, query = level_of(chunks, q.device), qc * after.exp()
        earlier = torch.ones(chunks, chunks, dtype=torch.bool, device=q.device).tril(-1)
        lasting = (starts.unsqueeze(-1) - ends.unsqueeze(-2)).masked_fill(~earlier, -torch.inf).exp()
        for m in range(1, (chunks - 1).bit_length() + 1):
            state = (lasting * (levels == m)) @ written
            level = LEVELS_WITHIN + m
            out = out + weights[..., level : level + 1] * (query @ state.unflatten(-1, (qc.shape[-1], -1)))
    return out.movedim(1, 3).flatten(1, 2)[:, :steps]


def final_states(k: Tensor, v: Tensor, g: Tensor, levels: int) -> LevelStates:
    """What a decoder would hold after the T steps of k, v, g."""
    steps = k.shape[1]
    after = g.float().cumsum(1)
    lasting = k.float() * (after[:, -1:] - after).exp().unsqueeze(-1)
    level = level_of(steps, k.device)[-1]
    each = [
        torch.einsum("bthk,bthv->bhkv", lasting * (level == n)[None, :, None, None], v.float()) for n in range(levels)
    ]
    return LevelStates(torch.stack(each, 2), steps)


def step(state: LevelStates, q: Tensor, k: Tensor, v: Tensor, g: Tensor, level_scales: Tensor):
    """One more step of `attend`, its arguments without T: o [B, H, V], the next state."""
    levels = state.levels * g.float().exp()[..., None, None, None]
    lowest = (state.seen & -state.seen).bit_length()  # 1 + the lowest set bit; a state begins with at least one step
    merged = levels[:, :, :lowest].sum(2)
    new = k.float().unsqueeze(-1) * v.float().unsqueeze(-2)
    emptied, untouched = torch.zeros_like(levels[:, :, 1:lowest]), levels[:, :, lowest + 1 :]
    levels = torch.cat([new.unsqueeze(2), emptied, merged.unsqueeze(2), untouched], 2)
    o = torch.einsum("bhk,bhl,bhlkv->bhv", q.float(), level_scales.float(), levels)
    return o, LevelStates(levels, state.seen + 1)


@packed("q", "k", "v", "g", "level_scales")
def _dense(q, k, v, g, level_scales):
    return attend(q, k, v, g, level_scales)


@substitute("fla.ops.log_linear_attn.chunk:chunk_log_linear_attn")
def chunk_log_linear_attn(q, k, v, g, level_scales, initial_state, output_final_state, scale, cu_seqlens=None):
    """Log-linear attention; q, k may have fewer heads than v. The state is `LevelStates`.

    Raises:
        NotImplementedError: states together with cu_seqlens, as in FLA.
        ValueError: more steps than the levels reach.
    """
    heads, levels, steps = v.shape[2], level_scales.shape[-1], v.shape[1]
    seen = 0 if initial_state is None else initial_state.seen
    if (seen + steps - 1).bit_length() >= levels:
        raise ValueError(f"{seen + steps} steps need more than the {levels} levels of log-linear attention")
    q, k = expand_heads(q, heads) * (q.shape[-1] ** -0.5 if scale is None else scale), expand_heads(k, heads)
    if cu_seqlens is not None and (initial_state is not None or output_final_state):
        raise NotImplementedError("log-linear attention keeps no states of sequences laid end to end")
    if initial_state is None:
        out = _dense(q=q, k=k, v=v, g=g, level_scales=level_scales, cu_seqlens=cu_seqlens).to(v.dtype)
        return out, final_states(k, v, g, levels) if output_final_state else None
    state, outs = initial_state, []
    for t in range(steps):
        o, state = step(state, q[:, t], k[:, t], v[:, t], g[:, t], level_scales[:, t])
        outs.append(o)
    return torch.stack(outs, 1).to(v.dtype), state if output_final_state else None
