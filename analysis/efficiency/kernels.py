"""Training's kernels on CUDA, tuned in stages and kept where the sweep keeps them."""

from __future__ import annotations

from pathlib import Path

import torch

from attnlab.kernels.cuda import autotune
from attnlab.training import kernel_cache


def ready(device: torch.device | str, results: Path) -> None:
    """Prepare CUDA's kernels, kept in $ATTNLAB_KERNEL_CACHE or the folder of all sweeps' `results`."""
    if torch.device(device).type == "cuda":
        kernel_cache.use(kernel_cache.directory(None, results), device)
        autotune.install()
