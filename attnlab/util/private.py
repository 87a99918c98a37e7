"""Folders that only this user can write to, as those must be whose files are run or unpickled."""

from __future__ import annotations

import hmac
import os
import pwd
import secrets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from attnlab.util.files import cache_root

OTHERS = stat.S_IWGRP | stat.S_IWOTH
KEY = "folders.key"  # in the user's cache: what this user's marks are made with
MARK = ".made-by"  # in a folder: who made it, and where


class NotPrivate(PermissionError):
    """A folder that others may have written to."""


def make(path: Path) -> None:
    """Make a folder, 0700, or take one that is private already. Raises NotPrivate, or another OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    require(path)


def require(path: Path) -> None:
    """Raise NotPrivate, one line, unless a folder is this user's and nobody else may write to it."""
    if why := why_not(path):
        raise NotPrivate(why)


def why_not(path: Path) -> str | None:
    """Why an existing folder is not private, on one line; None if it is."""
    found = path.stat()
    if found.st_uid != os.geteuid():
        return f"{path} belongs to {_user(found.st_uid)}, not to {_user(os.geteuid())}"
    if found.st_mode & OTHERS:
        mode = stat.S_IMODE(found.st_mode)
        return f"others may write to {path} (mode {mode:o}); remove it, or chmod -R go-w it if nobody else has"
    return None


def _user(number: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(number).pw_name
    return f"user {number}"


def mark(path: Path) -> str | None:
    """What marks a folder at this path as made by this user, which nobody else can tell; None without a cache."""
    key = cache_root() / KEY
    try:
        if not key.exists():
            _make_key(key)
        return hmac.new(key.read_bytes(), str(path.resolve()).encode(), "sha256").hexdigest()
    except OSError:
        return None


def _make_key(key: Path) -> None:
    """Write a key that only this user can read, whole at once, unless another process has."""
    key.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=key.parent, encoding="ascii") as scratch:  # 0600
        scratch.write(secrets.token_hex(32))
        scratch.flush()
        with suppress(FileExistsError):
            os.link(scratch.name, key)


def is_marked(path: Path) -> bool:
    """Whether this user made the folder, at this path. Without a cache to keep the key in, any folder counts."""
    expected = mark(path)
    try:
        return expected is None or hmac.compare_digest((path / MARK).read_text(encoding="ascii"), expected)
    except (OSError, ValueError):
        return False
