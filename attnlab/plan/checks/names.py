"""Which names a sweep and its arms may have: those that can be a folder of their own, on any file system."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator

from attnlab.records.paths import SweepDir
from attnlab.util.text import quoted, visible

MOST_BYTES = 100  # of UTF-8; file systems take 255, and files are named after arms with more besides
RULE = f"an arm's name is its folder's: at most {MOST_BYTES} bytes, without / and \\, and no dot at its beginning"


def problems(sweep: str, arms: Iterable[str]) -> Iterator[str]:
    """What is wrong with a sweep's and its arms' names, one line each."""
    if len(sweep.encode()) > MOST_BYTES:
        yield f"name: {quoted(sweep)} has {len(sweep.encode())} bytes; at most {MOST_BYTES}"
    folders: dict[str, str] = {}
    for arm in arms:
        if problem := _problem(arm):
            yield f"arms.{visible(arm)[:40]}: {problem}; {RULE}"
        elif other := folders.get(folder_of(arm)):
            yield f"arms: {quoted(other)} and {quoted(arm)} would share a folder where case does not count; rename one"
        folders.setdefault(folder_of(arm), arm)


def _problem(arm: str) -> str | None:
    if not arm.strip():
        return "an empty name"
    if arm.startswith("."):
        return "a dot at its beginning"
    if wrong := [c for c in arm if c in "/\\" or unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]:
        return f"the character {quoted(wrong[0])}"
    if len(arm.encode()) > MOST_BYTES:
        return f"{len(arm.encode())} bytes"
    if arm != arm.strip():
        return "a blank at its beginning or end"
    if folder_of(arm) in {folder_of(name) for name in SweepDir.names()}:
        return "a reserved name, of a file in the sweep's folder"
    return None


def folder_of(name: str) -> str:
    """What a name comes to on a file system that minds neither case nor how accents are composed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
