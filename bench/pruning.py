"""Which grace and reduction factor ASHA should have: full curves of small real grids, pruned again and again.

    python -m bench.pruning [--replays 400] [--workers 1 4] [--grid mqar text]

Every trial of the grids was trained to its end (`bench.curves`), so any way of searching can be replayed over them. The
brackets are the engine's (`attnlab.sweep.search.asha.Bracket`), so are the samplers
(`attnlab.sweep.search.samplers`). A sampled learning rate is played by the nearest one of the grid. With
several workers trials interleave, one report each in turn. Per way of searching, over arms, seeds and replays:

    found     replays whose best value came within 1 % of the best in the arm's grid; 95 % interval
    to 1 %    steps until then, of those that the whole grid takes; median, and 10 to 90 % of the replays
    steps     spent in all, of the same
    winner    replays in which a trial with the grid's best value ran to its end; 95 % interval (shuffled grid only)
    loss      how much worse the best value is than the grid's best, relative; mean, and its 95 % interval

The intervals resample whole arms' grids (a grid's replays share its curves), 2,000 times.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnlab.config.sweep import AshaConfig, SearchConfig
from attnlab.records.metrics import better
from attnlab.sweep.search.asha import Bracket

NEAR = 0.01
GRACES = (0.05, 0.1, 0.2, 0.3, 0.5)
FACTORS = (2.0, 3.0, 4.0)
METRICS = {"mqar": (("val_accuracy", "max"), ("val_loss", "min")), "text": (("val_loss", "min"),)}
Curve = list[tuple[int, float | None]]  # (step, value at it), oldest first


@dataclass(frozen=True)
class Grid:
    """One arm's full curves under one seed, by learning rate."""

    name: str
    curves: Mapping[float, Curve]
    max_steps: int
    mode: str

    def best_of(self, rate: float) -> float:
        """The curve's best value; the worst possible if it has none."""
        values = [v for _, v in self.curves[rate] if v is not None]
        return (min if self.mode == "min" else max)(values) if values else math.inf * self.sign

    @property
    def sign(self) -> float:
        return 1.0 if self.mode == "min" else -1.0

    @property
    def best(self) -> float:
        return (min if self.mode == "min" else max)(self.best_of(rate) for rate in self.curves)

    def loss(self, value: float) -> float:
        """How much worse than the grid's best, relative to it."""
        return self.sign * (value - self.best) / abs(self.best)


@dataclass(frozen=True)
class Outcome:
    """One replay of one way of searching over one grid."""

    steps: int
    near_at: float  # steps spent until the best value was within NEAR; inf: never
    loss: float
    finished: frozenset[float]  # learning rates whose trials ran to their end


@dataclass(frozen=True)
class Ended:
    """A trial as far as it ran."""

    rate: float
    rows: Curve
    stopped: bool


Next = Callable[[list[Ended]], float | None]


def replay(grid: Grid, next_rate: Next, asha: AshaConfig | None, workers: int = 1) -> Outcome:
    """Run trials as they come, one report of each live one in turn.

    Args:
        next_rate: the next trial's learning rate, given the ended ones; None: no more.
        asha: None: nothing is pruned.
        workers: how many trials run side by side.
    """
    bracket = Bracket(asha, grid.max_steps, grid.mode) if asha else None
    ended: list[Ended] = []
    live: list[tuple[str, float, Iterator[tuple[int, int, float | None]]]] = []
    spent, near_at, best, number = 0, math.inf, math.inf * grid.sign, 0
    finished: set[float] = set()
    while True:
        while len(live) < workers and (rate := next_rate(ended)) is not None:
            live.append((f"t{number}", rate, _reports(grid.curves[rate])))
            number += 1
        if not live:
            return Outcome(spent, near_at, grid.loss(best), frozenset(finished))
        for trial in list(live):
            trial_id, rate, reports = trial
            step, since, value = next(reports)
            spent += since
            if value is not None and better(value, best, grid.mode):
                best = value
                if grid.loss(best) <= NEAR:
                    near_at = min(near_at, spent)
            last = step == grid.curves[rate][-1][0]
            stopped = not last and bracket is not None and bracket.judge(trial_id, step, value)
            if last or stopped:
                live.remove(trial)
                ended.append(Ended(rate, [row for row in grid.curves[rate] if row[0] <= step], stopped))
                if not stopped:
                    finished.add(rate)


def _reports(curve: Curve) -> Iterator[tuple[int, int, float | None]]:
    """Every report as (step, steps since the last report, value)."""
    before = 0
    for step, value in curve:
        yield step, step - before, value
        before = step


def shuffled(grid: Grid, seed: int) -> Next:
    """Each point of the grid once, in a random order."""
    order = iter(np.random.default_rng(seed).permutation(sorted(grid.curves)).tolist())
    return lambda ended: next(order, None)


def sampled(kind: str) -> Callable[[Grid, int], Next]:
    """As many trials as the grid has points, each from the engine's sampler, at the nearest point of the grid."""

    def make(grid: Grid, seed: int) -> Next:
        import optuna

        from attnlab.sweep.search.samplers import make_sampler

        rates = np.array(sorted(grid.curves))
        space = {"loguniform": [rates[0].item(), rates[-1].item()]}
        search = SearchConfig(space={"lr": space}, trials=len(rates), sampler=kind, seed=seed)
        dimensions = {k: d.distribution() for k, d in search.dimensions.items()}
        study = optuna.create_study(direction="minimize" if grid.mode == "min" else "maximize")
        open_trials: dict[int, tuple[float, Any]] = {}
        told = 0

        def ask(ended: list[Ended]) -> float | None:
            nonlocal told
            for trial in ended[told:]:
                _tell(study, open_trials, trial, grid.mode)
            told = len(ended)
            number = len(study.get_trials(deepcopy=False))
            if number == search.trials:
                return None
            study.sampler = make_sampler(search, number)
            trial = study.ask(dimensions)
            rate = rates[np.abs(np.log(rates) - math.log(trial.params["lr"])).argmin()].item()
            open_trials[number] = (rate, trial)
            return rate

        return ask

    return make


