"""What a mixer keeps of a sequence, measured by running one layer with a cache."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnlab.config.trial import ModelConfig
from attnlab.kernels.dispatch import unrecorded
from attnlab.models.backbone import Cache
from attnlab.models.block import Block
from attnlab.models.checks import spec_of
from attnlab.models.cost.repeats import looked_at
from attnlab.util.machine import host_bytes

PROMPTS = 16, 80  # steps, more than any convolution is wide; what differs between the two grows with time


class State(NamedTuple):
    """One layer's cache of one sequence, in numbers (elements, not bytes).

    `fixed` + T `per_token` after T steps, or after `window` steps if T is more; `recurrent`: the part of `fixed` that a
    recurrence updates at every step, without what convolutions and token shifts keep.
    """

    fixed: int
    per_token: int
    recurrent: int
    window: int | None = None

    def bytes(self, seq_len: int, element: int = 4) -> int:
        """Bytes after `seq_len` steps, at `element` bytes a number (4: fp32)."""
        return element * (self.fixed + min(seq_len, self.window or seq_len) * self.per_token)


def state_of(model: ModelConfig, layer: int) -> State | None:
    """The state of the mixer at depth `layer` (0-based); None where it is not known.

    That is where it keeps none between calls, so that decoding reads the sequence again, or needs CUDA; where its state
    does not grow with each token; where it is the user's own; and where one layer is larger than this machine's memory.

    Raises:
        ValueError: a mixer that cannot be built.
    """
    mixer = model.mixer_at(layer)
    spec = spec_of(mixer.name)
    if not spec.cached or "cuda" in spec.needs or ":" in mixer.name:
        return None
    args = {spec.aliases.get(name, name): value for name, value in mixer.args.items()}
    window = args.pop("window_size", None)
    alone = {"name": mixer.name, **args}
    model = ModelConfig(d_model=model.d_model, n_heads=model.n_heads, n_layers=2, mlp="none", mixer=(alone,))
    state = _measured(model.model_dump_json())
    return state and state._replace(window=window)


@functools.lru_cache(maxsize=512)
@torch.no_grad()
def _measured(model: str) -> State | None:
    config = ModelConfig.model_validate_json(model)
    held, recurrent = [], 0
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        if 4 * sum(p.numel() for p in Block(config, 0).parameters()) > host_bytes():
            return None
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), unrecorded():
        block = Block(config, 0).eval()
        for steps in PROMPTS:
            cache = Cache()
            block(torch.randn(1, steps, config.d_model), cache, {})
            if not cache.layers:
                return None
            state = cache.layers[0].state
            held.append(sum(x.numel() for x in tensors(state)))
            recurring = state.get("recurrent_state") if isinstance(state, dict) else None
            recurrent = sum(x.numel() for x in tensors(recurring))
    per_token, rest = divmod(held[1] - held[0], PROMPTS[1] - PROMPTS[0])
    return None if rest else State(held[0] - per_token * PROMPTS[0], per_token, recurrent)


def state_bytes(model: ModelConfig, seq_len: int) -> int | None:
    """Bytes that all layers keep of one sequence, in fp32; None if one is not known."""
    states = [(state_of(model, layer), times) for layer, times in looked_at(model)]
    known = [times * state.bytes(seq_len) for state, times in states if state is not None]
    return sum(known) if len(known) == len(states) else None


def tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors in nested dicts, sequences and dataclasses."""
    if isinstance(tree, Tensor):
        yield tree
    elif dataclasses.is_dataclass(tree):
        yield from tensors(vars(tree))
    elif isinstance(tree, dict):
        yield from tensors(list(tree.values()))
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from tensors(item)
