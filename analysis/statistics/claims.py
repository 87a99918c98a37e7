"""`--claim "gla < standard on val_loss by 2%"`: supported, refuted or undecided, and what would decide it.

    claim    = arm , relation , ( arm | number ) , [ "on" , metric ] , [ "by" , margin ] ;
    relation = "<" | ">" | "beats" | "~" ;
    margin   = number , [ "%" ] ;                        (* at least 0; "~" needs one above 0 *)
    metric   = a metric that the trials report | a benchmark's name ;     (* left out: the sweep's own *)
    arm      = an arm of the sweep ;      number = a decimal number, such as 4.2 or 1e-3 ;

`<` and `>` speak of values, `beats` of what is better for the metric: below for a loss, above for an accuracy. "by"
asks for that much at least: `a < b by 0.1` says mean(a) < mean(b) - 0.1, and `by 2%` says mean(a) < 0.98 mean(b). `a ~
b by 0.1` says that they differ by less than 0.1. Percentages are of the right side's value. Words are parted by blanks.

A metric is judged over the confirm runs' seeds (paired t where both arms have the same ones, else Welch's; one-sample t
against a number), a benchmark on its items (exact McNemar, with a margin the paired t). A claim is supported when p is
at most 0.05 and the whole 95 % interval lies where it says, refuted when it lies where it does not. `~` is supported
when the 90 % interval lies within the margin (two one-sided tests; Schuirmann 1987, J. Pharmacokinet. Biopharm. 15),
refuted when the 95 % interval lies wholly outside. A claim stands for itself: many claims on one sweep need a
correction of their own, which the report's pairs have.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy import stats as scipy_stats

from analysis.records.select import Selection
from analysis.report.wording import value_text
from analysis.statistics import pairs
from attnlab.ranking import tests
from attnlab.ranking.tests import Pair
from attnlab.util.errors import UserError
from attnlab.util.text import did_you_mean, number

RELATIONS = ("<", ">", "beats", "~")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
FORM = "write ARM < ARM on METRIC by 2%; relations are <, >, beats and ~"

Verdict = Literal["supported", "refuted", "undecided"]


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
        right = f"{self.right:g}" if isinstance(self.right, float) else self.right
        on = f" on {self.metric}" if self.metric else ""
        size = f" by {self.margin:g}{'%' if self.percent else ''}" if self.margin else ""
        return f"{self.left} {self.relation} {right}{on}{size}"


@dataclass(frozen=True)
class Judgement:
    """`pair.difference` is of the left side from the margin's edge for <, > and beats, plain for ~."""

    claim: Claim
    verdict: Verdict
    pair: Pair
    text: str


def parse(text: str) -> Claim:
    """The claim of that text. Raises UserError."""
    words = text.split()
    if len(words) < 3 or words[1] not in RELATIONS:
        raise UserError(f"claim {text!r}: {FORM}")
    left, relation, right, rest = words[0], words[1], words[2], words[3:]
    metric, margin, percent = None, 0.0, False
    if rest[:1] == ["on"] and len(rest) > 1:
        metric, rest = rest[1], rest[2:]
    if rest[:1] == ["by"] and len(rest) > 1:
        size, percent, rest = rest[1].removesuffix("%"), rest[1].endswith("%"), rest[2:]
        if rest[:1] == ["%"]:
            percent, rest = True, rest[1:]
        if not NUMBER.fullmatch(size) or (margin := float(size)) < 0 or not math.isfinite(margin):
            raise UserError(f"claim {text!r}: by takes a number of at least 0, such as 0.1 or 2%, not {size!r}")
    if rest:
        raise UserError(f"claim {text!r}: what is {' '.join(rest)!r}? {FORM}")
    if relation == "~" and not margin:
        raise UserError(f"claim {text!r}: ~ needs a margin: {left} ~ {right} by 1%")
    return Claim(left, relation, float(right) if NUMBER.fullmatch(right) else right, metric, margin, percent)


def judge(claim: Claim, sel: Selection, found: pairs.Benchmarks | None = None) -> Judgement:
    """What the records say of it.

    Raises:
        UserError: no such arm or metric.
    """
    for arm in (claim.left, claim.right):
        if isinstance(arm, str) and arm not in sel.plan.names:
            raise UserError(f"claim: no arm {arm}{did_you_mean(arm, sel.plan.names)}")
    tables = (found or pairs.benchmarks(sel)).by_name()
    metric = claim.metric or sel.metric
    reported = {key for t in sel.data.trials for key, v in ((t.results or {}).get("last") or {}).items()
                if number(v) is not None}  # fmt: skip
    reported |= {sel.metric}
    if metric in tables:
        unit, mode = "items", tables[metric].mode
        scores = tables[metric].scores
        sides = {arm: score.values for arm, score in scores.items()}
        if (claim.margin or isinstance(claim.right, float)) and any(score.logarithm for score in scores.values()):
            raise UserError(
                f"claim: {metric} is compared by its logarithm per item; compare two arms, without a margin"
            )
    elif metric in reported:
        unit, mode = "seeds", sel.plan.mode if metric == sel.metric else _mode(metric)
        sides = {arm.arm: pairs.confirm_values(sel, arm, metric) for arm in sel.arms}
    else:
        raise UserError(f"claim: no metric or benchmark {metric}{did_you_mean(metric, [*sorted(reported), *tables])}")
    relation = claim.relation if claim.relation != "beats" else "<" if mode == "min" else ">"
    left, right = sides.get(claim.left, {}), sides.get(claim.right, {}) if isinstance(claim.right, str) else claim.right
    return _judge(claim, relation, left, right, unit, metric)


