"""The grammar of claims such as "gla < standard on val_loss by 2%".

    claim    = arm , relation , ( arm | number ) , [ "on" , metric ] , [ "by" , margin ] ;
    relation = "<" | ">" | "beats" | "~" ;
    margin   = number , [ "%" ] ;                        (* at least 0; "~" needs one above 0 *)
    metric   = a metric that the trials report | a benchmark's name ;     (* left out: the sweep's own *)
    arm      = an arm of the sweep ;      number = a decimal number, such as 4.2 or 1e-3 ;

An arm whose name has blanks or is a number stands in quotes: `'gla wide' < "1e-3"`.

`<` and `>` speak of values, `beats` of what is better for the metric: below for a loss, above for an accuracy. "by"
asks for that much at least: `a < b by 0.1` says mean(a) < mean(b) - 0.1, and `by 2%` says mean(a) < 0.98 mean(b). `a ~
b by 0.1` says that they differ by less than 0.1. Percentages are of the right side's value. Blanks separate words.

`attnlab.ranking.claims` judges them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from attnlab.util.errors import UserError
from attnlab.util.text import quoted

RELATIONS = ("<", ">", "beats", "~")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
WORD = re.compile(r"""\"[^\"]*\"|'[^']*'|\S+""")  # a word, or several in quotes
FORM = "write ARM < ARM on METRIC by 2%; relations are <, >, beats and ~"


@dataclass(frozen=True)
class Claim:
    """One claim as written. `right`: an arm or a number; `metric` None: the sweep's own."""

    left: str
    relation: str
    right: str | float
    metric: str | None = None
    margin: float = 0.0
    percent: bool = False

    def __str__(self) -> str:
        right = f"{self.right:g}" if isinstance(self.right, float) else _quoted(self.right)
        on = f" on {self.metric}" if self.metric else ""
        size = f" by {self.margin:g}{'%' if self.percent else ''}" if self.margin else ""
        return f"{_quoted(self.left)} {self.relation} {right}{on}{size}"


def parse(text: str) -> Claim:
    """The claim of that text. Raises UserError."""
    written = WORD.findall(text)
    words = [word[1:-1] if len(word) > 1 and word[0] == word[-1] in ("'", '"') else word for word in written]
    if len(words) < 3 or words[1] not in RELATIONS:
        raise UserError(f"claim {quoted(text, 120)}: {FORM}")
    left, relation, right, rest = words[0], words[1], words[2], words[3:]
    metric, margin, percent = None, 0.0, False
    if rest[:1] == ["on"] and len(rest) > 1:
        metric, rest = rest[1], rest[2:]
    if rest[:1] == ["by"] and len(rest) > 1:
        size, percent, rest = rest[1].removesuffix("%"), rest[1].endswith("%"), rest[2:]
        if rest[:1] == ["%"]:
            percent, rest = True, rest[1:]
        if not NUMBER.fullmatch(size) or (margin := float(size)) < 0 or not math.isfinite(margin):
            problem = f"by takes a number of at least 0, such as 0.1 or 2%, not {quoted(size)}"
            raise UserError(f"claim {quoted(text, 120)}: {problem}")
    if rest:
        raise UserError(f"claim {quoted(text, 120)}: what is {quoted(' '.join(rest))}? {FORM}")
    if relation == "~" and not margin:
        raise UserError(f"claim {quoted(text, 120)}: ~ needs a margin: {left} ~ {right} by 1%")
    return Claim(left, relation, float(right) if NUMBER.fullmatch(written[2]) else right, metric, margin, percent)


def naming(claims: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The claims that name no arm besides `names`; one that cannot be parsed names none."""
    return tuple(text for text in claims if set(arms_of(text)) <= set(names))


def arms_of(text: str) -> tuple[str, ...]:
    """The arms that a claim names; none for a text that is no claim."""
    try:
        claim = parse(text)
    except UserError:
        return ()
    return (claim.left, claim.right) if isinstance(claim.right, str) else (claim.left,)


def _quoted(arm: str) -> str:
    """An arm's name as a claim writes it."""
    if not NUMBER.fullmatch(arm) and re.fullmatch(r"[^\s\"']\S*", arm):
        return arm
    return f"'{arm}'" if '"' in arm else f'"{arm}"'
