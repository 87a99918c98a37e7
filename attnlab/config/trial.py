"""One training run as a frozen tree: all that determines its result."""

from __future__ import annotations

from functools import reduce
from operator import getitem
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticKnownError

from attnlab.config import values
from attnlab.config.values import Rate, Seconds, Seed, Size, Steps
from attnlab.util.files import json_digest

Mode = Literal["min", "max"]  # whether less or more of a metric is better

NEWEST_RECIPE = 1
SHOWN = 20  # layers that are listed
NOT_DIGESTED = ("train.step",)  # it says how and not what is computed
ADDED_LATER = {"train.seconds": None, "recipe": 1}  # key -> the default at which the digest leaves it out


def check_recipe(recipe: int) -> int:
    """Give a recipe's number back. Raises ValueError if it is not known here, as a newer program's.

    A recipe is how settings become numbers: generators of rows, initialisations, splits. What changes a trial's
    numbers at equal settings gets the next recipe. A file that names none was written under recipe 1.
    """
    if isinstance(recipe, int) and 1 <= recipe <= NEWEST_RECIPE:
        return recipe
    raise ValueError(f"recipe {recipe} is not known to this attnlab, whose newest is {NEWEST_RECIPE}; update attnlab")


def refuse_step(step: str, device: str, workers: int) -> None:
    """Raise ValueError for a `train.step` that cannot be had. `captured` needs CUDA and a single worker."""
    if step == "captured" and device != "cuda":
        raise ValueError(f"train.step: captured needs CUDA, and this trial runs on {device}; use auto")
    if step == "captured" and workers > 1:
        raise ValueError("train.step: captured works with one worker; use auto or compiled")


class Config(BaseModel):
    """Base of every node: unknown keys are errors, values never change, numbers are finite and of 64 bits."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _kept_apart(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse `true` for a number and a number for `true`, each of which pydantic takes for the other."""
        annotation = cls.model_fields[info.field_name].annotation if info.field_name else None
        if problem := values.confusion(value, annotation):
            raise PydanticKnownError(problem)
        return value

    @field_validator("*")
    @classmethod
    def _in_range(cls, value: Any) -> Any:
        """Refuse what `2e400` and texts of many digits become, which the tree of a sweep does not show."""
        if problem := values.scalar_problem(value):
            raise ValueError(problem)
        return value


class OpenConfig(Config):
    """A node that takes keys of its own: a mixer's or a task's arguments."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def _extra_in_range(self) -> OpenConfig:
        if wrong := list(values.problems(self.model_extra or {})):
            raise ValueError("\n".join(wrong))
        return self


class MixerConfig(OpenConfig):
    """One layer's sequence mixer: its name in the table, or `package.module:Class`, and its arguments."""

    name: str = Field(description="a mixer of docs/mixers.md, or `package.module:Class`; other keys are its arguments")

    @property
    def args(self) -> dict[str, Any]:
        """Everything besides the name, as given."""
        return dict(self.model_extra or {})

    def __str__(self) -> str:
        """`gla`, or `standard (window 256)`."""
        args = ", ".join(f"{key} {value}" for key, value in self.args.items())
        return f"{self.name} ({args})" if args else self.name


class ModelConfig(Config):
    """A pre-norm decoder. Only `mixer` differs between arms that compare mixers."""

    d_model: Size = Field(128, description="width of the residual stream")
    n_layers: PositiveInt = Field(2, le=10_000, description="layers, each a mixer and an MLP")
    n_heads: Size = Field(4, description="heads of every mixer that has any")
    d_ff: Size | None = Field(None, description="MLP width; absent: 8/3 d_model (swiglu) or 4 d_model (gelu)")
    mlp: Literal["swiglu", "gelu", "none"] = Field("swiglu", description="MLP of each layer; none: mixers alone")
    tie_embeddings: bool = Field(False, description="one matrix for the embedding and the head")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="share dropped on the embedding and both residual branches")
    mixer: tuple[MixerConfig, ...] = Field((MixerConfig(name="standard"),), description="a mixer or a pattern of them")

    @field_validator("mixer", mode="before")
    @classmethod
    def _mixer_forms(cls, value: Any) -> Any:
        """Accept `gla`, `{name: gla, ...}`, or a list of them, repeated over the layers."""
        forms = value if isinstance(value, (list, tuple)) else [value]
        if not forms:
            raise ValueError("an empty pattern; name at least one mixer")
        return tuple({"name": form} if isinstance(form, str) else form for form in forms)

    def mixer_at(self, layer: int) -> MixerConfig:
        """The mixer of layer `layer` (0-based): the pattern repeats over the layers."""
        return self.mixer[layer % len(self.mixer)]

    @property
    def layers_by_mixer(self) -> str:
        """Each mixer's layers, as `layers 0, 1, 3: gla; layer 2: standard (window 256)`. Empty if all are one."""
        layers: dict[str, list[str]] = {}
        for layer in range(self.n_layers):
            layers.setdefault(str(self.mixer_at(layer)), []).append(str(layer))
        for mixer, numbers in layers.items():
            if len(numbers) > 2 * SHOWN:
                layers[mixer] = [*numbers[:SHOWN], "...", f"{numbers[-1]} ({len(numbers):,} of them)"]
        each = (f"layer{'s' * (len(numbers) > 1)} {', '.join(numbers)}: {mixer}" for mixer, numbers in layers.items())
        return "; ".join(each) if len(layers) > 1 else ""


