"""What an answer costs, from the records alone: a loss, a value, or a size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from scipy import stats

from analysis.records.load import TrialRecord
from analysis.records.select import ArmSummary, Selection
from attnlab.ranking.tests import LEVEL, Interval, mean_over_seeds
from attnlab.util.text import number
from attnlab.util.weights import EMBEDDING, shapes_in

WIDEST = 100.0  # ratio of an interval's ends


@dataclass(frozen=True)
class IsoLoss:
    """What an arm needs to reach a value; geometric means and their intervals over two or more confirm runs."""

    arm: str
    index: int
    target: float
    tokens: Interval | None  # None: it does not reach it
    seconds: Interval | None
    flops: Interval | None  # None also where the operations are not known


@dataclass(frozen=True)
class Scaling:
    """value = scale * N ** -exponent over an arm's sizes, by logarithmic least squares."""

    arm: str
    index: int
    exponent: Interval
    points: list[tuple[float, float]]  # (non-embedding parameters, best value)


def flops_per_token(trial: TrialRecord) -> float | None:
    """Training's, as the trial recorded it; None where that is not known."""
    return number((trial.results or {}).get("flops_per_token"))


@cache
def vocab_size(folder: Path) -> int | None:
    """The vocabulary of a sweep's models, by the weights of the first exported one that can be read."""
    for path in sorted(folder.glob("*/*/checkpoints/final/model.safetensors")):
        with suppress(OSError, SafetensorError, KeyError, IndexError):
            return shapes_in(path)[EMBEDDING][0]
    return None


def iso_loss(sel: Selection) -> list[IsoLoss]:
    """Each arm's cost of the weakest arm's best value; empty if one arm has one."""
    lead = {arm.arm: arm.value for arm in sel.declared if arm.value is not None}
    if len(lead) < 2:
        return []
    target = max(lead.values()) if sel.plan.mode == "min" else min(lead.values())
    return [_reach(sel, arm, target) for arm in sel.declared if arm.arm in lead]


def _reach(sel: Selection, arm: ArmSummary, target: float) -> IsoLoss:
    confirm = [t for t in arm.trials if t.phase == "confirm" and t.state == "completed"]
    runs = confirm if len(confirm) > 1 else [arm.best] if arm.best else []
    costs: dict[str, list[float | None]] = {"tokens": [], "seconds": [], "flops": []}
    for trial in runs:
        for key in ("tokens", "seconds"):
            costs[key].append(first_reach(*trial.series(key, sel.metric), target, sel.plan.mode))
        tokens, per_token = costs["tokens"][-1], flops_per_token(trial)
        costs["flops"].append(tokens * per_token if tokens is not None and per_token else None)
    means = {key: cost_interval([c for c in v if c is not None]) if v and None not in v else None
             for key, v in costs.items()}  # fmt: skip
    return IsoLoss(arm.arm, arm.index, target, **means)


def cost_interval(costs: Sequence[float]) -> Interval:
    """The geometric mean of costs, with Student's interval of their logarithms: no cost lies below 0.

    Without an interval where its ends are more than WIDEST apart, as of two runs that differ much: it says nothing.
    """
    if len(costs) == 1 or min(costs) <= 0:
        return Interval(float(np.mean(costs)), None, None, len(costs))
    logs = mean_over_seeds([math.log(c) for c in costs])
    if logs.low is None or logs.high is None or logs.high - logs.low > math.log(WIDEST):
        return Interval(math.exp(logs.value), None, None, logs.n)
    return Interval(math.exp(logs.value), math.exp(logs.low), math.exp(logs.high), logs.n)


def first_reach(x: Sequence[float], y: Sequence[float], target: float, mode: str) -> float | None:
    """The x at which y first is as good as `target`, interpolated between reports."""
    sign = 1 if mode == "min" else -1
    for i, value in enumerate(y):
        if sign * (value - target) <= 1e-12:
            if i == 0 or y[i - 1] == value:
                return x[i]
            share = (y[i - 1] - target) / (y[i - 1] - value)
            return x[i - 1] + min(1.0, max(0.0, share)) * (x[i] - x[i - 1])
    return None


def expected_best(values: Sequence[float], mode: str) -> list[float]:
    """The expected best of n trials (Dodge et al. 2019, arXiv 1909.03004, equation 7)."""
    ordered = np.sort(np.asarray(values, float))
    ordered = ordered[::-1] if mode == "min" else ordered  # worst first
    total = len(ordered)
    rank = np.arange(total + 1) / total
    return [float(ordered @ np.diff(rank**n)) for n in range(1, total + 1)]


def trials_to_value(sel: Selection) -> dict[str, list[float]]:
    """`expected_best` of each arm's search; a trial that did not complete counts as the worst that did."""
    out = {}
    for arm in sel.declared:
        trials = [t for t in arm.trials if t.phase == "search" and t.results]
        good = [value for t in trials if (value := t.value(sel.metric)) is not None]
        if good:
            worst = max(good) if sel.plan.mode == "min" else min(good)
            out[arm.arm] = expected_best([*good, *[worst] * (len(trials) - len(good))], sel.plan.mode)
    return out


def scaling(sel: Selection) -> list[Scaling]:
    """Fits of arms with completed trials of three sizes or more and a positive metric."""
    out = []
    for arm in sel.declared:
        best: dict[float, float] = {}
        for t in arm.trials:
            n, value = number((t.results or {}).get("n_params_non_embedding")), t.value(sel.metric)
            if n and value is not None and value > 0:
                pick = min if sel.plan.mode == "min" else max
                best[n] = pick(best.get(n, value), value)
        if len(best) < 3:
            continue
        points = sorted(best.items())
        fit = stats.linregress([math.log(n) for n, _ in points], [math.log(v) for _, v in points])
        half = float(stats.t.ppf((1 + LEVEL) / 2, len(points) - 2) * fit.stderr)
        slope = -float(fit.slope)
        out.append(Scaling(arm.arm, arm.index, Interval(slope, slope - half, slope + half, len(points)), points))
    return out


def importances(sel: Selection) -> dict[str, dict[str, float]]:
    """Settings' shares of the metric's variance by arm: Optuna's fANOVA (Hutter et al. 2014).

    Arms with fewer than 4 valued trials, or with equal values alone, are left out: a forest of so few says nothing. A
    pruned trial counts with the best value it reached.
    """
    if not sel.plan.sweep.search or len(sel.plan.sweep.search.dimensions) < 2:
        return {}
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import create_trial

    dimensions = sel.plan.sweep.search.dimensions
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells of every study on stderr
    distributions = {key: dimension.distribution() for key, dimension in dimensions.items()}
    out = {}
    for arm in sel.declared:
        study = optuna.create_study(direction="minimize" if sel.plan.mode == "min" else "maximize")
        for t in arm.trials:
            value = t.reached(sel.metric)
            usable = t.phase == "search" and t.state in ("completed", "pruned") and value is not None
            if not usable or set(t.settings) != set(dimensions):
                continue
            with suppress(ValueError):  # made when the sweep had another space
                study.add_trial(create_trial(params=t.settings, distributions=distributions, value=value))
        if len({t.value for t in study.trials}) > 1 and len(study.trials) >= 4:
            shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
            if all(math.isfinite(v) for v in shares.values()):
                out[arm.arm] = {key: shares.get(key, 0.0) for key in dimensions}
    return out
