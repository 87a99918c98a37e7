"""Files that appear whole or not at all, tolerant readers, digests, and the cache folder."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from attnlab.util.errors import DiskFull, UserError

CACHE = "ATTNLAB_CACHE"
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)

REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.EIO)  # of a disk, whoever writes
CACHE_HINT = "of the cache; make room, or set ATTNLAB_CACHE to another folder"


def cache_root() -> Path:
    """`$ATTNLAB_CACHE`, else ~/.cache/attnlab. Raises UserError where there is no home folder."""
    try:
        return Path(os.environ.get(CACHE) or "~/.cache/attnlab").expanduser()
    except RuntimeError:
        why = "this user has no home folder (HOME)"
        raise UserError(f"{why}: set {CACHE} to a folder that can be written to") from None


def exists(name: str) -> bool:
    """Whether a user's text names a file or folder. One that no path can be, as for its length, does not."""
    try:
        return Path(name).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long; the home of a user that there is not; a NUL
        return False


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Raise DiskFull naming `path` where writing it meets a full disk, or one that takes nothing more.

    Raises UserError naming the variable to set where it lies in a cache folder that cannot be written to.
    """
    try:
        yield
    except OSError as error:
        refused = error.filename if error.errno in NOT_WRITABLE else None
        if refused and _in_cache(path) and _in_cache(os.fsdecode(refused)):
            why = f"the cache cannot be written to ({error.strerror})"
            raise UserError(f"{cache_root()}: {why}; set {CACHE} to a folder that can be") from error
        short = error.errno is None and "requested and" in str(error)  # NumPy's words for what did not fit
        number = errno.ENOSPC if short else error.errno
        if number in REFUSALS and not isinstance(error, DiskFull):
            hint = f" ({CACHE_HINT})" if _in_cache(path) else ""
            raise DiskFull(number, os.strerror(number) + hint, str(path)) from error
        raise


def _in_cache(path: str | Path) -> bool:
    try:
        return Path(path).is_relative_to(cache_root())
    except UserError:  # there is none
        return False


@contextmanager
def replacing(path: Path, *, overwrite: bool = True, sync: bool = True) -> Iterator[Path]:
    """Give a scratch name for a file or folder, which then appears whole as `path`.

    Raises DiskFull, with `path` as it was.

    Args:
        overwrite: False leaves what another process has put there meanwhile.
        sync: force it to the disk first.
    """
    with naming_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f"{_scratch_prefix(path)}{uuid4().hex[:8]}")
        try:
            yield scratch
            is_folder = scratch.is_dir()
            if sync:
                for written in (*(scratch.iterdir() if is_folder else ()), scratch):
                    _sync(written)
            if overwrite and is_folder and path.exists():
                shutil.rmtree(path)
            if overwrite or is_folder:
                os.replace(scratch, path)
            else:
                os.link(scratch, path)
            if sync and is_folder:
                _sync(path.parent)
        except OSError:
            if overwrite or not path.exists():
                raise
        finally:
            remove(scratch)


def remove_leftovers(path: Path) -> None:
    """Remove what killed writers of `path` left on this host. None may be at work."""
    for scratch in path.parent.glob(f"{_scratch_prefix(path)}*"):
        remove(scratch)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _scratch_prefix(path: Path) -> str:
    return f".{path.name}.tmp-{socket.gethostname()}-"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str, *, overwrite: bool = True) -> None:
    """Write a file and its folder atomically. `overwrite` as for `replacing`. Raises DiskFull."""
    with replacing(path, overwrite=overwrite) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON atomically."""
    write_text(path, json.dumps(json_value(value), indent=1, allow_nan=False) + "\n")


def write_json_rows(path: Path, values: Iterable[Any]) -> None:
    """Write a list as strict JSON atomically, a value per line. Indenting would take ten times as long."""
    lines = ",\n".join(json.dumps(json_value(value), allow_nan=False) for value in values)
    write_text(path, f"[\n{lines}\n]\n")


def json_value(value: Any) -> Any:
    """Replace every number that is not finite by None, which strict JSON can hold."""
    if isinstance(value, Mapping):
        return {str(k): json_value(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises ValueError naming the file when it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: damaged JSON ({error})") from None


def text_digest(text: str, digits: int = 64) -> str:
    """SHA-256 of a text, the first hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def json_digest(value: Any, digits: int = 20) -> str:
    """SHA-256 of a value's canonical JSON, the first hexadecimal digits."""
    return text_digest(json.dumps(value, sort_keys=True, separators=(",", ":")), digits)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
