"""What can be wrong with a sweep's claims and its baseline, before anything runs.

Their grammar is `attnlab.config.claims`'.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from attnlab import tasks
from attnlab.config.claims import Claim, parse
from attnlab.config.resolved import Plan
from attnlab.config.sweep import Sweep
from attnlab.util.errors import UserError
from attnlab.util.text import did_you_mean, quoted

REPORTED = ("train_loss", "tokens_per_s", "seconds", "tokens", "peak_mem_gib")  # by every trial, besides its task's
BENCHMARKS = Path(__file__).parents[3] / "analysis" / "benchmarks"  # every file there is one, under its name
FACTORS = (1, 2, 4, 8)  # of the training length, at which the benchmark `task` asks a trial's own task


def problems(sweep: Sweep, arms: Collection[str]) -> Iterator[str]:
    """A baseline that is no arm, and claims that are none or name no arm, one line each."""
    if sweep.baseline is not None and sweep.baseline not in arms:
        yield f"baseline: no arm {quoted(sweep.baseline)}{did_you_mean(sweep.baseline, arms)}"
    for text in sweep.claims:
        try:
            claim = parse(text)
        except UserError as error:
            yield f"claims: {error.problems[0].removeprefix('claim ')}"
            continue
        sides = [side for side in (claim.left, claim.right) if isinstance(side, str)]
        if unknown := [arm for arm in sides if arm not in arms]:
            yield f"claims: {quoted(text, 120)}: no arm {quoted(unknown[0])}{did_you_mean(unknown[0], arms)}"
        elif len(sides) > len(set(sides)):
            yield f"claims: {quoted(text, 120)}: it compares an arm with itself; name two"
    if repeated := {text for text in sweep.claims if sweep.claims.count(text) > 1}:
        yield f"claims: {quoted(min(repeated), 120)} stands there twice; keep one"


def metric_problems(plan: Plan) -> Iterator[str]:
    """Claims on a metric that their arms do not report, and on no benchmark, one line each."""
    for text in plan.sweep.claims:
        claim = parse(text)
        if claim.metric is None:
            continue
        known = _known(plan, claim)
        if claim.metric not in known:
            what = f"no metric or benchmark {quoted(claim.metric)}{did_you_mean(claim.metric, known)}"
            yield f"claims: {quoted(text, 120)}: {what}"


def _known(plan: Plan, claim: Claim) -> list[str]:
    """What a claim may be on: metrics that each of its arms reports, and benchmarks."""
    trials = [plan.arm(side).trial for side in (claim.left, claim.right) if isinstance(side, str)]
    of_tasks = [tasks.metrics_of(trial.task) for trial in trials]
    shared = [metric for metric in of_tasks[0] if all(metric in each for each in of_tasks)]
    named = sorted(file.stem for file in BENCHMARKS.glob("[!_]*.py") if file.stem != "task")
    own = [f"{trials[0].task.name}_x{factor}" for factor in FACTORS]
    return [*shared, *REPORTED, *named, *own]