def _tell(study: Any, open_trials: dict[int, tuple[float, Any]], ended: Ended, mode: str) -> None:
    """What the engine tells: COMPLETE with the best value, PRUNED with what was reported, FAIL without any."""
    from optuna.trial import TrialState

    number = next(n for n, (rate, _) in open_trials.items() if rate == ended.rate)
    trial = open_trials.pop(number)[1]
    values = {step: value for step, value in ended.rows if value is not None}
    for step, value in values.items():
        trial.report(value, step)
    if ended.stopped and values:
        study.tell(trial, state=TrialState.PRUNED)
    elif values:
        study.tell(trial, (min if mode == "min" else max)(values.values()))
    else:
        study.tell(trial, state=TrialState.FAIL)


def grids_of(name: str, metric: str, mode: str) -> list[Grid]:
    """The saved curves as one grid per arm and seed; seeds that are not whole are left out."""
    from bench.curves import read

    data = read(name)
    groups: dict[tuple[str, int], dict[float, Curve]] = {}
    for trial in data["trials"]:
        curve = [(row["step"], row.get(metric)) for row in trial["rows"]]
        groups.setdefault((trial["arm"], trial["seed"]), {})[trial["lr"]] = curve
    points = max(len(curves) for curves in groups.values())
    whole = {k: c for k, c in groups.items() if len(c) == points}
    return [Grid(f"{arm} seed {seed}", c, data["max_steps"], mode) for (arm, seed), c in whole.items()]


def summary(grids: Sequence[Grid], outcomes: Sequence[Sequence[Outcome]]) -> dict[str, str]:
    """The columns of the module's docstring. outcomes: per grid, its replays."""
    whole = [g.max_steps * len(g.curves) for g in grids]
    near = np.array([[o.near_at / w for o in os] for os, w in zip(outcomes, whole, strict=True)])
    steps = np.array([[o.steps / w for o in os] for os, w in zip(outcomes, whole, strict=True)])
    loss = np.array([[o.loss for o in os] for os in outcomes])
    won = np.array([[_won(g, o) for o in os] for g, os in zip(grids, outcomes, strict=True)])
    low, mid, high = (np.quantile(near, q, method="nearest") for q in (0.1, 0.5, 0.9))
    return {
        "found": interval(np.isfinite(near)),
        "to 1 %": f"{_part(mid)} [{_part(low)}, {_part(high)}]",
        "steps": f"{steps.mean():.2f}",
        "winner": interval(won),
        "loss": interval(loss, ".1%"),
    }


def _won(grid: Grid, outcome: Outcome) -> bool:
    return any(grid.best_of(rate) == grid.best for rate in outcome.finished)


def _part(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "never"


def interval(values: np.ndarray, form: str = ".0%") -> str:
    """Mean over grids and replays [grids, replays], and its 95 % interval over resampled grids."""
    means = values.mean(1)
    rng = np.random.default_rng(0)
    draws = means[rng.integers(len(means), size=(2000, len(means)))].mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{means.mean():{form}} [{low:{form}}, {high:{form}}]"


def ways() -> Iterable[tuple[str, Callable[[Grid, int], Next], float | None, float | None]]:
    """Every way as (name, who proposes, grace as a part of max_steps, reduction factor)."""
    yield "grid, unpruned", shuffled, None, None
    for grace in GRACES:
        for factor in FACTORS:
            yield f"grid, ASHA {grace:.0%} x {factor:g}", shuffled, grace, factor
    for kind in ("random", "tpe"):
        yield f"{kind}, unpruned", sampled(kind), None, None
        for grace, factor in ((0.1, 3.0), (0.2, 2.0), (0.2, 3.0), (0.3, 2.0)):
            yield f"{kind}, ASHA {grace:.0%} x {factor:g}", sampled(kind), grace, factor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--replays", type=int, default=400, help="of the shuffled grid; a fifth of it for samplers")
    parser.add_argument("--workers", type=int, nargs="+", default=[4])
    parser.add_argument("--grid", nargs="+", default=list(METRICS), choices=METRICS)
    parser.add_argument("--per-arm", action="store_true", help="the winner's survival per arm too")
    args = parser.parse_args()
    for name, workers in ((g, w) for g in args.grid for w in args.workers):
        for metric, mode in METRICS[name]:
            grids = grids_of(name, metric, mode)
            points = len(grids[0].curves)
            print(f"\n{name}, {metric}, {workers} workers: {len(grids)} grids of {points} trials\n")
            columns: list[str] = []
            for way, propose, grace, factor in ways():
                asha = (
                    AshaConfig(grace_steps=round(grace * grids[0].max_steps), reduction_factor=factor)
                    if grace
                    else None
                )
                count = args.replays if propose is shuffled else max(1, args.replays // 5)
                outcomes = [[replay(g, propose(g, s), asha, workers) for s in range(count)] for g in grids]
                row = summary(grids, outcomes)
                if propose is not shuffled:
                    row["winner"] = "-"
                if args.per_arm:
                    row |= {
                        g.name: f"{np.mean([_won(g, o) for o in os]):.0%}"
                        for g, os in zip(grids, outcomes, strict=True)
                    }
                if not columns:
                    columns = list(row)
                    print(f"| way | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
                print(f"| {way} | {' | '.join(row.values())} |", flush=True)


if __name__ == "__main__":
    main()