class TaskConfig(OpenConfig):
    """What is learnt: a task's name, the training length, and settings of the task's own."""

    name: str = Field("text", description="a task of docs/tasks.md; other keys are its settings")
    seq_len: Steps = Field(256, description="tokens of a training sequence")

    @property
    def args(self) -> dict[str, Any]:
        """Everything besides the name, `seq_len` included, as keyword arguments of the task."""
        return {"seq_len": self.seq_len, **(self.model_extra or {})}


class OptimConfig(Config):
    """The optimizer and its learning-rate schedule. One `lr` serves Muon's and AdamW's groups (see `attnlab.optim`)."""

    name: Literal["adamw", "muon"] = Field("adamw", description="muon: Muon for hidden matrices, AdamW for the rest")
    lr: Rate = Field(3e-3, gt=0.0, description="learning rate at its peak, per step")
    weight_decay: Rate = Field(0.1, ge=0.0, description="decoupled decay; multiplied by the learning rate, per step")
    beta1: float = Field(0.9, ge=0.0, lt=1.0, description="AdamW's decay of the gradient's mean, per step")
    beta2: float = Field(0.95, ge=0.0, lt=1.0, description="AdamW's decay of the squared gradient's mean, per step")
    momentum: float = Field(0.95, ge=0.0, lt=1.0, description="Muon's momentum, per step")
    warmup: float = Field(0.05, ge=0.0, le=1e10, description="a fraction of max_steps if below 1, else optimizer steps")
    schedule: Literal["cosine", "linear", "wsd", "constant"] = Field("cosine", description="lr after the warm-up")
    decay: float = Field(
        0.2, gt=0.0, le=1.0, description="wsd: the final decay's fraction of max_steps, or of the steps up to a rung"
    )
    min_lr_ratio: float = Field(0.1, ge=0.0, le=1.0, description="the rate at the last step, relative to lr")
    clip: Rate | None = Field(1.0, gt=0.0, description="largest global gradient norm; null: no clipping")

    def decay_start(self, max_steps: int) -> int:
        """wsd: the last step before the final decay."""
        return max_steps - round(self.decay * max_steps)


class TrainConfig(Config):
    """Length and pace. Steps are optimizer steps. `batch_size` is sequences per step over all workers."""

    max_steps: Steps = Field(1000, description="optimizer steps")
    batch_size: Steps = Field(16, description="sequences per step, over all workers")
    grad_accum: Steps = Field(1, description="micro-batches a step's batch is split into, on each worker")
    eval_every: Steps = Field(100, description="steps between validations; every validation is a report")
    save_every: Steps | None = Field(None, description="steps between checkpoints; absent: at every report")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="auto: bf16 on CUDA, else fp32")
    step: Literal["auto", "captured", "compiled", "eager"] = Field(
        "auto", description="how a step is run; see attnlab/training/step.py"
    )
    seconds: Seconds | None = Field(
        None,
        gt=0.0,
        description="seconds without validation after which training ends, at max_steps at the latest",
    )
    seed: Seed = Field(
        0, ge=0, description="seed of the weights, the dropout and the order of the data, of at most 63 bits"
    )

    @property
    def save_every_steps(self) -> int:
        """Steps between checkpoints, resolved."""
        return self.save_every or self.eval_every


class Trial(Config):
    """Everything that determines one training run's result, and nothing else."""

    recipe: int = Field(1, description="the version of how settings become numbers; new trials get the newest")
    model: ModelConfig = Field(ModelConfig(), description="the network")
    task: TaskConfig = Field(TaskConfig(), description="the data and what is scored")
    optim: OptimConfig = Field(OptimConfig(), description="the optimizer and its schedule")
    train: TrainConfig = Field(TrainConfig(), description="length, batch and precision")

    @field_validator("recipe")
    @classmethod
    def _known(cls, value: int) -> int:
        return check_recipe(value)

    @property
    def digest(self) -> str:
        """10 hexadecimal digits of SHA-256 over the trial's canonical JSON.

        It leaves out `NOT_DIGESTED`, and of `ADDED_LATER` what is at its default, so that older trials keep theirs.
        """
        tree = self.model_dump(mode="json")
        for key in (*NOT_DIGESTED, *ADDED_LATER):
            *path, name = key.split(".")
            node = reduce(getitem, path, tree)
            if key in NOT_DIGESTED or node[name] == ADDED_LATER[key]:
                del node[name]
        return json_digest(tree, 10)

    @property
    def tokens_per_step(self) -> int:
        """Tokens the model reads per optimizer step."""
        return self.train.batch_size * self.task.seq_len
