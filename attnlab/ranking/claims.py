"""Claims such as "gla < standard on val_loss by 2%", judged supported, refuted or undecided.

The grammar is in `attnlab.config.claims`.

A metric is judged over the confirm runs' seeds: paired t where both arms have the same ones, else Welch's; one-sample t
against a number. A benchmark is judged on its items: exact McNemar, with a margin the paired t. A claim is supported
when p is at most 0.05 and the whole 95 % interval lies where it says, refuted when it lies where it does not. `~` is
supported when the 90 % interval lies within the margin (two one-sided tests; Schuirmann 1987, J. Pharmacokinet.
Biopharm. 15), refuted when the 95 % interval lies wholly outside. A claim stands for itself: many claims on one sweep
need a correction of their own, which the report's pairs have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from attnlab.config.claims import RELATIONS, Claim, parse
from attnlab.ranking.pairs import Values, needed
from attnlab.ranking.power import POWER
from attnlab.ranking.tests import ALPHA, LEVEL, Comparison, Interval, over_items, over_seeds, paired
from attnlab.util.text import value_text

__all__ = ["RELATIONS", "Claim", "Evidence", "Judgement", "equivalence", "judge", "parse"]

Verdict = Literal["supported", "refuted", "undecided"]


@dataclass(frozen=True)
class Evidence:
    """What a claim is judged by: the values of one metric."""

    metric: str
    mode: str  # min or max
    unit: str  # seeds or items: what the values are by
    values: Values


@dataclass(frozen=True)
class Judgement:
    """A verdict in words."""

    claim: Claim
    verdict: Verdict
    pair: Comparison  # its difference is from the margin's edge for <, > and beats, plain for ~
    text: str


def judge(claim: Claim, evidence: Evidence) -> Judgement:
    """What the evidence says of a claim."""
    left = evidence.values.get(claim.left, {})
    right = claim.right if isinstance(claim.right, float) else evidence.values.get(claim.right, {})
    unit, metric = evidence.unit, evidence.metric
    for arm, side in ((claim.left, left), (claim.right, right)):
        if isinstance(side, Mapping) and not side:
            how = "no completed confirm run (confirm: {seeds: [1, 2, 3]})" if unit == "seeds" else "no scored items"
            empty = Comparison(claim.left, str(claim.right), Interval(math.nan, None, None, 0), None, "none", unit)
            return Judgement(claim, "undecided", empty, f"undecided: {claim}. {arm} has {how} to judge {metric} by.")
    share, shift = (claim.margin / 100, 0.0) if claim.percent else (0.0, claim.margin)
    if claim.relation == "~":
        middle = right if isinstance(right, float) else float(np.mean(list(right.values())))
        pair, margin = _against(claim, left, right, unit, 1.0, 0.0), share * abs(middle) + shift
        edge = margin if pair.difference.value >= 0 else -margin
        return _judgement(claim, equivalence(pair, margin), pair, needed(pair, shift=edge))
    below = claim.relation == "<" or (claim.relation == "beats" and evidence.mode == "min")
    sign = -1 if below else 1
    # a < b - shift  <=>  a - (b - shift) < 0;  a < (1 - share) b
    pair = _against(claim, left, right, unit, 1 + sign * share, sign * shift)
    low, high = pair.difference.low, pair.difference.high
    verdict: Verdict = "undecided"
    if low is not None and high is not None and (low > 0 or high < 0) and pair.p is not None and pair.p <= ALPHA:
        verdict = "supported" if (low > 0) == (sign > 0) else "refuted"
    return _judgement(claim, verdict, pair, needed(pair))


def _against(claim: Claim, left: Mapping[Any, float], right: Any, unit: str, factor: float, shift: float) -> Comparison:
    """The left side minus (factor x right side + shift)."""
    a, b = claim.left, str(claim.right)
    if isinstance(right, float):
        x = np.array(list(left.values()))
        return replace(paired(a, b, x, np.full(len(x), factor * right + shift), unit), test="one-sample t")
    moved = {key: factor * value + shift for key, value in right.items()}
    if unit == "seeds":
        return over_seeds(a, b, left, moved)
    both = [i for i in left if i in moved]
    return over_items(a, b, [left[i] for i in both], [moved[i] for i in both])


def equivalence(pair: Comparison, margin: float) -> Verdict:
    """Whether two arms differ by less than `margin`: two one-sided t-tests (the 90 % interval)."""
    from scipy import stats

    low, high, middle = pair.difference.low, pair.difference.high, pair.difference.value
    if low is None or high is None:
        return "undecided"
    narrower, wider = stats.t.ppf((LEVEL, (1 + LEVEL) / 2), max(1, pair.difference.n - 1))
    ratio = narrower / wider
    if middle + ratio * (high - middle) < margin and middle - ratio * (middle - low) > -margin:
        return "supported"
    return "refuted" if low > margin or high < -margin else "undecided"


def _judgement(claim: Claim, verdict: Verdict, pair: Comparison, n: int | None) -> Judgement:
    """The verdict with its sentences; `n`: seeds or items that would decide it."""
    gap, unit = pair.difference, pair.unit
    what = "difference" if claim.relation == "~" or not claim.margin else "distance from the margin"
    text = f"{verdict}: {claim}. {what} {value_text(gap.value)}"
    if gap.low is None or pair.p is None:
        text += (f" over {gap.n} {unit}, without an interval ({pair.test}); "
                 "at least 2 confirm seeds per arm that differ would give one.")  # fmt: skip
        return Judgement(claim, verdict, pair, text)
    text += (f", 95 % interval [{value_text(gap.low)}, {value_text(gap.high)}], "
             f"two-sided p {pair.p:.2g} ({pair.test}, {gap.n} {unit}).")  # fmt: skip
    if verdict == "undecided" and n:
        text += f" About {n:,} {unit} per arm would decide it with probability {POWER:g}, if things are as they look."
    elif verdict == "undecided":
        text += f" No number of {unit} within reach would decide it, if things are as they look."
    return Judgement(claim, verdict, pair, text)
