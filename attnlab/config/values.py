"""What every value of a sweep may be, whatever its key: a tree that can be held, written and read back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from attnlab.util.secret import masked
from attnlab.util.text import quoted, shortened

MOST = 2**63 - 1  # the largest whole number of PyTorch, NumPy and Parquet
COUNT, STEPS = 10**6, 10**10
# No experiment reaches these bounds: a larger number is a slip of the pen.
Size = Annotated[int, Field(gt=0, le=10**7)]  # channels, heads
Steps = Annotated[int, Field(gt=0, le=STEPS)]  # and sequences in a batch, tokens in a sequence
Rate = Annotated[float, Field(le=1e30)]  # learning rates and the like; an arm may be meant to diverge
Count = Annotated[int, Field(gt=0, le=COUNT)]  # trials, workers, restarts
Seconds = Annotated[float, Field(le=1e9)]  # some 30 years
Seed = Annotated[int, Field(ge=-MOST, le=MOST)]

LONGEST_KEY = 120
DEPTH = 50
SECRET = (
    "a password in a URI, which the results' sweep.yaml would keep; take it out and set HF_TOKEN (or run `hf auth "
    "login`), or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or ~/.aws/credentials)"
)


def problems(tree: Any, key: str = "", depth: int = 0) -> Iterator[str]:
    """What is wrong with a tree's values, one line each, `key: what is wrong`."""
    if depth > DEPTH:
        yield f"{key}: nested deeper than {DEPTH} levels"
    elif isinstance(tree, Mapping):
        for name, value in tree.items():
            below = f"{key}.{name}" if key else str(name)
            if not isinstance(name, str) or len(name) > LONGEST_KEY:
                yield f"{key or 'the sweep'}: the key {quoted(name)}; a key is a text of at most {LONGEST_KEY} letters"
            elif surrogate(name):
                yield f"{key or 'the sweep'}: the key {quoted(name)} holds half a character (a lone surrogate)"
            elif secret(name):
                yield f"{key or 'the sweep'}: the key {quoted(name)}: {SECRET}"
            else:
                yield from problems(value, below, depth + 1)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from problems(value, key, depth + 1)
    elif problem := scalar_problem(tree):
        yield f"{shortened(key, 100)}: {problem}"


def scalar_problem(value: Any) -> str | None:
    """Why a value can be no setting: a number out of range, or a text that cannot be written. None if it can."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"a finite number, not {value}"
    if isinstance(value, int) and abs(value) > MOST:
        return f"a whole number within +-{MOST:,}, not {quoted(value)}"
    if isinstance(value, str) and surrogate(value):
        return f"{quoted(value)} holds half a character (a lone surrogate)"
    if isinstance(value, str) and secret(value):
        return f"{quoted(value)}: {SECRET}"
    return None


def secret(text: str) -> bool:
    """Whether a text holds a URI with a password, a user or a query value that looks like a credential."""
    return "://" in text and masked(text) != text


def confusion(value: Any, annotation: Any) -> Literal["bool_type", "float_type", "int_type"] | None:
    """Pydantic's type of error for a boolean in place of a number, in a list too, or a number of a boolean's."""
    kinds = kinds_of(annotation)
    if bool in kinds:
        return "bool_type" if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    if any(isinstance(each, bool) for each in (value if isinstance(value, (list, tuple)) else (value,))):
        return "float_type" if float in kinds else "int_type" if int in kinds else None
    return None


def kinds_of(annotation: Any) -> list[Any]:
    """The plain types that an annotation names."""
    parts = get_args(annotation)
    return [kind for part in parts for kind in kinds_of(part)] if parts else [annotation]


def surrogate(text: str) -> bool:
    """Whether a text cannot be written as UTF-8."""
    return any("\ud800" <= character <= "\udfff" for character in text) if not text.isascii() else False
