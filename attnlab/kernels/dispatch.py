"""Which PyTorch function stands in for which of FLA's, and the switch that picks one of the two at each call.

`install` replaces a function wherever FLA's modules hold it, by the object's identity, because layers bind kernels by
`from ... import`. Tensors on the CPU go to the substitute; all others to FLA's own.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

SUBSTITUTES: dict[str, Callable[..., Any]] = {}  # "module:function" of FLA -> what runs on CPU tensors
EVERY_DEVICE: set[str] = set()  # those that run on other devices' tensors too
calls: set[str] = set()  # the names of the functions whose substitute has run, for tests

# Arguments of FLA's that choose how its kernels compute and not what; a substitute need not know them.
HINTS = {
    *("cu_seqlens_cpu", "chunk_indices", "chunk_size", "num_chunks", "backend", "inplace", "inplace_backward"),
    *("accumulate_grad_in_fp32", "safe_gate", "disable_recompute", "use_graph", "max_num_seqs", "checkpoint_level"),
}

_bypassed = threading.local()
_lock = threading.Lock()
_installed = False


def substitute(*paths: str, every_device: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: the function stands in for FLA's functions at `module:name`, on CPU tensors or on all.

    It is called by keyword with FLA's argument names and FLA's defaults, so it need name only what it implements; an
    argument that it does not name and that asks for something (not None or False, not a hint) raises
    NotImplementedError at the call.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        SUBSTITUTES.update(dict.fromkeys(paths, function))
        EVERY_DEVICE.update(paths if every_device else ())
        return function

    return register


@contextlib.contextmanager
def bypass() -> Iterator[None]:
    """Within it, this thread's calls reach FLA's own functions even with CPU tensors (for Triton's interpreter)."""
    before, _bypassed.on = bypassed(), True
    try:
        yield
    finally:
        _bypassed.on = before


@contextlib.contextmanager
def unrecorded() -> Iterator[None]:
    """What runs within it does not count in `calls`: a look at a layer on the CPU is no part of a trial."""
    before = set(calls)
    try:
        yield
    finally:
        calls.intersection_update(before)


def bypassed() -> bool:
    """Whether this thread is inside `bypass()`."""
    return getattr(_bypassed, "on", False)


def takes_substitute(*values: Any) -> bool:
    """Whether a call goes to the substitute: its first tensor is on the CPU (or it has none) and no bypass is on."""
    if bypassed():
        return False
    first = next((v for v in values if isinstance(v, torch.Tensor)), None)
    return first is None or first.device.type == "cpu"


def import_fla() -> None:
    """Import every FLA module that holds kernels, without its notes about missing GPUs and flash-attn."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Triton is not supported", category=UserWarning)
        warnings.filterwarnings("ignore", message="Flash Attention is not installed", category=ImportWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # torch's own, from compiling at FLA's import
        for name in ("fla.ops", "fla.modules", "fla.layers", "fla.models"):
            importlib.import_module(name)


def install() -> None:
    """Make FLA's layers run on CPU tensors, forward and backward; CUDA tensors keep FLA's kernels. Idempotent.

    Raises:
        RuntimeError: FLA lacks a function that is to be replaced (it is another version than the tested one); names it.
    """
    global _installed
    if _installed:
        return
    import_fla()  # outside the lock: attnlab's hook on this very import comes back here
    with _lock:
        if _installed:
            return
        _replace(_routes())
        from attnlab.kernels import fla_patches  # needs fla imported

        fla_patches.patch()
        _installed = True


def _routes() -> dict[int, tuple[Any, Callable[..., Any]]]:
    """id of FLA's function -> (the function, its router)."""
    routes, missing = {}, []
    for path, function in SUBSTITUTES.items():
        module, _, name = path.partition(":")
        try:
            original = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            missing.append(path)
            continue
        routes[id(original)] = (original, _router(original, function, name, path in EVERY_DEVICE))
    if missing:
        version = getattr(sys.modules.get("fla"), "__version__", "?")
        raise RuntimeError(
            f"flash-linear-attention {version} has no {', '.join(missing)}; attnlab replaces these on CPU tensors and "
            "was tested with the version in constraints.txt"
        )
    return routes


def _router(
    original: Callable[..., Any], function: Callable[..., Any], name: str, every_device: bool
) -> Callable[..., Any]:
    """A function with `original`'s signature that runs `function` on CPU tensors, or on all, and else `original`."""
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
        given = dict(zip(order, args, strict=False), **kwargs)
        for key in given.keys() - ours.keys():
            value = given.pop(key)
            asks = value is not None and value is not False and value is not values.get(key)
            if asks and key not in HINTS:
                raise NotImplementedError(f"{name}({key}={value!r}) has no CPU implementation")
        calls.add(name)
        return function(**{**defaults, **given})

    route.fla_original = original  # type: ignore[attr-defined]
    return route


def _replace(routes: dict[int, tuple[Any, Callable[..., Any]]]) -> None:
    """Put each router where FLA's loaded modules, and their tables of activations, hold the original."""

    def routed(value: Any) -> Any:
        found = routes.get(id(value))
        return found[1] if found and found[0] is value else value

    for name, module in list(sys.modules.items()):
        if module is None or not (name == "fla" or name.startswith("fla.")):
            continue
        for key, value in list(vars(module).items()):
            if key == "ACT2FN" and isinstance(value, dict):
                value.update({act: routed(fn) for act, fn in value.items()})
            elif (new := routed(value)) is not value:
                setattr(module, key, new)
