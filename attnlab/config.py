"""The sweep file as a frozen, fully checked tree.

Precedence, lowest first: the defaults below, the file's `trial:`, the arm, the command line's `a.b=c` overrides (which
edit the file before anything is resolved), and last the settings a search samples for one trial.

Structure and types are checked here; what a mixer or a task accepts is known to their own tables and checked by
`attnlab.check`, which `load_sweep` calls so that one run of it reports every mistake in the file.
Neither torch nor ray is imported.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

from attnlab.space import Dimension, parse

NOISE_SEED = 10_000  # the first seed of `noise`
ARM_ONLY = ("search", "differs")  # what an arm may say beside its trial


class Config(BaseModel):
    """Base of every node: unknown keys are errors, values never change after construction."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class MixerConfig(BaseModel):
    """One layer's sequence mixer: its name in the table (or `package.module:Class`) and arguments of its own."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def args(self) -> dict[str, Any]:
        """Everything beside the name, as given."""
        return dict(self.model_extra or {})

    def __str__(self) -> str:
        """`gla`, or `standard (window 256)`."""
        args = ", ".join(f"{key} {value}" for key, value in self.args.items())
        return f"{self.name} ({args})" if args else self.name


class ModelConfig(Config):
    """A pre-norm decoder; only `mixer` differs between arms that compare mixers."""

    d_model: PositiveInt = 128
    n_layers: PositiveInt = 2
    n_heads: PositiveInt = 4
    d_ff: PositiveInt | None = Field(None, description="MLP width; absent: 8/3 d_model (swiglu) or 4 d_model (gelu)")
    mlp: Literal["swiglu", "gelu", "none"] = "swiglu"
    tie_embeddings: bool = False
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    mixer: tuple[MixerConfig, ...] = (MixerConfig(name="standard"),)

    @field_validator("mixer", mode="before")
    @classmethod
    def _mixer_forms(cls, value: Any) -> Any:
        """Accept `gla`, `{name: gla, ...}` or a list of either (a pattern repeated over the layers)."""
        forms = value if isinstance(value, (list, tuple)) else [value]
        if not forms:
            raise ValueError("an empty pattern; name at least one mixer")
        return tuple({"name": form} if isinstance(form, str) else form for form in forms)

    def mixer_at(self, layer: int) -> MixerConfig:
        """The mixer of layer `layer` (0-based): the pattern repeats over the layers."""
        return self.mixer[layer % len(self.mixer)]

    @property
    def places(self) -> str:
        """Where each mixer of a pattern stands: `layers 0, 1, 3: gla; layer 2: standard (window 256)`; "" for one."""
        layers: dict[str, list[str]] = {}
        for layer in range(self.n_layers):
            layers.setdefault(str(self.mixer_at(layer)), []).append(str(layer))
        each = (f"layer{'s' * (len(at) > 1)} {', '.join(at)}: {mixer}" for mixer, at in layers.items())
        return "; ".join(each) if len(layers) > 1 else ""


class TaskConfig(BaseModel):
    """What is learnt: a task's name, the training length, and settings of the task's own."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "text"
    seq_len: PositiveInt = 256

    @property
    def args(self) -> dict[str, Any]:
        """Everything beside the name, `seq_len` included, as keyword arguments of the task."""
        return {"seq_len": self.seq_len, **(self.model_extra or {})}


class OptimConfig(Config):
    """The optimizer and its learning-rate schedule; one `lr` serves Muon's and AdamW's groups alike (see optim.py)."""

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = Field(3e-3, gt=0.0)
    weight_decay: float = Field(0.1, ge=0.0)
    beta1: float = Field(0.9, ge=0.0, lt=1.0)
    beta2: float = Field(0.95, ge=0.0, lt=1.0)
    momentum: float = Field(0.95, ge=0.0, lt=1.0, description="Muon's")
    warmup: float = Field(0.05, ge=0.0, description="below 1: a fraction of max_steps; from 1 on: optimizer steps")
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    decay: float = Field(
        0.2, gt=0.0, le=1.0, description="wsd: the fraction of max_steps the final decay takes, of a rung its branch's"
    )
    min_lr_ratio: float = Field(0.1, ge=0.0, le=1.0, description="the rate at the last step, relative to lr")
    clip: float | None = Field(1.0, gt=0.0, description="largest global gradient norm; null: no clipping")

    def decay_start(self, max_steps: int) -> int:
        """wsd: the last step before the final decay."""
        return max_steps - round(self.decay * max_steps)


