"""The sweep file as a frozen, fully checked tree.

Precedence, lowest first: the defaults below, the file's `trial:`, the arm, the command line's `a.b=c` overrides (which
edit the file before anything is resolved), and last the settings a search samples for one trial.

Structure and types are checked here; what a mixer or a task accepts is known to their own tables and checked by
`attnlab.plan.validate`, which `load_sweep` calls so that one run of it reports every mistake in the file.
Neither torch nor ray is imported.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any, Literal

from pydantic import Field, PositiveInt, PrivateAttr, field_validator, model_validator

from attnlab.config.merge import merge, nest
from attnlab.config.space import Dimension, parse
from attnlab.config.trial import Config, Trial
from attnlab.util.errors import UserError
from attnlab.util.text import did_you_mean

NOISE_SEED = 10_000  # the first seed of `noise`
ARM_ONLY = ("search", "differs")  # what an arm may say beside its trial


class AshaConfig(Config):
    """Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934), stopping variant, one bracket per arm."""

    grace_steps: PositiveInt
    reduction_factor: float = Field(3.0, gt=1.0)
    decay_rungs: bool = Field(False, description="schedule wsd: judge what a short decay from the rung comes to")

    def rungs(self, max_steps: int) -> list[int]:
        """The steps at which trials are judged: grace_steps * reduction_factor^k, rounded up, below max_steps."""
        steps = []
        step = float(self.grace_steps)
        while math.ceil(step) < max_steps:
            steps.append(math.ceil(step))
            step *= self.reduction_factor
        return steps

    def branches(self, trial: Trial) -> dict[int, int]:
        """With `decay_rungs`, the step of a report -> the optimizer steps of the decay that branches off there.

        A branch starts from the first report at or beyond its rung and takes `optim.decay` of the steps done by then,
        so it never outruns the trial's own end. Rungs that lie in the final decay are none: the trunk ends before.
        """
        if not self.decay_rungs:
            return {}
        every, optim, last = trial.train.eval_every, trial.optim, trial.train.max_steps
        reports = (math.ceil(rung / every) * every for rung in self.rungs(last))
        end = min(optim.decay_start(last), last - 1)
        return {step: max(1, round(optim.decay * step)) for step in reports if step <= end}


class SearchConfig(Config):
    """How each arm is tuned; every arm gets the same number of trials from its own study."""

    space: dict[str, dict[str, Any]]
    trials: PositiveInt = 8
    metric: str = "val_loss"
    mode: Literal["min", "max"] = "min"
    sampler: Literal["tpe", "random", "grid", "cmaes"] = "tpe"
    extend: int = Field(
        0, ge=0, description="trials more for every arm, if any arm's best lies at the end of its range"
    )
    seed: int = Field(0, ge=0, description="of the sampler; arms with one space begin alike")
    asha: AshaConfig | None = None

    @field_validator("space")
    @classmethod
    def _parse(cls, value: dict[str, Any]) -> dict[str, Any]:
        problems = []
        for key, form in value.items():
            try:
                parse(form)
            except ValueError as error:
                problems.append(f"{key}: {error}")
        if problems:
            raise ValueError("\n".join(problems))
        return value

    @property
    def dimensions(self) -> dict[str, Dimension]:
        """The space, parsed: dotted trial key -> dimension."""
        return {key: parse(form) for key, form in self.space.items()}

    def trials_of(self, dimensions: Mapping[str, Dimension]) -> int:
        """Trials in a space: `trials`, or as many as it has points if these are fewer; a grid's are its points."""
        points = prod(d.points for d in dimensions.values())
        return int(points if self.sampler == "grid" else min(self.trials, points))


class ConfirmConfig(Config):
    """Each arm's best settings trained again, unstopped, once per seed."""

    seeds: tuple[int, ...] = Field(min_length=1)
    top: PositiveInt = Field(1, description="how many of its best settings; the best mean over the seeds counts")


