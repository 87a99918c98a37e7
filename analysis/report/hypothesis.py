"""What was expected of a sweep, judged: its claims, and what was changed after its first trial."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.records.select import Selection
from analysis.statistics.claims import judge
from attnlab.plan.preregistration import NONE, changed_since, registered
from attnlab.ranking.claims import parse
from attnlab.util.errors import UserError


@dataclass(frozen=True)
class Expectation:
    """What the report says under the hypothesis."""

    claims: list[str]  # a sentence each, which begins with the verdict
    registered: str  # when it was written down, or that it was not
    changed: list[str]  # what is said otherwise by now


def gather(sel: Selection) -> Expectation:
    """Judge a sweep's own claims, and compare it with its preregistration."""
    return Expectation(judged(sel), *_registered(sel))


def judged(sel: Selection) -> list[str]:
    """The sweep's claims with their verdicts, in its file's order."""
    return [_judged(text, sel) for text in sel.plan.sweep.claims]


def _judged(text: str, sel: Selection) -> str:
    try:
        return judge(parse(text), sel).text
    except UserError as error:  # a benchmark that is not scored yet, or a file that was edited
        return f"undecided: {text}. It cannot be judged: {error.problems[0].removeprefix('claim: ')}."


def _registered(sel: Selection) -> tuple[str, list[str]]:
    try:
        held = registered(sel.data.folder)
    except UserError as error:
        return f"It cannot be relied on: {error.problems[0]}.", []
    if held is None:
        return NONE, []
    changed = changed_since(held, sel.plan)
    since = "changed since, as below" if changed else "unchanged since"
    return f"{held['date']}, before the first trial, under the digest {held['digest'][:12]}; {since}.", changed
