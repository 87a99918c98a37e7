"""Text that messages and reports share."""

from __future__ import annotations

import difflib
import functools
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attnlab.util.secret import masked

LISTED = 120  # characters of the words that an error message lists
FRAME = re.compile(r" +File ")  # of a traceback
RAISED = re.compile(r"[\w.]+(Error|Exception|Exit|Interrupt)(: |$)")
NONE = "-"  # stands for a figure that is not known


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of an error message: `; did you mean 'x'?`, or the known words."""
    word, known = shortened(str(word), 100), [str(name) for name in known]
    swapped = [name for name in known if sorted(name) == sorted(word)]  # two mistakes to difflib, one to a typist
    close = swapped or difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {quoted(close[0])}?"
    return f"; one of: {textwrap.shorten(', '.join(map(visible, known)), LISTED, placeholder=' ... and others')}"


def visible(text: str) -> str:
    """A text with whatever does not show, as a control character, escaped. Line breaks become blanks."""
    text = text.replace("\n", " ").replace("\xa0", " ")
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shortened(text: str, most: int) -> str:
    """A text of at most `most` characters: of a longer one the beginning and the end. Passwords in URIs are masked."""
    text = masked(text)  # before it is cut, which may leave a password without the @ that tells it
    if len(text) <= most:
        return text
    tail = (most - 3) // 3
    return f"{text[: most - 3 - tail]}...{text[-tail:]}"


def quoted(value: object, most: int = 60) -> str:
    """A user's value in a message: its `repr`, cut in the middle if it is long."""
    try:
        return shortened(repr(value), most)
    except (ValueError, RecursionError):  # a whole number of more than 4,300 digits; a list within itself
        return f"a {type(value).__name__} that is too large to show"


@functools.lru_cache(maxsize=1024)
def say_once(line: str) -> None:
    """Print a line for the user, once per process."""
    print(f"attnlab: {line}", flush=True)


def one_line(message: object) -> str:
    """An error's message, or a text, on one line, passwords in URIs masked. An error's type if it has no message."""
    return visible(masked(" ".join(str(message).split()))) or type(message).__name__


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without its full stop. Its type if there is none."""
    lines = masked(str(error)).strip().splitlines()
    return (lines[0].strip() if lines else type(error).__name__).rstrip(".")


def reason(text: str | None) -> str:
    """The line of a traceback that names its exception, or "".

    That is the first one after the last frame. What follows it may be advice, such as CUDA's, which goes on for lines.
    Of a text without frames it is the last line that names an exception, else the last one.
    """
    lines = [line for line in (text or "").splitlines() if line.strip()]
    last_frame = max((i for i, line in enumerate(lines) if FRAME.match(line)), default=None)
    if last_frame is not None:
        lines = [line for line in lines[last_frame + 1 :] if not line[0].isspace()][:1] or lines
    raised = [line for line in lines if RAISED.match(line.strip())]
    return (raised or lines or [""])[-1].strip()


def number(value: Any) -> float | None:
    """A finite number as it is. Anything else, a boolean included, as None."""
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return value if usable else None


def value_text(value: Any) -> str:
    """A metric's value: four decimals, or three digits if it is small. Large values in full."""
    if number(value) is None:
        return NONE
    if 1e4 <= abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.3g}"


def gib_text(size: float) -> str:
    """Bytes as GiB with one decimal, or TiB."""
    return f"{size / 2**40:,.1f} TiB" if size >= 2**40 else f"{size / 2**30:,.1f} GiB"


def count_text(value: Any) -> str:
    """A count in full, thousands set apart."""
    return NONE if number(value) is None else f"{value:,.0f}"


def large_text(value: Any) -> str:
    """A count with three digits and a unit: 12.3M."""
    if number(value) is None:
        return NONE
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"


def seconds_text(value: Any) -> str:
    """Seconds, with a decimal only where it says something."""
    return NONE if number(value) is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def setting_text(value: Any) -> str:
    """One sampled value."""
    return f"{value:.3g}" if isinstance(value, float) else "null" if value is None else str(value)


def settings_text(settings: Mapping[str, Any]) -> str:
    """Sampled settings by the last part of their keys: `lr 0.0032, weight_decay 0.1`."""
    return ", ".join(f"{k.rpartition('.')[2]} {setting_text(v)}" for k, v in settings.items()) or NONE


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else "none"


def spaced(name: str) -> str:
    """`unigram_loss` -> `unigram loss`."""
    return name.replace("_", " ")
