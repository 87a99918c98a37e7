"""Text that messages share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for a near miss, else the known words, for the end of an error message."""
    word, known = str(word), [str(name) for name in known]
    swapped = [name for name in known if sorted(name) == sorted(word)]  # two mistakes to difflib, and one to a typist
    close = swapped or difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; one of: {', '.join(known)}"


def last_line(error: str | None) -> str:
    """What a traceback, such as `Results.error`, says in the end; "" if there is none."""
    lines = [line.strip() for line in (error or "").splitlines() if line.strip()]
    return lines[-1] if lines else ""
