"""What the GPU does in a step: its kernels by the time they take; and whether there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch


def require_gpu() -> None:
    """SystemExit, with the reason, where PyTorch finds no GPU: what is measured there has no stand-in."""
    if not torch.cuda.is_available():
        raise SystemExit("this measures a GPU, and PyTorch finds none here")


class Kernel(NamedTuple):
    """One kernel's (or copy's) part of a step: its launches, and their milliseconds summed."""

    name: str
    ms: float
    launches: float


def kernels(run: Callable[[], Any], steps: int = 5) -> list[Kernel]:
    """The kernels of `run` on CUDA, called `steps` times, those that take longest first; times and launches per call.

    Args:
        run: a warm step: what is compiled or tuned in it would be counted.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as record:
        for _ in range(steps):
            run()
        torch.cuda.synchronize()
    found = [
        Kernel(event.key, event.self_device_time_total / 1e3 / steps, event.count / steps)
        for event in record.key_averages()
        if event.self_device_time_total
    ]
    return sorted(found, key=lambda kernel: -kernel.ms)


def busy_ms(found: list[Kernel]) -> float:
    """Of one step: the kernels' times summed, which of one stream is how long the GPU was busy."""
    return sum(kernel.ms for kernel in found)
