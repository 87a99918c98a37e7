"""Symbolic links that lead out of a results folder: nothing is read or written through them.

A folder that someone else packed may hold a metrics.jsonl that is a link to a file of yours, to which a resumed trial
would append, or an analysis/ in which a report would overwrite another's files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from attnlab.util.errors import UserError

SCRATCH = "ray"  # at the top of a sweep's folder: removed when the sweep starts


def leads_out(path: Path, root: Path) -> bool:
    """Whether a path below a folder is a link, or below one, to what is outside of it."""
    real = os.path.realpath(root)
    return os.path.commonpath([real, os.path.realpath(path)]) != real


def strays(root: Path) -> list[Path]:
    """Every link below a folder that leads out of it, sorted."""
    return sorted(path for path in _links(root, skip=SCRATCH) if leads_out(path, root))


def _links(folder: Path, skip: str = "") -> Iterator[Path]:
    try:
        entries = list(os.scandir(folder))
    except OSError:  # not there, or not to be read: whoever reads it says so
        return
    for entry in entries:
        if entry.is_symlink():
            yield Path(entry.path)
        elif entry.is_dir(follow_symlinks=False) and entry.name != skip:
            yield from _links(Path(entry.path))


def stray(path: Path) -> UserError:
    """The error for a link that leads out of its folder."""
    where = os.path.realpath(path)
    return UserError(f"{path}: it leads out of the results folder, to {where}; nothing is read or written through it")
