"""Put back between two trials what the first may have changed of its process."""

from __future__ import annotations

import gc
import os
import random
import resource
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.modules import module


class ProcessReset:
    """Puts the process back to before its first trial, so that trials are independent."""

    def __init__(self) -> None:
        self._settings = [(put, get()) for get, put in process_settings()]
        self()
        gc.freeze()  # looking through all modules again after each trial would take 0.3 s

    def __call__(self) -> None:
        """Reset the process."""
        for put, value in self._settings:
            put(value)
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        gc.collect()
        if torch.cuda.is_available():
            torch._C._cuda_clearCublasWorkspaces()  # one for each stream that cuBLAS ran on
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def process_settings() -> list[tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """Getters and setters of what a trial may change of its process, without random generators."""
    hooks = [value for name, value in vars(module).items() if name.startswith("_global_") and isinstance(value, dict)]
    return [
        (lambda: dict(os.environ), lambda old: _refill(os.environ, old)),
        (os.getcwd, os.chdir),
        (lambda: list(sys.path), lambda old: sys.path.__setitem__(slice(None), old)),
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_default_device, lambda old: torch.set_default_device(None if old.type == "cpu" else old)),
        (torch.get_num_threads, torch.set_num_threads),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
        (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
        (lambda: torch.backends.cudnn.benchmark, partial(setattr, torch.backends.cudnn, "benchmark")),
        (lambda: [dict(each) for each in hooks], lambda old: list(map(_refill, hooks, old))),
        (lambda: module._global_is_full_backward_hook, partial(setattr, module, "_global_is_full_backward_hook")),
        (_get_limits, _set_limits),
    ]


def _refill(mapping: Any, old: dict[Any, Any]) -> None:
    if mapping != old:
        mapping.clear()
        mapping.update(old)


def _get_limits() -> dict[int, tuple[int, int]]:
    """The process's limits on memory and file size, as getrlimit has them."""
    kinds = (resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE)
    return {kind: resource.getrlimit(kind) for kind in kinds}


def _set_limits(old: dict[int, tuple[int, int]]) -> None:
    for kind, limits in old.items():
        if resource.getrlimit(kind) != limits:
            resource.setrlimit(kind, limits)
