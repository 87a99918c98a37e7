"""Passwords in URIs, kept out of what others can read: messages, records and the list of processes."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

# What stands before an @ holds no :// itself, so that a URI within a URI is found too. A password may hold what should
# have been escaped: a quote, a question mark, a slash, and where it holds no slash a blank.
BEFORE_AT = re.compile(r"(?<=://)(?:(?!://)\S)*@|(?<=://)[^\s/@:]*:(?! )[^/@\r\n]{1,200}@")
KEY = re.compile(r"[?&#;]([\w.%+\[\]-]{1,100})=")
# A value in JSON may hold blanks; any other ends at a blank or an &.
VALUE = re.compile(r"(?:\{(?:[^{}]|\{[^{}]*\}?)*\}?)?[^\s&]*")
CREDENTIAL = re.compile(
    r"secret|passw|passphrase|pwd|token|key(?!word)|sig|cred|auth(?!or)|sas|jwt|bearer|session|private|assertion|^pass$|^pw$",
    re.IGNORECASE,
)
CLOSING = "'\"<>)],.;:"  # of the sentence that quotes a URI
HIDDEN = "***"


def masked(text: str) -> str:
    """A text without the users and passwords of the URIs in it, and without query values that look like credentials."""
    return _without_values(BEFORE_AT.sub(_user, text))


def _user(found: re.Match[str]) -> str:
    """What stands before an @: a user, with or without a password, or a path that holds an @."""
    authority = re.split(r"[/?#]", found[0], maxsplit=1)[0]
    return f"{HIDDEN}@" if ":" in authority or "@" in authority else found[0]


def _without_values(text: str) -> str:
    """Mask the values of a query's credentials."""
    parts, at = list[str](), 0
    while found := KEY.search(text, at):
        parts.append(text[at : found.end()])
        at = found.end()
        if CREDENTIAL.search(unquote(found[1])) and (value := VALUE.match(text, at)) and value[0]:
            parts.append(HIDDEN)
            at += len(value[0].rstrip(CLOSING))
    return "".join([*parts, text[at:]])


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
