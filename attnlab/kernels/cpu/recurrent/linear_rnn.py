"""One chunked linear recurrence in PyTorch, which serves nearly every linear-attention layer.

    S_t = diag(e^{g_t}) S_{t-1}  [+ w_t (e_t^T S_{t-1})]  + k_t v_t^T          S: [K, V]
    o_t = scale * q_t^T S_t

The square brackets are the delta rule and its generalisations (a diagonal plus low-rank transition). The sequence is
cut into chunks of C steps. Within a chunk everything is matrix products over C x C scores, as in attention; between
chunks only the state is carried, so the Python loop runs T/C times. This is the chunkwise form of GLA (Yang et al.
2023, arXiv 2312.06635, section 4) and, with the bracket, of DeltaNet's WY form (Yang et al. 2024, arXiv 2406.06484,
section 3) generalised to unequal write and erase vectors.

Shapes inside a chunked tensor: [B, H, N, C, D], N chunks of C steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# e^-30 = 1e-13 is below fp32's resolution next to anything it is added to, so a stronger decay changes nothing.
STRONGEST_LOG_DECAY = -30.0
# e^80 = 6e34 is the largest factor we let stand alone in fp32 (whose limit is 3e38) before q, k multiply it.
LARGEST_EXPONENT = 80.0
SMALLEST_CHUNK = 4


def linear_rnn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None = None,
    *,
    value_log_decay: Tensor | None = None,
    erase: Tensor | None = None,
    write: Tensor | None = None,
    bonus: Tensor | None = None,
    scale: float = 1.0,
    initial_state: Tensor | None = None,
    chunk: int = 64,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence above over T steps; differentiable in every tensor.

    Args:
        q, k: [B, T, H, K]. v: [B, T, H, V].
        log_decay: g, natural logarithm, <= 0. [B, T, H]: one per head; [B, T, H, K]: one per key channel; None: none.
        value_log_decay: [B, T, H, V], a decay of the state's value channels instead (GSA); excludes `log_decay`,
            `erase` and `bonus`.
        erase, write: e and w, [B, T, H, K]; the state they read is the one before this step's decay. Give the very
            same tensor as `k` and `write` for a delta rule, which takes one product less.
        bonus: u, [H, K]; o_t = scale * q_t^T (S_{t-1} + diag(u) k_t v_t^T), RWKV6's read before the update.
        scale: multiplies q.
        initial_state: [B, H, K, V] or None for zeros.
        chunk: the largest C; shrunk where a per-channel decay would overflow.

    Returns:
        o [B, T, H, V] in v's dtype, and the final state [B, H, K, V]. Computed in fp32 (fp64 if v is fp64).
    """
    with torch.autocast(v.device.type, enabled=False):
        return _linear_rnn(q, k, v, log_decay, value_log_decay, erase, write, bonus, scale, initial_state, chunk)


def _linear_rnn(q, k, v, log_decay, value_log_decay, erase, write, bonus, scale, initial_state, chunk):
    steps, heads, width = v.shape[1], v.shape[2], v.shape[3]
    exact = torch.float64 if v.dtype == torch.float64 else torch.float32
    clamped = [None if g is None else g.to(exact).clamp(min=STRONGEST_LOG_DECAY) for g in (log_decay, value_log_decay)]
    size = min(chunk, 1 << max(2, (steps - 1).bit_length()))
    size = safe_chunk(clamped[0] if clamped[1] is None else clamped[1], size)

    is_delta_rule = write is k
    qc, kc, vc = fold(q.to(exact) * scale, size), fold(k.to(exact), size), fold(v.to(exact), size)
    state = kc.new_zeros(*kc.shape[:2], kc.shape[-1], width) if initial_state is None else initial_state.to(exact)
    decay = decay_of(clamped[0], size)

    if value_log_decay is not None:
        out, state = _value_decayed(qc, kc, vc, decay_of(clamped[1], size), state)
    elif erase is None:
        u = None if bonus is None else bonus.to(exact)
        out, state = _additive(qc, kc, vc, decay, u, state)
    else:
        wc = kc if is_delta_rule else fold(write.to(exact), size)
        out, state = _delta(qc, kc, vc, fold(erase.to(exact), size), wc, decay, state)
    out = out.movedim(1, 3).reshape(v.shape[0], -1, heads, width)[:, :steps]
    return out.to(v.dtype), state