def _mode(metric: str) -> str:
    """Of a metric that is not the sweep's own."""
    return "min" if any(word in metric for word in ("loss", "bits", "perplexity", "seconds", "mem")) else "max"


def _judge(claim: Claim, relation: str, left: Mapping[Any, float], right: Any, unit: str, metric: str) -> Judgement:
    for arm, side in ((claim.left, left), (claim.right, right)):
        if isinstance(side, Mapping) and not side:
            how = "no completed confirm run (confirm: {seeds: [0, 1, 2]})" if unit == "seeds" else "no scored items"
            empty = Pair(claim.left, str(claim.right), tests.Interval(math.nan, None, None, 0), None, "none", unit)
            return Judgement(claim, "undecided", empty, f"undecided: {claim}. {arm} has {how} to judge {metric} by.")
    part, shift = (claim.margin / 100, 0.0) if claim.percent else (0.0, claim.margin)
    if relation == "~":
        middle = right if isinstance(right, float) else float(np.mean(list(right.values())))
        pair = _against(claim, left, right, unit, 1.0, 0.0)
        return _equal(claim, pair, part * abs(middle) + shift)
    sign = -1 if relation == "<" else 1
    # a < b - shift  <=>  a - (b - shift) < 0;  a < (1 - part) b
    pair = _against(claim, left, right, unit, 1 + sign * part, sign * shift)
    low, high = pair.difference.low, pair.difference.high
    verdict: Verdict = "undecided"
    if low is not None and high is not None and (low > 0 or high < 0) and pair.p is not None and pair.p <= tests.ALPHA:
        verdict = "supported" if (low > 0) == (sign > 0) else "refuted"
    return Judgement(claim, verdict, pair, _text(claim, verdict, pair, tests.needed(pair)))


def _against(claim: Claim, left: Mapping[Any, float], right: Any, unit: str, factor: float, shift: float) -> Pair:
    """The left side minus (factor x right side + shift)."""
    a, b = claim.left, str(claim.right)
    if isinstance(right, float):
        x = np.array(list(left.values()))
        return replace(tests.paired(a, b, x, np.full(len(x), factor * right + shift), unit), test="one-sample t")
    if unit == "seeds":
        return tests.over_seeds(a, b, left, {seed: factor * value + shift for seed, value in right.items()})
    both = [i for i in left if i in right]
    return tests.over_items(a, b, [left[i] for i in both], [factor * right[i] + shift for i in both])


def _equal(claim: Claim, pair: Pair, margin: float) -> Judgement:
    low, high, middle, n = pair.difference.low, pair.difference.high, pair.difference.value, pair.difference.n
    if low is None or high is None:
        return Judgement(claim, "undecided", pair, _text(claim, "undecided", pair, None))
    freedom = max(1, n - 1)
    narrower = scipy_stats.t.ppf(0.95, freedom) / scipy_stats.t.ppf(0.975, freedom)
    within = middle + narrower * (high - middle) < margin and middle - narrower * (middle - low) > -margin
    outside = low > margin or high < -margin
    verdict: Verdict = "supported" if within else "refuted" if outside else "undecided"
    edge = margin if middle >= 0 else -margin
    return Judgement(claim, verdict, pair, _text(claim, verdict, pair, tests.needed(pair, shift=edge)))


def _text(claim: Claim, verdict: Verdict, pair: Pair, needed: int | None) -> str:
    gap, what = (
        pair.difference,
        "difference" if claim.relation == "~" or not claim.margin else "distance from the margin",
    )
    head = f"{verdict}: {claim}. "
    if gap.low is None or pair.p is None:
        return f"{head}{what} {value_text(gap.value)} over {gap.n} {pair.unit}, without an interval ({pair.test}); " \
               "at least 2 confirm seeds per arm that differ would give one."  # fmt: skip
    out = (f"{head}{what} {value_text(gap.value)}, 95 % interval [{value_text(gap.low)}, {value_text(gap.high)}], "
           f"two-sided p {pair.p:.2g} ({pair.test}, {gap.n} {pair.unit}).")  # fmt: skip
    if verdict == "undecided":
        out += (
            f" About {needed:,} {pair.unit} per arm would decide it with probability {tests.POWER:g}, if things are as "
            "they look."
            if needed
            else f" No number of {pair.unit} within reach would decide it, if things are as they look."
        )
    return out
