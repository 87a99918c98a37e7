"""Passwords in URIs, kept out of what others can read: messages, records and the list of processes."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

# The user and password before an @ may hold a quote or a question mark that was not escaped.
URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+://)((?:[^\s/@:]+:[^\s/@]*@)?)([^\s'\"<>]*)")
QUERY = re.compile(r"(?i)([?&][^=&]*(?:secret|password|token|key|sig)[^=&]*=)[^&]*")
HIDDEN = "***"


def masked(text: str) -> str:
    """A text without the user and password, and the secret parameters, of the URIs in it."""
    return URI.sub(lambda found: found[1] + _masked_rest(bool(found[2]), found[3]), text)


def _masked_rest(secret: bool, rest: str) -> str:
    """What follows in a URI; `secret`: a user and password stood before it."""
    place, mark, query = rest.partition("?")
    user, at, host = place.rpartition("@")
    if secret or (at and (":" in user or "/" not in user)):  # a password may hold a slash; a path may hold an @
        place = f"{HIDDEN}@{host}"
    return place + QUERY.sub(rf"\g<1>{HIDDEN}", mark + masked(query))


def hide_arguments(words: Iterable[str]) -> None:
    """Mask the passwords among this process's arguments in the list of processes. Linux only; elsewhere nothing."""
    secret = [word for word in words if masked(word) != word]
    if not secret:
        return
    with suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # proc(5): arg_start and arg_end, the 48th and 49th
        if not 0 < start < end:
            return
        shown = held = ctypes.string_at(start, end - start)
        for word in secret:
            shown = shown.replace(word.encode(), _as_long(masked(word), word))
        if len(shown) == len(held):
            ctypes.memmove(start, shown, len(shown))


def _as_long(shown: str, word: str) -> bytes:
    """The bytes of `shown`, filled up or cut to the length of `word`."""
    length = len(word.encode())
    return shown.encode()[:length].ljust(length, b" ")
