"""The substitutes of FLA's functions, and the switch that picks one at each call.

Tensors on the CPU go to the substitute, all others to FLA's own. `install` puts the switches in place.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
import warnings
from collections.abc import Callable, Container, Iterator
from typing import Any

import torch

SUBSTITUTES: dict[str, Callable[..., Any]] = {}  # "module:function" of FLA -> what runs on CPU tensors
EVERY_DEVICE: set[str] = set()  # those that run on other devices' tensors too
calls: set[str] = set()  # the names of the functions whose substitute has run, for tests

# Arguments of FLA's that choose how its kernels compute and not what; a substitute need not know them.
HINTS = {
    *("cu_seqlens_cpu", "chunk_indices", "chunk_size", "num_chunks", "backend", "inplace", "inplace_backward"),
    "solve_tril_precision",
    *("accumulate_grad_in_fp32", "safe_gate", "disable_recompute", "use_graph", "max_num_seqs", "checkpoint_level"),
}

# What FLA takes for `chunk_size` where it refuses others, and how it says so.
CHUNK_SIZES = {
    "chunk_kda": ((32, 64), "either 32 or 64 for KDA"),
    "chunk_gdn2": ((64,), "64 for GDN-2"),
    "chunk_gated_delta_rule": ((16, 32, 64), "16, 32, or 64 for Gated Delta Rule"),
    **dict.fromkeys(("chunk_delta_rule", "chunk_momentum_delta_rule"), ((16, 32, 64), "16, 32, or 64")),
}
# Arguments' older names that FLA still takes: where it does, their newer ones.
RENAMED = {"transpose_state_layout": "state_v_first"}

_bypassed = threading.local()


def substitute(*paths: str, every_device: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: the function stands in for FLA's at `module:name`, on CPU tensors or on all.

    It is called by keyword with FLA's argument names and FLA's defaults, so it need name only what it implements. Any
    other argument that asks for something (not None or False, not a hint) raises NotImplementedError at the call.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        SUBSTITUTES.update(dict.fromkeys(paths, function))
        EVERY_DEVICE.update(paths if every_device else ())
        return function

    return register


@contextlib.contextmanager
def bypass() -> Iterator[None]:
    """Let this thread's calls reach FLA's own functions even with CPU tensors."""
    before, _bypassed.on = bypassed(), True
    try:
        yield
    finally:
        _bypassed.on = before


@contextlib.contextmanager
def unrecorded() -> Iterator[None]:
    """Keep what runs within it out of `calls`: a look at a layer is no part of a trial."""
    before = set(calls)
    try:
        yield
    finally:
        calls.intersection_update(before)


def bypassed() -> bool:
    """Whether this thread is inside `bypass()`."""
    return getattr(_bypassed, "on", False)


def takes_substitute(*values: Any) -> bool:
    """Whether a call goes to the substitute: its first tensor, if any, is on the CPU."""
    if bypassed():
        return False
    first = next((v for v in values if isinstance(v, torch.Tensor)), None)
    return first is None or first.device.type == "cpu"


def router(
    original: Callable[..., Any], function: Callable[..., Any], name: str, every_device: bool
) -> Callable[..., Any]:
    """Make a function that runs `function` on CPU tensors, or on all, and else `original`."""
    theirs = inspect.signature(original).parameters.values()
    ours = inspect.signature(function).parameters
    named = [p for p in theirs if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    defaults = {p.name: p.default for p in named if p.default is not p.empty and p.name in ours}
    # `Function.apply` has the signature (*args): its arguments are then the substitute's, in order
    order = [p.name for p in named] or list(ours)
    values = {p.name: p.default for p in named}

    @functools.wraps(original if inspect.isfunction(original) else function)
    def route(*args: Any, **kwargs: Any) -> Any:
        if bypassed() or not (every_device or takes_substitute(*args, *kwargs.values())):
            return original(*args, **kwargs)
        given = _renamed(dict(zip(order, args, strict=False), **kwargs), values)
        for key in given.keys() - ours.keys():
            value = given.pop(key)
            asks = value is not None and value is not False and value is not values.get(key)
            if asks and key not in HINTS:
                raise NotImplementedError(f"{name}({key}={value!r}) has no CPU implementation")
            sizes, right = CHUNK_SIZES.get(name, ((value,), ""))
            if key == "chunk_size" and value is not None and value not in sizes:
                raise ValueError(f"`chunk_size` must be {right}, got {value}.")
        calls.add(name)
        return function(**{**defaults, **given})

    route.fla_original = original  # type: ignore[attr-defined]
    return route


def _renamed(given: dict[str, Any], takes: Container[str]) -> dict[str, Any]:
    """Call what has an older name by its newer one, with FLA's warning.

    Raises:
        ValueError: both are given, as FLA's own functions do.
    """
    for old, new in RENAMED.items():
        if old in given and old not in takes and new in takes:
            if given.get(new):
                raise ValueError(f"Cannot pass both `{new}` and the deprecated `{old}`.")
            # to the caller of the routed function, as FLA's own functions warn
            warnings.warn(f"`{old}` is deprecated and renamed to `{new}`.", DeprecationWarning, stacklevel=3)
            given[new] = given.pop(old)
    return given
