"""What a trial ran on, for its records."""

from __future__ import annotations

import functools
import platform
import socket
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from attnlab.kernels import dispatch

PACKAGES = ("attnlab", "torch", "triton", "flash-linear-attention", "transformers", "ray", "optuna")


def describe(device: torch.device, world: int) -> dict[str, Any]:
    """Device, workers, host and the versions that could change a result."""
    cpu = platform.processor() or platform.machine()
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "device_type": device.type,
        "kernels": "pytorch" if dispatch.calls else "fla",  # whether a PyTorch substitute ran in this trial
        "workers": world,
        "threads": torch.get_num_threads(),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "versions": {name: installed for name in PACKAGES if (installed := version_of(name))},
    }


@functools.cache  # it is looked up in files, for every trial
def version_of(name: str) -> str | None:
    """The installed version of a package; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