class TrainConfig(Config):
    """Length and pace. Steps are optimizer steps; `batch_size` is sequences per step over all workers."""

    max_steps: PositiveInt = 1000
    batch_size: PositiveInt = 16
    grad_accum: PositiveInt = Field(1, description="micro-batches a step's batch is split into, on each worker")
    eval_every: PositiveInt = Field(100, description="steps between validations; every validation is a report")
    save_every: PositiveInt | None = Field(None, description="steps between checkpoints; absent: at every report")
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    step: Literal["auto", "captured", "compiled", "eager"] = Field("auto", description="how a step is run; see step.py")
    seconds: float | None = Field(
        None, gt=0.0, description="of training, validation apart, after which it ends, at max_steps at the latest"
    )
    seed: int = Field(0, ge=0)

    @property
    def save_every_steps(self) -> int:
        """Steps between checkpoints, resolved."""
        return self.save_every or self.eval_every


class Trial(Config):
    """Everything that determines one training run's result, and nothing else."""

    model: ModelConfig = ModelConfig()
    task: TaskConfig = TaskConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()

    @property
    def digest(self) -> str:
        """10 hexadecimal digits of SHA-256 over the canonical JSON of the trial, but for `train.step`, which says how
        and not what is computed."""
        unsaid = {"step"} | ({"seconds"} if self.train.seconds is None else set())
        tree = self.model_dump(mode="json", exclude={"train": unsaid})
        text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def tokens_per_step(self) -> int:
        """Tokens the model reads per optimizer step."""
        return self.train.batch_size * self.task.seq_len


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
            raise SweepError(problems)
        noise = self.noise if self.noise and self.noise.arm in arms else None
        return self.model_copy(update={"arms": {a: self.arms[a] for a in self.arms if a in arms}, "noise": noise})


class SweepError(ValueError):
    """Everything wrong with a sweep, one line each in `problems`."""

    def __init__(self, problems: Sequence[str]):
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for a near miss, else the known words, for the end of an error message."""
    known = list(known)
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; one of: {', '.join(map(str, known))}"


def nest(key: str, value: Any) -> dict[str, Any]:
    """`a.b`, v -> {a: {b: v}}."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def expand(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys of `tree` (at its top) as nested mappings; the same key twice is an error."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out = merge(out, nest(str(key), value))
    return out


def trial_part(arm: Mapping[str, Any]) -> dict[str, Any]:
    """An arm's tree without what it says beside its trial."""
    return {key: value for key, value in arm.items() if key not in ARM_ONLY}


def merge(base: Any, change: Any, key: str = "") -> Any:
    """`change` over `base`, mappings merged key by key. A mixer or task that names itself replaces the old one whole:
    the arguments of another mixer would be meaningless to it."""
    if key == "mixer" and isinstance(base, str):
        base = {"name": base}
    if not isinstance(base, Mapping) or not isinstance(change, Mapping):
        return change
    if key in ("mixer", "task") and change.get("name", base.get("name")) != base.get("name"):
        return dict(change)
    if key == "mixer" and "name" in change:
        return dict(change)
    return {**base, **{name: merge(base.get(name), value, name) for name, value in change.items()}}


def load_sweep(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    plain: bool = False,
    scale: str | None = None,
    solve: bool = True,
) -> Sweep:
    """Read, override and check a sweep file.

    Args:
        path: the YAML file.
        overrides: `a.b=c` texts; the value is read as YAML.
        plain: without its search; see `sweepfile.plain`.
        scale: `tiny`: made small; see `scale.tiny`.
        solve: fill in what `match:` and `budget:` come to, which takes torch.

    Raises:
        SweepError: everything wrong with the file and the overrides, one line per mistake.
    """
    from attnlab import check, sweepfile  # the tables of mixers and tasks stand above this module: imported when called

    raw = sweepfile.read(path)
    sweepfile.override(raw, overrides)
    return check.checked(sweepfile.plain(raw) if plain else raw, scale=scale, solve=solve)
