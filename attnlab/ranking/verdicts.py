"""What is decided between arms: every pair better, equivalent or undecided (`verdicts.json`).

    equivalent   the pair's own 90 % interval lies within the smallest effect of interest: two one-sided tests at 5 %
    better       else, if p over all pairs together is at most 5 %
    undecided    else, and wherever a test has nothing to judge by

A difference that is there, and smaller than anybody cares for, is thus `equivalent`. The tests are those of
`attnlab.ranking.common_model`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypedDict

import numpy as np

from attnlab.ranking.common_model import Comparisons, PairDifference, compare
from attnlab.ranking.design import Values
from attnlab.ranking.power import seeds_to_decide
from attnlab.ranking.tests import ALPHA
from attnlab.util.text import listed, value_text

Verdict = Literal["better", "equivalent", "undecided"]

NO_RUN = "no run outside the search has completed"


class ArmVerdict(TypedDict):
    """An arm. Two arms differ where their intervals do not overlap, as nearly as single intervals can say it."""

    arm: str
    n: int  # seeds
    mean: float | None
    low: float | None
    high: float | None
    rank: int | None  # 1 is best; None where some pair with it is not decided
    bracketed: bool | None  # None until it is known


class PairVerdict(TypedDict):
    """Two arms; low, high and p are simultaneous over all pairs."""

    arms: tuple[str, str]
    difference: float  # the first minus the second
    low: float | None
    high: float | None
    p: float | None
    verdict: Verdict


class Verdicts(TypedDict):
    """`verdicts.json`."""

    metric: str
    mode: str
    test: str
    alpha: float
    sesoi: float | None
    arms: list[ArmVerdict]  # best first
    pairs: list[PairVerdict]
    baseline: str | None
    against_baseline: list[PairVerdict]  # simultaneous over these alone


def verdict_of(pair: PairDifference, sesoi: float | None) -> Verdict:
    """What is decided of a pair."""
    low, high = pair.low_90, pair.high_90
    if sesoi is not None and low is not None and high is not None and -sesoi < low and high < sesoi:
        return "equivalent"
    return "better" if pair.p is not None and pair.p <= ALPHA and pair.difference else "undecided"


def verdicts(
    values: Values, metric: str, mode: str, sesoi: float | None = None, baseline: str | None = None
) -> tuple[Verdicts, Comparisons]:
    """Decide between all arms.

    Args:
        values: of the metric, by arm and seed.
        metric, mode: its name, and `min` or `max`.
        sesoi: the smallest effect of interest, in the metric's unit. None: nothing is called equivalent.
        baseline: the arm that all others are compared with, besides all pairs.

    Returns:
        `verdicts.json`, and the comparisons it is made of.
    """
    sign = 1 if mode == "min" else -1
    means = {arm: float(np.mean(list(by_seed.values()))) for arm, by_seed in values.items() if by_seed}
    order = sorted(means, key=lambda arm: sign * means[arm])
    found = compare({arm: values[arm] for arm in order})
    pairs = [_pair(pair, sesoi) for pair in found.pairs]
    against = compare({arm: values[arm] for arm in order}, baseline).pairs if baseline else ()
    ranks = {arm: _rank(arm, pairs, sign) for arm in order}
    arms = [
        _arm(arm, values[arm], found.halves.get(arm), ranks.get(arm))
        for arm in [*order, *sorted(values.keys() - means)]
    ]
    board: Verdicts = {
        "metric": metric, "mode": mode, "test": found.test, "alpha": ALPHA, "sesoi": sesoi, "arms": arms,
        "pairs": pairs, "baseline": baseline, "against_baseline": [_pair(pair, sesoi) for pair in against],
    }  # fmt: skip
    return board, found


def _pair(pair: PairDifference, sesoi: float | None) -> PairVerdict:
    return {
        "arms": (pair.a, pair.b), "difference": pair.difference, "low": pair.low, "high": pair.high, "p": pair.p,
        "verdict": verdict_of(pair, sesoi),
    }  # fmt: skip


def _arm(arm: str, by_seed: Mapping[int, float], half: float | None, rank: int | None) -> ArmVerdict:
    mean = float(np.mean(list(by_seed.values()))) if by_seed else None
    low, high = (None, None) if mean is None or half is None else (mean - half, mean + half)
    return {"arm": arm, "n": len(by_seed), "mean": mean, "low": low, "high": high, "rank": rank, "bracketed": None}


def _rank(arm: str, pairs: list[PairVerdict], sign: int) -> int | None:
    """One more than the arms shown better, if every pair with it is decided."""
    mine = [pair for pair in pairs if arm in pair["arms"]]
    if not mine or any(pair["verdict"] != "better" for pair in mine):
        return None
    return 1 + sum(arm != better_of(pair, sign) for pair in mine)


def better_of(pair: PairVerdict, sign: int) -> str:
    """The arm on the better side; `sign`: 1 where less is better, else -1."""
    return pair["arms"][0] if sign * pair["difference"] < 0 else pair["arms"][1]


def not_shown_worse(board: Verdicts) -> list[str]:
    """The best arm and those that no test tells from it, best first."""
    named = [arm["arm"] for arm in board["arms"] if arm["mean"] is not None]
    worse = {pair["arms"][1] for pair in board["pairs"] if pair["arms"][0] == named[0] and pair["verdict"] == "better"}
    return [arm for arm in named if arm not in worse]


def answer(board: Verdicts, found: Comparisons) -> str:
    """The sweep's answer in a sentence: what is decided about its best arm, and what would decide the rest.

    Args:
        board, found: as `verdicts` returns them.
    """
    named = [arm for arm in board["arms"] if arm["mean"] is not None]
    missing = [arm["arm"] for arm in board["arms"] if arm["mean"] is None]
    if not named:
        return f"Undecided: {NO_RUN}, and a test needs two seeds per arm."
    if len(named) == 1:
        only = named[0]["arm"]
        return f"Undecided: {NO_RUN} but of {only}." if missing else f"{only} is the only arm: nothing to compare."
    said = _among(named, board, found, bool(missing))
    return f"{said} Not judged, as no run outside the search has completed: {listed(missing)}." if missing else said


def _among(named: list[ArmVerdict], board: Verdicts, found: Comparisons, more: bool) -> str:
    """The answer for two arms with a value, or more; `more`: there are others, of which none may be called worse."""
    judged = sum(arm["n"] > 1 for arm in named)
    if judged < len(named):
        lone = [arm["arm"] for arm in named if arm["n"] < 2]
        runs = "one run" if len(lone) == 1 else "one run each"
        return f"Undecided: {listed(lone)} {'has' if len(lone) == 1 else 'have'} {runs}, and a test needs two seeds."
    if found.std is None:
        return "Undecided: seeds change nothing, so chance cannot be judged."
    group, others = not_shown_worse(board), len(named)
    if len(group) == 1:
        return f"{group[0]} is {'better' if more else 'best: better'} than {_the_rest(others - 1)}."
    inside = [pair for pair in board["pairs"] if set(pair["arms"]) <= set(group)]
    ahead = (
        f", all better than {_the_rest(others - len(group))}" if _apart(board, group) and others > len(group) else ""
    )
    if all(pair["verdict"] == "equivalent" for pair in inside):
        return f"{listed(group)} are equivalent, within {value_text(board['sesoi'])} of each other{ahead}."
    text = f"Undecided between {listed(group)}{ahead}."
    first = next(p for p in found.pairs if p.a == group[0] and p.b == group[1])
    if needed := seeds_to_decide(first, judged, min(arm["n"] for arm in named)):
        text += f" {needed} seeds each would decide between {group[0]} and {group[1]} (95 % interval in brackets)."
    return text


def _the_rest(count: int) -> str:
    return "the other arm" if count == 1 else f"each of the other {count} arms"


def _apart(board: Verdicts, group: list[str]) -> bool:
    """Whether each of a group is shown better than each arm outside."""
    across = [pair for pair in board["pairs"] if len(set(pair["arms"]) & set(group)) == 1]
    return all(pair["verdict"] == "better" for pair in across)
