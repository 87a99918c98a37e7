"""Putting the substitutes and patches into FLA, once per process.

A function is replaced wherever FLA's modules hold it, by the object's identity, because layers bind kernels by
`from ... import`.
"""

from __future__ import annotations

import importlib
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

from attnlab.kernels import fla_patches
from attnlab.kernels.cpu import modules, norms, softmax_ops, variant_ops  # noqa: F401 (importing them registers them)
from attnlab.kernels.cpu.recurrent import delta_ops, linear_ops, log_linear, mesa, momentum  # noqa: F401 (the same)
from attnlab.kernels.dispatch import EVERY_DEVICE, SUBSTITUTES, router

_lock = threading.Lock()
_installed = False


def import_fla() -> None:
    """Import every FLA module that holds kernels, without its notes about missing GPUs and flash-attn."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Triton is not supported", category=UserWarning)
        warnings.filterwarnings("ignore", message="Flash Attention is not installed", category=ImportWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # torch's own, from compiling at FLA's import
        for name in ("fla.ops", "fla.modules", "fla.layers", "fla.models"):
            importlib.import_module(name)


def install() -> None:
    """Make FLA's layers run on CPU tensors, forward and backward. Idempotent.

    CUDA tensors keep FLA's kernels.

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
        fla_patches.patch()
        _installed = True


def _routes() -> dict[int, tuple[Any, Callable[..., Any]]]:
    """Map the id of FLA's function to (the function, its router)."""
    routes, missing = {}, []
    for path, function in SUBSTITUTES.items():
        module, _, name = path.partition(":")
        try:
            original = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            missing.append(path)
            continue
        routes[id(original)] = (original, router(original, function, name, path in EVERY_DEVICE))
    if missing:
        version = getattr(sys.modules.get("fla"), "__version__", "?")
        raise RuntimeError(
            f"flash-linear-attention {version} has no {', '.join(missing)}; attnlab replaces these on CPU tensors and "
            "was tested with the version in constraints.txt"
        )
    return routes


def _replace(routes: dict[int, tuple[Any, Callable[..., Any]]]) -> None:
    """Put each router where FLA's loaded modules, and their tables of activations, hold the original."""

    def routed(value: Any) -> Any:
        original, router_of_it = routes.get(id(value), (None, None))
        return router_of_it if router_of_it and original is value else value

    for name, module in list(sys.modules.items()):
        if module is None or not (name == "fla" or name.startswith("fla.")):
            continue
        for key, value in list(vars(module).items()):
            if key == "ACT2FN" and isinstance(value, dict):
                value.update({act: routed(fn) for act, fn in value.items()})
            elif (new := routed(value)) is not value:
                setattr(module, key, new)
