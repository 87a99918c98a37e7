"""`--claim` on a sweep: the records that a claim is judged by."""

from __future__ import annotations

from analysis.records.scores import benchmarks
from analysis.records.select import Selection
from attnlab.plan.direction import mode_of
from attnlab.ranking import claims
from attnlab.ranking.claims import Claim, Evidence, Judgement
from attnlab.util.errors import UserError
from attnlab.util.text import did_you_mean, number

FALLING = ("loss", "bits", "perplexity", "seconds", "mem")  # in a report's column that is no metric of the task


def judge(claim: Claim, sel: Selection) -> Judgement:
    """What the records say of a claim. Raises UserError: no such arm or metric."""
    for arm in (claim.left, claim.right):
        if isinstance(arm, str) and arm not in sel.plan.names:
            raise UserError(f"claim: no arm {arm}{did_you_mean(arm, sel.plan.names)}")
    return claims.judge(claim, evidence(claim, sel))


def evidence(claim: Claim, sel: Selection) -> Evidence:
    """The claim's metric over confirm runs, or a benchmark's items. Raises UserError: neither."""
    metric, tables = claim.metric or sel.metric, benchmarks(sel).by_name()
    if table := tables.get(metric):
        if (claim.margin or isinstance(claim.right, float)) and any(s.logarithm for s in table.scores.values()):
            raise UserError(
                f"claim: {metric} is compared by its logarithm per item; compare two arms, without a margin"
            )
        return Evidence(metric, table.mode, "items", {arm: score.values for arm, score in table.scores.items()})
    reported = {key for results in sel.data.results for key, v in (results["last"] or {}).items()
                if number(v) is not None} | {sel.metric}  # fmt: skip
    if metric not in reported:
        raise UserError(f"claim: no metric or benchmark {metric}{did_you_mean(metric, [*sorted(reported), *tables])}")
    by_words = "min" if any(word in metric for word in FALLING) else "max"
    mode = sel.plan.mode if metric == sel.metric else mode_of(sel.plan, metric) or by_words
    values = {arm.arm: sel.confirm_values(arm, metric) for arm in sel.arms}
    return Evidence(metric, mode, "seeds", values)