class NoiseConfig(Config):
    """One arm as declared, trained over seeds of their own before anything else: how far apart equal runs come."""

    arm: str
    seeds: int = Field(5, ge=3, description="how many; two would tell next to nothing of how far runs scatter")

    @property
    def values(self) -> tuple[int, ...]:
        """The seeds, far from those that people give."""
        return tuple(range(NOISE_SEED, NOISE_SEED + self.seeds))


class ResourcesConfig(Config):
    """What one trial takes. `auto` GPUs: none where the cluster has none; one per worker; a part of one where small
    trials of one worker share it (see sweep/sharing.py)."""

    workers: PositiveInt = 1
    cpus_per_worker: PositiveInt = 1
    gpus_per_worker: Literal["auto"] | float = "auto"
    max_concurrent: Literal["auto"] | PositiveInt = "auto"
    max_failures: int = Field(
        2, ge=0, description="restarts of a trial whose worker died without getting further, before it counts as failed"
    )
    hang_s: float | None = Field(
        1800.0,
        gt=0.0,
        description="a worker that, once it has done a step, does none for so many seconds is restarted (null: never). "
        "Half an hour is torch.distributed's own limit, and far beyond what may lie between two steps: kernels for a "
        "batch of another shape (minutes), a checkpoint on slow storage. To its first step, after data and kernels, it "
        "may take hours",
    )
    node_wait_s: float = Field(
        600.0, gt=0.0, description="seconds without any worker, after nodes were lost, before the sweep ends resumably"
    )

    @field_validator("gpus_per_worker")
    @classmethod
    def _fraction(cls, value: Any) -> Any:
        if value != "auto" and (value < 0 or (value > 1 and value != int(value))):
            raise ValueError(f"{value} GPUs; a fraction up to 1 or a whole number")
        return value


class BudgetConfig(Config):
    """What every trial of every arm may take, in place of `train.max_steps`; exactly one of the three."""

    tokens: float | None = Field(None, gt=0.0, description="training tokens")
    flops: float | None = Field(None, gt=0.0, description="training's operations without the head, see models/flops.py")
    seconds: float | None = Field(None, gt=0.0, description="of training, validation apart; max_steps is then a limit")

    @model_validator(mode="after")
    def _one(self) -> BudgetConfig:
        if sum(value is not None for value in (self.tokens, self.flops, self.seconds)) != 1:
            raise ValueError("give one of tokens, flops, seconds")
        return self

    @property
    def kind(self) -> str:
        """Which of them is given."""
        return next(name for name in ("tokens", "flops", "seconds") if getattr(self, name) is not None)

    @property
    def amount(self) -> float:
        """How much of it."""
        return getattr(self, self.kind)


class RankConfig(Config):
    """What the arms of a sweep without a search are compared by; a search says it itself."""

    metric: str = Field("val_loss", description="of the task, or tokens_per_s: between the last two reports")
    mode: Literal["min", "max"] = "min"


