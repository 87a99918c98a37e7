"""Which modules may be imported by a name in text: those that the user named.

What lies in a results folder or a checkpoint is data. A dotted name in it, such as `my_mixer:MyMixer`, is imported only
if the user named `my_mixer` too: in a sweep file or a trial given to this process, by `--trust`, or from Python by
`trust=` or `trust_remote_code=True`. An import alone runs code, and so does a call of what was imported.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from attnlab.util.errors import UserError

DOTTED = re.compile(r"(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):[^\W\d]\w*")
LONGEST = 200  # characters of a dotted name
_named: Counter[str] = Counter()  # how often each module is named, in this process
_lock = threading.Lock()


class UntrustedModule(UserError):
    """A name in text wants a module that the user did not name. Its one line says which, and how to allow it."""


def modules_in(tree: Any) -> list[str]:
    """The modules of every `package.module:Class` among the texts of a tree, each once."""
    return list(dict.fromkeys(match["module"] for text in _texts(tree) if (match := DOTTED.fullmatch(text))))


def _texts(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, Mapping):
        yield from _texts(list(tree.values()))
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from _texts(item)


def name(modules: Iterable[str]) -> None:
    """Note modules that the user named; this process may import them from now on."""
    with _lock:
        _named.update(modules)


@contextmanager
def naming(modules: Iterable[str]) -> Iterator[None]:
    """Note modules that the user named, while the context is open."""
    modules = list(modules)
    name(modules)
    try:
        yield
    finally:
        with _lock:
            _named.subtract(modules)


def named() -> list[str]:
    """Every module that the user named, for another process that works for this one."""
    with _lock:
        return sorted(module for module, times in _named.items() if times > 0)


def require(path: str, what: str) -> None:
    """Raise UntrustedModule unless the user named the module of `path`, `package.module:Class`.

    Args:
        path: the dotted name.
        what: what it is said to be, such as `mixer`, for the message.
    """
    match = DOTTED.fullmatch(path)
    if match is None or len(path) > LONGEST:
        raise UntrustedModule(f"{what} {path[:LONGEST]!r}: it is no package.module:Class")
    if (module := match["module"]) not in named():
        raise UntrustedModule(
            f"{what} {path}: module {module} was named in no sweep file or option given here, so it is not imported; "
            f"--trust {module} allows it, or from Python trust=[{module!r}] or trust_remote_code=True"
        )


def load(path: str, what: str) -> Any:
    """Import the object at `module:name`; a module of the user's may lie in the working directory.

    Raises:
        UntrustedModule: the user did not name the module; nothing was imported.
    """
    require(path, what)
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    return imported(path)


def imported(path: str) -> Any:
    """Import the object at `module:name` of the program's own tables, unasked. Never for a name from a file."""
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)
