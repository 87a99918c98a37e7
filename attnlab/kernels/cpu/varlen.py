"""What FLA's stand-ins share: sequences laid end to end, scales, grouped heads, states."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Per-channel decays halve the chunk to start with: in layers as trained, 64 steps would mostly be split anyway.
CHANNEL_CHUNK = 32


def by_sequence(*along_time: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: gives a function `cu_seqlens` by running it once per sequence.

    The sequences are laid end to end, B = 1.

    Args:
        along_time: the arguments that are cut; their second dimension is a multiple of the total length.
    """

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*, cu_seqlens: Tensor | None = None, **given: Any) -> Any:
            if cu_seqlens is None:
                return function(**given)
            bounds, state = cu_seqlens.tolist(), given.pop("initial_state", None)
            cut = {name: given.pop(name) for name in along_time if given.get(name) is not None}
            outs, finals = [], []
            for i, (start, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
                stretch = {name: x.shape[1] // bounds[-1] for name, x in cut.items()}
                part = {name: x[:, start * stretch[name] : end * stretch[name]] for name, x in cut.items()}
                out, final = function(**given, **part, initial_state=map_state(lambda s, i=i: s[i : i + 1], state))
                outs.append(out)
                finals.append(final)
            return torch.cat(outs, 1), join_states(finals)

        # `dispatch` reads the names that the function takes
        run.__signature__ = _with_cu_seqlens(function)  # type: ignore[attr-defined]
        return run

    return wrap


def packed(*along_time: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`by_sequence` for a function without states, whose results are [1, T, ...] or None."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*, cu_seqlens: Tensor | None = None, **given: Any) -> Any:
            if cu_seqlens is None:
                return function(**given)
            bounds = cu_seqlens.tolist()
            cut = {name: given.pop(name) for name in along_time if given.get(name) is not None}
            outs = [
                function(**given, **{name: x[:, start:end] for name, x in cut.items()})
                for start, end in zip(bounds, bounds[1:], strict=False)
            ]
            if isinstance(outs[0], Tensor):
                return torch.cat(outs, 1)
            return tuple(None if part[0] is None else torch.cat(part, 1) for part in zip(*outs, strict=True))

        run.__signature__ = _with_cu_seqlens(function)  # type: ignore[attr-defined]
        return run

    return wrap


def _with_cu_seqlens(function: Callable[..., Any]) -> inspect.Signature:
    signature = inspect.signature(function)
    extra = inspect.Parameter("cu_seqlens", inspect.Parameter.KEYWORD_ONLY, default=None)
    return signature.replace(parameters=[*signature.parameters.values(), extra])


def map_state(function: Callable[[Tensor], Tensor], state: Any) -> Any:
    """Apply a function to every tensor of a state (None, a tensor, states)."""
    if state is None or isinstance(state, Tensor):
        return None if state is None else function(state)
    return type(state)(map_state(function, part) for part in state)


def join_states(finals: list[Any]) -> Any:
    """Concatenate the states of several sequences along their first dimension."""
    if finals[0] is None or isinstance(finals[0], Tensor):
        return None if finals[0] is None else torch.cat(finals)
    return type(finals[0])(join_states(list(parts)) for parts in zip(*finals, strict=True))


def scale_of(scale: float | None, q: Tensor) -> float:
    """The scale given, else K^-0.5."""
    return q.shape[-1] ** -0.5 if scale is None else scale


def expand_heads(x: Tensor | None, heads: int, dim: int = 2) -> Tensor | None:
    """Repeat grouped heads: head h of the result is head h // (heads / groups)."""
    return x if x is None or x.shape[dim] == heads else x.repeat_interleave(heads // x.shape[dim], dim)


def swap_state(state: Tensor | None, v_first: bool) -> Tensor | None:
    """Between FLA's two state layouts, contiguous as its kernels leave it."""
    return state.mT.contiguous() if v_first and state is not None else state


def if_wanted(final: Any, wanted: bool) -> Any:
    """The final state, or None where none was asked for."""
    return final if wanted else None
