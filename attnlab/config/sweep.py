"""The sweep file as a frozen, fully checked tree.

Precedence, lowest first: the defaults below, the file's `trial:`, the arm, and the settings that a search samples for
one trial. The command line's `a.b=c` overrides edit the file before anything is resolved.

Structure and types are checked here. What mixers and tasks accept is known to their tables and checked by
`attnlab.plan.checks.validate`, so that loading a file reports every mistake in it at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from attnlab.config.samplers import SAMPLERS
from attnlab.config.space import Dimension, parse
from attnlab.config.trial import Config, Mode, Trial
from attnlab.config.values import COUNT, Count, Seconds, Seed, Steps

MODE = "whether less or more of the metric is better; absent: what the metric itself says"
NOISE_SEED = 10_000  # the first seed of `noise`
SLIVER = 0.001  # of a GPU: Ray counts in ten thousandths, and no more than a thousand processes share one
ARM_ONLY = ("search", "differs")  # what an arm may say besides its trial


class AshaConfig(Config):
    """Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934), stopping variant, one bracket per arm."""

    grace_steps: Steps = Field(description="steps that every trial gets")
    reduction_factor: float = Field(3.0, gt=1.0, le=1e6, description="one trial of so many goes on at each rung")
    decay_rungs: bool = Field(False, description="with schedule wsd: judge what a short decay from the rung comes to")

    def rungs(self, max_steps: int) -> list[int]:
        """The steps at which trials are judged: grace_steps * reduction_factor^k, rounded up, below max_steps."""
        steps, step = [], float(self.grace_steps)
        while math.ceil(step) < max_steps:
            steps.append(math.ceil(step))
            step *= self.reduction_factor
        return steps

    def branches(self, trial: Trial) -> dict[int, int]:
        """With `decay_rungs`, a report's step -> the steps of the decay that branches off there.

        A branch starts from the first report at or beyond its rung and takes `optim.decay` of the steps done by then,
        so it never outruns the trial's own end. Rungs in the final decay get none, as the trunk ends before.
        """
        if not self.decay_rungs:
            return {}
        every, optim, last = trial.train.eval_every, trial.optim, trial.train.max_steps
        reports = (math.ceil(rung / every) * every for rung in self.rungs(last))
        end = min(optim.decay_start(last), last - 1)
        return {step: max(1, round(optim.decay * step)) for step in reports if step <= end}


class SearchConfig(Config):
    """How each arm is tuned. Every arm gets the same number of trials from its own study."""

    space: dict[str, Any] = Field(description="dotted keys of the trial -> values or a range to search")
    trials: Count = Field(8, description="trials of every arm; fewer where its space has fewer points")
    metric: str = Field("val_loss", description="the task's metric that trials are tuned and arms compared by")
    mode: Mode | None = Field(None, description=MODE)
    sampler: Literal[tuple(SAMPLERS)] = Field("tpe", description="what picks a trial's settings")  # type: ignore[valid-type]
    extend: int = Field(
        0, ge=0, le=COUNT, description="trials more for every arm, if any arm's best lies at the end of its range"
    )
    seed: Seed = Field(0, ge=0, description="the sampler's seed; arms with one space begin alike")
    asha: AshaConfig | None = Field(None, description="early stopping of bad trials; null: every trial runs to its end")

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
        """Trials in a space: `trials`, or as many as it has points if fewer. A grid's are its points."""
        points = math.prod(d.points for d in dimensions.values())
        exhaustive = SAMPLERS[self.sampler].exhaustive and points < math.inf  # a grid of a range is refused elsewhere
        return int(points if exhaustive else min(self.trials, points))


class ConfirmConfig(Config):
    """Each arm's best settings trained again, unstopped, once per seed."""

    seeds: tuple[Seed, ...] = Field(min_length=1, max_length=1000, description="training seeds, one run each")
    top: Count = Field(1, description="how many of an arm's best settings; the best mean over the seeds counts")


class NoiseConfig(Config):
    """One arm as declared, trained first over its own seeds, to see how runs scatter."""

    arm: str = Field(description="the arm's name in `arms`")
    seeds: int = Field(
        5, ge=3, le=1000, description="how many seeds; two would tell next to nothing of how far runs scatter"
    )

    @property
    def values(self) -> tuple[int, ...]:
        """The seeds, far from those that people give."""
        return tuple(range(NOISE_SEED, NOISE_SEED + self.seeds))


