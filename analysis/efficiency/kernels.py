"""Kernels on CUDA as training has them: tuned in stages, and kept where the sweep keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def ready(device: Any, results: Path) -> None:
    """To be called before the first kernel runs; nothing on a CPU.

    Args:
        device: a torch device or its name.
        results: the folder of all sweeps' results; $ATTNLAB_KERNEL_CACHE goes first.
    """
    import torch

    if torch.device(device).type != "cuda":
        return
    from attnlab.kernels.cuda import autotune
    from attnlab.training import kernel_cache

    kernel_cache.use(kernel_cache.directory(None, results), device)
    autotune.install()
