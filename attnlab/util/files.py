"""Atomic writers and tolerant readers of text and JSON files."""

from __future__ import annotations

import errno
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attnlab.util.errors import DiskFull


def strict(value: Any) -> Any:
    """`value` with every number that is not finite as None, so that it is JSON."""
    if isinstance(value, Mapping):
        return {str(k): strict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Around writing `path`: a full disk is DiskFull."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and not isinstance(error, DiskFull):
            raise DiskFull(error.errno, os.strerror(error.errno), str(path)) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write a whole file atomically; its folder is made if missing. Raises DiskFull."""
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)  # mkstemp's 0600 would hide results from the group on shared storage
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON atomically."""
    write_text(path, json.dumps(strict(value), indent=1, allow_nan=False) + "\n")


def write_lines(path: Path, values: Iterable[Any]) -> None:
    """Write a list as strict JSON atomically, one value a line: the encoder that indents takes ten times as long."""
    lines = ",\n".join(json.dumps(strict(value), allow_nan=False) for value in values)
    write_text(path, f"[\n{lines}\n]\n")


def read_json(path: Path) -> Any:
    """A JSON file's value. Raises ValueError naming the file when it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: damaged JSON ({error})") from None


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Values of a JSON-lines file, up to the first line that is not whole."""
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return