class _Decay:
    """Cumulative decay within chunks. `log_decay` [B, H, N, C, 1 or K]."""

    def __init__(self, log_decay: Tensor):
        self.after = log_decay.cumsum(-2)  # log of the decay from the chunk's start to after step i
        # ... to before step i. Shifted and not subtracted: the step before then counts undecayed to the bit, where a
        # subtraction of sums near -1000 would be off by 6e-5.
        self.before = F.pad(self.after[..., :-1, :], (0, 0, 1, 0))
        self.per_channel = log_decay.shape[-1] > 1
        # Per channel, e^{a_i - b_j} is split into e^{a_i - mid} e^{mid - b_j}: measured from the middle of the chunk,
        # neither factor's exponent exceeds half a chunk's decay. The split cancels, so no gradient need pass.
        self.middle = self.after[..., (log_decay.shape[-2] - 1) // 2, :].unsqueeze(-2).detach()

    def scores(self, x: Tensor, y: Tensor, keep: Tensor, before: bool) -> Tensor:
        """sum_d x_i[d] y_j[d] e^{a_i[d] - after_j[d]} where `keep`, else 0: [B, H, N, C, C]."""
        until = self.before if before else self.after
        if self.per_channel:  # without `pairwise_decay`'s constant: a decay of e^-10 a step gets its gradient to 1e-3
            product = (x * (until - self.middle).exp()) @ (y * (self.middle - self.after).exp()).mT
            return product.masked_fill(~keep, 0.0)
        return (x @ y.mT) * pairwise_decay(until, self.after, keep, before)

    def from_start(self, x: Tensor, before: bool) -> Tensor:
        """x_i as it meets the state at the chunk's start."""
        return x * (self.before if before else self.after).exp()

    def to_end(self, x: Tensor) -> Tensor:
        """x_j as it remains at the chunk's end."""
        remaining = self.after[..., -1:, :] - self.after[..., :-1, :]
        return x * F.pad(remaining, (0, 0, 0, 1)).exp()  # a constant for the last step, as in `pairwise_decay`

    def wholes(self, chunks: int) -> Sequence[Tensor | float]:
        """Each chunk's factor on the state's key rows, [B, H, 1 or K, 1] each."""
        return self.after[..., -1, :].exp().unsqueeze(-1).unbind(2)


class _NoDecay(_Decay):
    """The same interface where nothing decays."""

    def __init__(self) -> None:
        pass

    def scores(self, x: Tensor, y: Tensor, keep: Tensor, before: bool) -> Tensor:
        return (x @ y.mT).masked_fill(~keep, 0.0)

    def from_start(self, x: Tensor, before: bool) -> Tensor:
        return x

    def to_end(self, x: Tensor) -> Tensor:
        return x

    def wholes(self, chunks: int) -> Sequence[Tensor | float]:
        return [1.0] * chunks


def pairwise_decay(until: Tensor, after: Tensor, keep: Tensor, before: bool) -> Tensor:
    """Compute e^{until_i - after_j} where `keep`, else 0: [..., C, C], of [..., C, 1].

    `until` is `after` or, with `before`, it shifted by a step, and `keep` goes up to j where the two are equal. There
    it is 1, written as a constant: its gradients in `until` and `after` cancel, but what their rounding leaves is
    more than strong decay lets through from all other steps.
    """
    nearest = until.new_zeros(keep.shape).masked_fill(~keep, -torch.inf)
    return torch.where(keep.tril(-2 if before else -1), until - after.mT, nearest).exp()


def decay_of(log_decay: Tensor | None, size: int) -> _Decay:
    """The decays of chunks of `size` steps; None: nothing decays."""
    if log_decay is None:
        return _NoDecay()
    return _Decay(fold(log_decay if log_decay.dim() == 4 else log_decay.unsqueeze(-1), size))


def fold(x: Tensor, size: int) -> Tensor:
    """[B, T, H, D] -> [B, H, N, C, D], padded with zeros, which change no state."""
    short = -x.shape[1] % size
    if short:
        x = torch.cat([x, x.new_zeros(x.shape[0], short, *x.shape[2:])], 1)
    return x.reshape(x.shape[0], -1, size, *x.shape[2:]).movedim(3, 1)


def safe_chunk(log_decay: Tensor | None, size: int) -> int:
    """The largest chunk, at most `size`, whose halves' summed per-channel decay stays above -LARGEST_EXPONENT.

    Halves are judged one by one, because a burst of strong decay (or the padding of the last chunk) makes them uneven.
    Down to SMALLEST_CHUNK the clamp alone keeps a half within 2 * 30.
    """
    if log_decay is None or log_decay.dim() == 3:
        return size
    with torch.no_grad():
        while size > SMALLEST_CHUNK:
            first, second = fold(log_decay.detach(), size).split(size // 2, -2)
            if torch.minimum(first.sum(-2), second.sum(-2)).min() >= -LARGEST_EXPONENT:
                break
            size //= 2
    return size


def causal_masks(x: Tensor) -> tuple[Tensor, Tensor]:
    """(j <= i, j < i) as boolean [C, C]."""
    full = torch.ones(x.shape[-2], x.shape[-2], dtype=torch.bool, device=x.device)
    return full.tril(), full.tril(-1)


def _additive(q: Tensor, k: Tensor, v: Tensor, decay: _Decay, bonus: Tensor | None, state: Tensor):
    """Writes only: S_t = diag(e^g) S_{t-1} + k v^T."""
    upto, below = causal_masks(q)
    early = bonus is not None  # reads the state before this step's decay and write
    scores = decay.scores(q, k, below if early else upto, before=early)
    if early:
        scores = scores + torch.diag_embed((q * bonus[None, :, None, None] * k).sum(-1))
    written = decay.to_end(k).mT @ v
    starts = []
    # unbind, here and below: indexing chunk by chunk would cost a full-size gradient per chunk, quadratic in T
    for whole, wrote in zip(decay.wholes(q.shape[2]), written.unbind(2), strict=True):
        starts.append(state)
        state = whole * state + wrote
    return scores @ v + decay.from_start(q, before=early) @ torch.stack(starts, 2), state


def _value_decayed(q: Tensor, k: Tensor, v: Tensor, decay: _Decay, state: Tensor):
    """S_t = S_{t-1} diag(e^g) + k v^T, the decay on value channels."""
    scores = (q @ k.mT).masked_fill(~causal_masks(q)[0], 0.0)
    written = k.mT @ decay.to_end(v)
    starts = []
    for whole, wrote in zip(decay.wholes(q.shape[2]), written.unbind(2), strict=True):
        starts.append(state)
        state = whole.mT * state + wrote
    within = (decay.after - decay.middle).exp() * (scores @ (v * (decay.middle - decay.after).exp()))
    return within + decay.after.exp() * (q @ torch.stack(starts, 2)), state


def _delta(q: Tensor, k: Tensor, v: Tensor, erase: Tensor, write: Tensor, decay: _Decay, state: Tensor):
    """Erases and writes: a chunk solves a triangular system for all its x_i = e_i^T S_{i-1}.

    Unrolled within a chunk that starts at state S: x = L_w x + L_k v + (e decayed from the start) S, where L_w and L_k
    are strictly lower triangular scores of e against w and k. For the delta rule (w = k) the unknown is y = v + x, the
    value actually written, with (I - L) y = v + e S.
    """
    upto, below = causal_masks(q)
    same = write is k
    eye = torch.eye(q.shape[-2], dtype=q.dtype, device=q.device)
    system = eye - decay.scores(erase, write, below, before=True)
    constant = v if same else decay.scores(erase, k, below, before=True) @ v
    right = torch.cat([constant, decay.from_start(erase, before=True)], -1)
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    from_values, from_state = solved.split([v.shape[-1], erase.shape[-1]], -1)

    remaining_write = decay.to_end(write).mT
    written = None if same else decay.to_end(k).mT @ v
    starts, unknowns = [], []
    chunks = q.shape[2]
    wrote = [None] * chunks if written is None else written.unbind(2)
    parts = (decay.wholes(chunks), from_values.unbind(2), from_state.unbind(2), remaining_write.unbind(2), wrote)
    for whole, value, of_state, remaining, more in zip(*parts, strict=True):
        starts.append(state)
        unknown = value + of_state @ state
        unknowns.append(unknown)
        state = whole * state + remaining @ unknown
        if more is not None:
            state = state + more
    out = decay.from_start(q, before=False) @ torch.stack(starts, 2)
    out = out + decay.scores(q, write, upto, before=False) @ torch.stack(unknowns, 2)
    if not same:
        out = out + decay.scores(q, k, upto, before=False) @ v
    return out, state
