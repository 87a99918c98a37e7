"""What this machine has."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # version 2, 1: a container's


def host_bytes() -> float:
    """The most memory that a process can have here: all of it with the swap, or a container's limit with the swap.

    Infinite where that is not known, as on systems that extend their swap.
    """
    if not sys.platform.startswith("linux"):
        return math.inf
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in map(Path, CGROUPS):
        text = file.read_text(encoding="utf-8").strip() if file.exists() else ""
        memory = min(memory, float(text)) if text.isdigit() else memory
    return memory + _swap_bytes()


def _swap_bytes() -> float:
    file = Path("/proc/meminfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return sum(1024.0 * int(line.split()[1]) for line in lines if line.startswith("SwapTotal:"))
