"""Between two trials of a process: everything that the first may have changed is put back."""

from __future__ import annotations

import gc
import os
import random
import sys
from collections.abc import Callable
from functools import partial
from typing import Any


class Clean:
    """Puts the process back as it was before its first trial, so that a trial cannot tell what ran before it."""

    def __init__(self) -> None:
        self._settings = [(put, get()) for get, put in settings()]
        self()
        gc.freeze()  # what the process is made of: looking through it again after each trial would take 0.3 s

    def __call__(self) -> None:
        import numpy as np
        import torch

        for put, value in self._settings:
            put(value)
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        gc.collect()
        if torch.cuda.is_available():
            torch._C._cuda_clearCublasWorkspaces()  # what cuBLAS keeps for each stream that it has run on
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def settings() -> list[tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """What a trial may change of its process beside the generators, each as how to read it and how to put it back."""
    import torch
    from torch.nn.modules import module

    hooks = [value for name, value in vars(module).items() if name.startswith("_global_") and isinstance(value, dict)]
    return [
        (lambda: dict(os.environ), lambda kept: _refill(os.environ, kept)),
        (os.getcwd, os.chdir),
        (lambda: list(sys.path), lambda kept: sys.path.__setitem__(slice(None), kept)),
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_default_device, lambda kept: torch.set_default_device(None if kept.type == "cpu" else kept)),
        (torch.get_num_threads, torch.set_num_threads),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
        (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
        (lambda: torch.backends.cudnn.benchmark, lambda kept: setattr(torch.backends.cudnn, "benchmark", kept)),
        (
            lambda: [dict(each) for each in hooks],
            lambda kept: [_refill(*pair) for pair in zip(hooks, kept, strict=True)],
        ),
        (lambda: module._global_is_full_backward_hook, partial(setattr, module, "_global_is_full_backward_hook")),
        *([(_limits, _limit)] if sys.platform != "win32" else []),
    ]


def _refill(mapping: Any, kept: dict[Any, Any]) -> None:
    if mapping != kept:
        mapping.clear()
        mapping.update(kept)


def _limits() -> dict[int, tuple[int, int]]:
    """The process's limits on memory and file size, as getrlimit has them."""
    import resource

    return {
        kind: resource.getrlimit(kind) for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE)
    }


def _limit(kept: dict[int, tuple[int, int]]) -> None:
    import resource

    for kind, limits in kept.items():
        if resource.getrlimit(kind) != limits:
            resource.setrlimit(kind, limits)