class ResourcesConfig(Config):
    """What one trial takes.

    `auto` GPUs: none where the cluster has none; one per worker; a part of one where small trials of one worker share
    it (see attnlab/plan/gpu_packing.py).
    """

    workers: Count = Field(1, description="processes of one trial, under DDP")
    cpus_per_worker: Count = Field(1, description="CPU cores of each process")
    gpus_per_worker: Literal["auto"] | float = Field("auto", description="GPUs of each process, whole or a part")
    max_concurrent: Literal["auto"] | Count = Field("auto", description="trials at a time; auto: as many as fit")
    max_failures: int = Field(
        2,
        ge=0,
        le=COUNT,
        description="restarts of a trial whose worker died without getting further, before it counts as failed",
    )
    hang_s: Seconds | None = Field(
        1800.0,
        ge=1.0,
        description="a worker that, once it has done a step, does none for so many seconds is restarted (null: never). "
        "Half an hour is torch.distributed's own limit, and far beyond what may lie between two steps: kernels for a "
        "batch of another shape (minutes), a checkpoint on slow storage. To its first step, after data and kernels, it "
        "may take hours",
    )
    node_wait_s: Seconds = Field(
        600.0, gt=0.0, description="seconds without any worker, after nodes were lost, before the sweep ends resumably"
    )

    @field_validator("gpus_per_worker")
    @classmethod
    def _fraction(cls, value: Any) -> Any:
        whole = value != "auto" and (value == 0 or 1 <= value <= COUNT) and value == int(value)
        if value != "auto" and not whole and not SLIVER <= value < 1:
            raise ValueError(f"{value:g} GPUs; 0, a fraction of at least {SLIVER:g}, or a whole number up to {COUNT:,}")
        return abs(value) if whole else value  # no -0


class BudgetConfig(Config):
    """What every trial may take, in place of `train.max_steps`: exactly one of the three."""

    tokens: float | None = Field(None, gt=0.0, le=1e17, description="training tokens")
    flops: float | None = Field(
        None, gt=0.0, le=1e30, description="operations without the head (attnlab/models/cost/flops.py)"
    )
    seconds: Seconds | None = Field(None, gt=0.0, description="seconds without validation; max_steps is then a limit")

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
        return float(getattr(self, self.kind))


class RankConfig(Config):
    """What the arms of a sweep without a search are compared by."""

    metric: str = Field("val_loss", description="a metric of the task, or tokens_per_s: between the last two reports")
    mode: Mode | None = Field(None, description=MODE)


class Sweep(Config):
    """One question: arms trained and tuned equally. `arms` keeps what each declares besides the shared `trial`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the results' folder")
    description: str = Field("", description="the question, for the report")
    hypothesis: str = Field("", description="what is expected, for the report")
    claims: tuple[str, ...] = Field(
        (),
        max_length=1000,
        description="what the hypothesis says in detail, each judged in the report: `gla < standard on val_loss by 2%`",
    )
    sesoi: float | None = Field(
        None,
        gt=0.0,
        le=1e12,
        description="the smallest effect of interest, in the metric's unit; arms that differ by less are equivalent. "
        "null: none are called so",
    )
    baseline: str | None = Field(
        None, description="an arm that all others are compared with (Dunnett), besides all pairs; null: none"
    )
    trial: dict[str, Any] = Field({}, description="what all arms share, over the defaults below")
    arms: dict[str, dict[str, Any]] = Field(min_length=1, description="arm -> its own settings of the trial")
    match: Literal["none", "params", "flops", "state"] = Field("none", description="what the arms' widths make equal")
    budget: BudgetConfig | None = Field(None, description="what a trial may take; null: train.max_steps")
    search: SearchConfig | None = Field(None, description="how arms are tuned; null: each is trained as declared")
    rank: RankConfig | None = Field(None, description="what arms are compared by without a search; null: val_loss")
    confirm: ConfirmConfig | None = Field(None, description="repeats of the best settings; null: none")
    noise: NoiseConfig | None = Field(None, description="repeats of one arm; null: none")
    guards: Literal["warn", "strict"] = Field("warn", description="strict: what the guards warn of is an error")
    resources: ResourcesConfig = Field(ResourcesConfig(), description="processes and devices of a trial")
    tiny: dict[str, Any] | None = Field(
        None,
        description="dotted keys -> their values under --scale tiny, in place of what the scale would make of them",
    )


def trial_part(arm: Mapping[str, Any]) -> dict[str, Any]:
    """An arm's tree without what it says besides its trial."""
    return {key: value for key, value in arm.items() if key not in ARM_ONLY}
