"""What transformers may hand a model's `forward` besides tokens: masks, positions, sequences laid end to end.

What would change the numbers is done or refused by name. Nothing is left out in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnlab.util.text import did_you_mean

# Arguments of transformers' that these models cannot fulfil, and the values that ask for nothing.
UNASKED: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(("output_attentions", "output_hidden_states", "output_router_logits"), (False,)),
    "is_causal": (True,),
    "inputs_embeds": (),
    "token_type_ids": (),
}
# Arguments that follow from others: the longest sequence from `cu_seqlens`, the place in the cache from the cache.
IMPLIED = ("max_length_q", "max_length_k", "cache_position")
# What says where sequences laid end to end begin: transformers' names, beside `position_ids` and FLA's `cu_seqlens`.
BOUNDS = ("cu_seq_lens_q", "cu_seq_lens_k")


class Packed(NamedTuple):
    """Where sequences laid end to end begin.

    Attributes:
        starts: [B, T], true at each sequence's first token.
        real: [N], the tokens that are no padding, as b T + t.
        cu_seqlens: [sequences + 1], where each begins among the `real` tokens, and N.
    """

    starts: Tensor
    real: Tensor
    cu_seqlens: Tensor

    def flat(self, tokens: Tensor) -> Tensor:
        """[B, T] -> [1, N], the sequences end to end without padding."""
        return tokens.flatten()[self.real].unsqueeze(0)

    def spread(self, flat: Tensor) -> Tensor:
        """[1, N, D] -> [B, T, D], zeros at padding."""
        batch, steps = self.starts.shape
        out = flat.new_zeros(batch * steps, flat.shape[-1])
        return out.index_copy(0, self.real, flat[0]).unflatten(0, (batch, steps))


def read_arguments(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    past: bool,
    position_ids: Tensor | None,
    cu_seqlens: Tensor | None,
    extra: Mapping[str, Any],
) -> tuple[Tensor | None, Packed | None]:
    """The padding that a call's arguments mark, and the sequences laid end to end.

    Only here is the host asked: `generate()` passes a mask of ones, without which the mixers need not unpad.

    Args:
        input_ids: [B, T].
        attention_mask: [B, T], or [B, past + T] after a cache (`past`), or None.
        past: whether there is a cache.
        position_ids: [T], [1, T] or [B, T], or None.
        cu_seqlens: [sequences + 1], or None.
        extra: every other argument, by name.

    Raises:
        ValueError: an argument that these models can make nothing of; one line.
    """
    refuse_unknown(extra)
    batch, steps = input_ids.shape
    padding = padding_of(attention_mask, batch, steps, past)
    here = None if padding is None else padding[:, -steps:]
    return padding, packed_of(input_ids, here, position_ids, cu_seqlens, extra)


def refuse_unknown(extra: Mapping[str, Any]) -> None:
    """Refuse arguments of `forward` that nothing is made of.

    Raises:
        ValueError: an argument that is not known, or asks for what these models do not have; one line.
    """
    known = {*UNASKED, *IMPLIED, *BOUNDS, "seq_idx"}
    for name, value in extra.items():
        if value is None:
            continue
        if name not in known:
            raise ValueError(f"forward takes no argument {name}{did_you_mean(name, known)}")
        if name in UNASKED and not any(value is harmless for harmless in UNASKED[name]):
            shown = f" {value!r}" if isinstance(value, bool) else ""
            raise ValueError(f"forward: {name}{shown} cannot be had of this model; leave it out")


def padding_of(attention_mask: Tensor | None, batch: int, steps: int, past: bool) -> Tensor | None:
    """The attention mask [B, past + T] if it marks padding, else None.

    Raises:
        ValueError: it is no such mask, numbers sequences, leaves a row without tokens, or has zeros between ones, which
            no mixer's state could leave out; one line.
    """
    if attention_mask is None:
        return None
    shape = list(attention_mask.shape)
    if len(shape) != 2 or shape[0] != batch or shape[1] < steps or (shape[1] > steps and not past):
        raise ValueError(f"attention_mask is {shape}, but should be [{batch}, {'past + ' * past}{steps}], 0 at padding")
    real = attention_mask == 1
    if bool(real.all()):
        return None
    if not bool((real | (attention_mask == 0)).all()):
        raise ValueError(
            "attention_mask has values besides 0 and 1; it should be 1 at tokens, 0 at padding (sequences laid end to "
            "end are told by position_ids, cu_seqlens or seq_idx)"
        )
    if bool((real[:, 1:] & ~real[:, :-1]).sum(1).add(real[:, 0]).gt(1).any()):
        raise ValueError("attention_mask has zeros between ones; padding may only stand at a row's beginning or end")
    if not bool(real.any(1).all()):
        raise ValueError("attention_mask has a row of zeros alone; leave a row without tokens out")
    return attention_mask


def packed_of(
    input_ids: Tensor,
    padding: Tensor | None,
    position_ids: Tensor | None,
    cu_seqlens: Tensor | None,
    extra: Mapping[str, Any],
) -> Packed | None:
    """The sequences that lie end to end in [B, T] tokens; None if each row is one.

    Args:
        input_ids: [B, T].
        padding: what `padding_of` gives, for the same tokens.
        position_ids: [T], [1, T] or [B, T]; a sequence begins wherever they begin again.
        cu_seqlens: [sequences + 1], where each sequence begins in one row, and T.
        extra: of transformers' names `cu_seq_lens_q`, `cu_seq_lens_k`, and `seq_idx` [B, T], which sequence each is of.

    Raises:
        ValueError: none of these reads as sequences end to end, or two of them differ; one line.
    """
    real = torch.ones_like(input_ids, dtype=torch.bool) if padding is None else padding.bool()
    found: dict[str, Tensor] = {}
    bounds = {"cu_seqlens": cu_seqlens, **{name: extra.get(name) for name in BOUNDS}}
    for name, given in bounds.items():
        if given is not None:
            found[name] = _from_bounds(name, given, input_ids)
    if (seq_idx := extra.get("seq_idx")) is not None:
        found["seq_idx"] = _from_indices(_rows("seq_idx", seq_idx, input_ids))
    rows = _first(real)
    if position_ids is not None and input_ids.shape[1] > 1:
        starts = _from_positions(_rows("position_ids", position_ids, input_ids), real)
        if found or bool((starts != rows).any()):  # positions that only count on say nothing of sequences
            found["position_ids"] = starts
    if not found:
        return None
    (name, starts), *others = ((name, (starts & real) | rows) for name, starts in found.items())
    for other, theirs in others:
        if bool((theirs != starts).any()) and not (other == "position_ids" and bool((theirs == rows).all())):
            raise ValueError(f"{name} and {other} begin sequences at different tokens")
    if bool((starts == rows).all()):
        return None
    index = real.flatten().nonzero().squeeze(1)
    firsts = starts.flatten()[index].nonzero().squeeze(1)
    end = firsts.new_tensor([len(index)])
    return Packed(starts, index, torch.cat([firsts, end]).to(torch.int32))  # the type that flash_attn wants


def _first(real: Tensor) -> Tensor:
    """True at each row's first token that is no padding."""
    return real & (real.cumsum(1) == 1)