class Sweep(Config):
    """One question: arms trained and tuned alike. `arms` keeps what each arm declares beside the shared `trial`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    hypothesis: str = ""
    trial: dict[str, Any] = {}
    arms: dict[str, dict[str, Any]] = Field(min_length=1)
    match: Literal["none", "params", "flops", "state"] = "none"
    budget: BudgetConfig | None = None
    search: SearchConfig | None = None
    rank: RankConfig | None = None
    confirm: ConfirmConfig | None = None
    noise: NoiseConfig | None = None
    guards: Literal["warn", "strict"] = Field("warn", description="strict: what the guards warn of is an error")
    resources: ResourcesConfig = ResourcesConfig()
    _whole: Sweep | None = PrivateAttr(None)  # of `only`: the sweep with all of its arms

    def trial_of(self, arm: str, settings: Mapping[str, Any] | None = None, seed: int | None = None) -> Trial:
        """The trial of `arm` with sampled `settings` (dotted keys) and, if given, another training seed."""
        tree = merge(self.trial, trial_part(self.arms[arm]))
        for key, value in (settings or {}).items():
            tree = merge(tree, nest(key, value))
        if seed is not None:
            tree = merge(tree, {"train": {"seed": seed}})
        return Trial.model_validate(tree)

    @property
    def metric(self) -> str:
        """The metric arms are compared by."""
        return (self.search or self.rank or RankConfig()).metric

    @property
    def mode(self) -> Literal["min", "max"]:
        """Whether smaller (`min`) or larger (`max`) values of the metric are better."""
        return (self.search or self.rank or RankConfig()).mode

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the unstopped runs: those of `confirm`, else none."""
        return self.confirm.seeds if self.confirm else ()

    def dimensions_of(self, arm: str) -> dict[str, Dimension]:
        """What is searched for an arm: the sweep's space, and over it the arm's own `search.space`; {} without a
        search."""
        if self.search is None:
            return {}
        own = (self.arms[arm].get("search") or {}).get("space") or {}
        return {**self.search.dimensions, **{key: parse(form) for key, form in own.items()}}

    def trials_of(self, arm: str) -> int:
        """Trials an arm gets: those of the search, without an extension, and one per seed of its unstopped runs."""
        if self.search is None or self.confirm is None:
            return self.search.trials_of(self.dimensions_of(arm)) if self.search else max(1, len(self.seeds))
        searched = self.search.trials_of(self.dimensions_of(arm))
        return searched + len(self.seeds) * min(self.confirm.top, searched)

    @property
    def trials_per_arm(self) -> int:
        """The most trials that an arm gets; fewer only where its space has fewer points."""
        return max(self.trials_of(arm) for arm in self.arms)

    @property
    def total_trials(self) -> int:
        """Trials of the whole sweep, those of `noise` included, without an extension of the search."""
        return sum(self.trials_of(arm) for arm in self.arms) + (self.noise.seeds if self.noise else 0)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole sweep if nothing were stopped early, those of decay branches included."""
        return sum(self._steps_of(arm) for arm in self.arms)

    @property
    def total_tokens(self) -> int:
        """Training tokens of the whole sweep if nothing were stopped early."""
        return sum(self._steps_of(arm) * self.trial_of(arm).tokens_per_step for arm in self.arms)

    def _steps_of(self, arm: str) -> int:
        trial, asha = self.trial_of(arm), self.search.asha if self.search else None
        searched = self.search.trials_of(self.dimensions_of(arm)) if self.search else 0
        beside = sum(asha.branches(trial).values()) * searched if asha else 0
        noise = self.noise.seeds if self.noise and self.noise.arm == arm else 0
        return trial.train.max_steps * (self.trials_of(arm) + noise) + beside

    def only(self, arms: Sequence[str]) -> Sweep:
        """The same sweep with some of its arms; without `noise` if that arm is none of them."""
        problems = [f"--only {arm}: no such arm{did_you_mean(arm, self.arms)}" for arm in arms if arm not in self.arms]
        if problems:
            raise UserError(problems)
        noise = self.noise if self.noise and self.noise.arm in arms else None
        part = self.model_copy(update={"arms": {a: self.arms[a] for a in self.arms if a in arms}, "noise": noise})
        part._whole = self
        return part

    def rejoined(self, arms: Iterable[str]) -> Sweep:
        """With those of `arms` besides that `only` left out: a sweep trained in parts is one sweep."""
        back = set(arms) - self.arms.keys()
        if self._whole is None or back.isdisjoint(self._whole.arms):
            return self
        return self._whole.only([arm for arm in self._whole.arms if arm in back or arm in self.arms])


def trial_part(arm: Mapping[str, Any]) -> dict[str, Any]:
    """An arm's tree without what it says beside its trial."""
    return {key: value for key, value in arm.items() if key not in ARM_ONLY}
