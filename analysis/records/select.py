"""What is compared: each arm's best trial, confirm runs and counts, and the order.

The ranking is that of `attnlab.ranking.leaderboard`, so the report never disagrees with leaderboard.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from analysis.records.load import ALL_STATES, SweepData, TrialRecord
from attnlab.config.resolved import Plan
from attnlab.config.space import Dimension
from attnlab.plan.extension import extension, leaderboard, planned_trials
from attnlab.ranking.common_model import Comparisons
from attnlab.ranking.leaderboard import sweep_verdicts
from attnlab.ranking.noise_floor import planned_for
from attnlab.ranking.verdicts import Verdicts
from attnlab.util.text import number

SIZES = ("n_params", "n_params_non_embedding")


@dataclass(frozen=True)
class ArmSummary:
    """One arm of the leaderboard. What is not known is None."""

    arm: str
    index: int  # its position in sweep.yaml, which fixes its colour
    rank: int | None  # 1 is best; None where some pair with the arm is not decided
    not_worse: bool  # it is the best, or not shown worse than it
    score: float | None  # what it is ranked by
    mixer: str
    trials: list[TrialRecord]  # without those of the noise floor
    counts: dict[str, int]  # by ALL_STATES
    best: TrialRecord | None
    value: float | None  # the best trial's
    value_se: float | None  # of the validation alone, not over seeds
    step: int | None
    ties: int  # further candidates with exactly that value; the earliest trial is taken
    confirm: Mapping[str, Any] | None  # {n, mean, std, values, settings}
    certificate: Mapping[str, Any]  # how it was tuned, see attnlab.ranking.search_coverage
    space: Mapping[str, Dimension]  # searched last: its own, or as an extension widened it
    n_params: int | None
    n_params_non_embedding: int | None
    tokens: int  # of the trials that ended
    device_seconds: float
    interval: list[float] | None  # of the confirm mean, simultaneous over all arms
    tokens_per_s: float | None  # the one of leaderboard.json

    @property
    def ended(self) -> int:
        """Trials with a readable end."""
        return sum(t.results is not None for t in self.trials)


@dataclass(frozen=True)
class Selection:
    """Every arm, best first."""

    data: SweepData
    arms: list[ArmSummary]
    ranked_by: str  # "confirm mean" or "best of search"
    baselines: dict[str, float]  # those that are values of the metric

    @property
    def plan(self) -> Plan:
        """The sweep, resolved."""
        return self.data.plan

    @property
    def metric(self) -> str:
        """What arms are ranked by."""
        return self.data.plan.metric

    @property
    def declared(self) -> list[ArmSummary]:
        """Every arm, in the order of sweep.yaml."""
        return sorted(self.arms, key=lambda arm: arm.index)

    @property
    def ended(self) -> int:
        """Trials of all arms with a readable end, as far as planned."""
        return sum(planned_for(self.plan, results) for results in self.data.results)

    @property
    def in_progress(self) -> bool:
        """Whether the sweep has trials yet to run or to end."""
        return self.ended < self.planned

    @property
    def planned(self) -> int:
        """Trials of the whole sweep, with those of an extension once it is decided."""
        return planned_trials(self.plan, self.data.results)

    def confirm_values(self, arm: ArmSummary, metric: str) -> dict[int, float]:
        """An arm's last values by seed: those behind the leaderboard's confirm mean.

        Only runs of the setting that stands for the arm count. Where the sweep searches nothing, plain runs do too.
        """
        runs = [t for t in arm.trials if t.phase == "confirm" and t.state == "completed"]
        if not runs and not self.plan.sweep.search:
            runs = [t for t in arm.trials if t.state == "completed"]
        chosen = [t.results for t in runs if not arm.confirm or t.settings == arm.confirm["settings"]]
        values = {r["seed"]: number((r["last"] or {}).get(metric)) for r in chosen if r}
        return {seed: value for seed, value in values.items() if value is not None}

    @cached_property
    def decided(self) -> tuple[Verdicts, Comparisons]:
        """What is decided between all arms on the metric, and the comparisons that it is made of."""
        return sweep_verdicts(self.plan, self.data.results)


def select(data: SweepData) -> Selection:
    """Rank the arms and pick each one's best trial."""
    plan, metric = data.plan, data.plan.metric
    board = leaderboard(plan, data.results, data.baselines)
    more = extension(plan, data.results)
    spaces = more.spaces if more else {arm: plan.arm(arm).space for arm in plan.names}
    arms = [_arm(data, arm, board, spaces[arm]) for arm in board["ranking"]]
    # a baseline is named after the quantity it is a value of: `unigram_loss` belongs to val_loss and val_loss_T512
    quantity = metric.removeprefix("val_").partition("_")[0]
    baselines = {name: value for name, value in data.baselines.items() if quantity in name}
    return Selection(data, arms, board["ranked_by"], baselines)


def _score(board: Mapping[str, Any], arm: str) -> float | None:
    row = board["arms"][arm]
    if board["ranked_by"] == "confirm mean":
        return row["confirm"]["mean"]
    return row["best"] and row["best"]["value"]


def _arm(data: SweepData, arm: str, board: Mapping[str, Any], space: Mapping[str, Dimension]) -> ArmSummary:
    row, score = board["arms"][arm], _score(board, arm)
    trials = [t for t in data.trials if t.arm == arm and t.phase != "noise"]
    best = next((t for t in trials if row["best"] and t.trial_id == row["best"]["trial_id"]), None)
    value = best.value(data.plan.metric) if best else None
    candidates = [t for t in trials if best and t.phase == best.phase]
    sizes = [t.results for t in ([best] if best else trials) if t and t.results]
    report = (best.results or {}).get("last") or {} if best else {}
    return ArmSummary(
        arm=arm,
        index=list(data.plan.names).index(arm),
        rank=row["rank"],
        not_worse=arm in board["not_worse"],
        score=score,
        mixer=mixer_text(data.plan, arm, best.settings if best else {}),
        trials=trials,
        counts={state: sum(t.state == state for t in trials) for state in ALL_STATES},
        best=best,
        value=value,
        value_se=number(report.get(f"{data.plan.metric}_se")),
        step=number(report.get("step")),
        ties=max(0, sum(t.value(data.plan.metric) == value for t in candidates) - 1),
        confirm=row["confirm"],
        certificate=row["certificate"],
        space=space,
        **{key: next((r[key] for r in sizes if r[key] is not None), None) for key in SIZES},
        tokens=row["tokens"],
        device_seconds=row["device_seconds"],
        interval=row["interval"],
        tokens_per_s=row["tokens_per_s"],
    )


def mixer_text(plan: Plan, arm: str, settings: Mapping[str, Any]) -> str:
    """`gla x4`, or `gla, standard (window 256) repeated over 6 layers`; "-" if unparsable."""
    try:
        model = plan.arm(arm).with_settings(settings).model
    except ValueError:
        return "-"
    if len(model.mixer) == 1:
        return f"{model.mixer[0]} x{model.n_layers}"
    pattern = ", ".join(map(str, model.mixer))
    return pattern if len(model.mixer) >= model.n_layers else f"{pattern} repeated over {model.n_layers} layers"