def _rows(name: str, given: Tensor, input_ids: Tensor) -> Tensor:
    """[T], [1, T] or [B, T] -> [B, T]."""
    (batch, steps), shape = input_ids.shape, list(given.shape)
    if shape not in ([steps], [1, steps], [batch, steps]):
        raise ValueError(f"{name} is {shape}, but should be {[batch, steps]}, as input_ids")
    if given.is_floating_point():
        raise ValueError(f"{name} is {given.dtype}, but should be whole numbers")
    return given.to(input_ids.device).expand(batch, steps)


def _from_bounds(name: str, given: Tensor, input_ids: Tensor) -> Tensor:
    """Sequences' first tokens from their bounds."""
    batch, steps = input_ids.shape
    if batch != 1:
        raise ValueError(f"{name} is of sequences in one row, but input_ids is {[batch, steps]}; give [1, all tokens]")
    bounds = given.to(input_ids.device).long()
    if (
        bounds.dim() != 1
        or len(bounds) < 2
        or bool((bounds.diff() < 0).any())
        or bounds[[0, -1]].tolist() != [0, steps]
    ):
        shown = given.tolist() if given.numel() <= 8 else f"{given.flatten()[:7].tolist()}..."
        raise ValueError(f"{name} is {shown}, but should rise from 0 to {steps}, the number of tokens")
    starts = torch.zeros_like(input_ids, dtype=torch.bool)
    starts[0, bounds[bounds < steps]] = True
    return starts


def _from_indices(sequence: Tensor) -> Tensor:
    """Sequences' first tokens from the number of each token's sequence."""
    return torch.cat([torch.ones_like(sequence[:, :1], dtype=torch.bool), sequence.diff(dim=1) != 0], 1)


def _from_positions(positions: Tensor, real: Tensor) -> Tensor:
    """Sequences' first tokens from positions that count up by one and begin again."""
    follows = real[:, 1:] & real[:, :-1]
    again = follows & (positions.diff(dim=1) != 1)
    least = positions.masked_fill(~real, torch.iinfo(positions.dtype).max).amin(1, keepdim=True)
    if bool((again & (positions[:, 1:] != least)).any()):
        row, at = (again & (positions[:, 1:] != least)).nonzero()[0].tolist()
        before, after = positions[row, at : at + 2].tolist()
        raise ValueError(
            f"position_ids go from {before} to {after} in row {row}; they should count up by one, or begin again at "
            f"{int(least[row])} where a sequence laid end to end begins"
        )
    return torch.cat([torch.zeros_like(real[:, :1]), again], 1) | _first(real)
