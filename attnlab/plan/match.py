"""Matched comparisons: widths and lengths that follow from the sweep instead of being typed per arm.

`match: params | flops | state` gives every arm after the first the integer width with which its models agree with the
first arm's within `WITHIN`; `budget: {tokens: ...}` or `{flops: ...}` gives every arm its `train.max_steps`, and
`{seconds: ...}` its `train.seconds`. Both are solved when a sweep is loaded, and stand in its resolved sweep.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from attnlab import models
from attnlab.config.merge import merge
from attnlab.config.sweep import Sweep, trial_part
from attnlab.config.trial import ModelConfig, Trial
from attnlab.models import signature
from attnlab.models.checks import spec_of
from attnlab.util.errors import UserError

WITHIN = 0.01
# Arguments that widen a mixer, the first that its class takes and its row leaves open; `state` may use no other width.
WIDTHS = ("expand_v", "state_size", "num_slots", "expand_ratio", "feature_dim", "expand_k", "expand", "head_dim",
          "intermediate_size", "kv_lora_rank")  # fmt: skip
SEARCHED = {  # settings that a search may not vary together with it, as what is solved would not hold for them
    "match": ("model.",),
    "tokens": ("train.batch_size", "task.seq_len", "train.max_steps"),
    "flops": ("model.", "train.batch_size", "task.seq_len", "train.max_steps"),
    "seconds": ("train.seconds",),
}
WORDS = {
    "params": "non-embedding parameters",
    "flops": "training FLOPs per token, without the head",
    "state": "bytes of state after seq_len tokens",
}


def solved(sweep: Sweep) -> Sweep:
    """The sweep with its arms' widths and steps filled in; itself if it asks for neither.

    Raises:
        UserError: what cannot be solved, one line per arm.
    """
    if sweep.match == "none" and sweep.budget is None:
        return sweep
    problems = list(_searched(sweep))
    if not problems and sweep.match != "none":
        sweep = _each(sweep, _width, problems)
    if not problems and sweep.budget:
        sweep = _each(sweep, _steps, problems)
    if problems:
        raise UserError(problems)
    return sweep


def measure(kind: str, model: ModelConfig, seq_len: int) -> float | None:
    """A model by one of `WORDS`; None where it is not known."""
    import torch

    if kind == "flops":
        from attnlab.models.flops import flops_per_token

        return flops_per_token(model, seq_len)
    if kind == "state":
        from attnlab.models.state import state_bytes

        return state_bytes(model, seq_len)
    own = any(":" in mixer.name for mixer in model.mixer)  # whose constructors may compute with values
    with torch.random.fork_rng(devices=[]), torch.device("cpu" if own else "meta"):
        return models.count_params(models.build_model(model, 1))["n_params_non_embedding"]


def _searched(sweep: Sweep) -> Iterator[str]:
    asked = ["match"] * (sweep.match != "none") + ([sweep.budget.kind] if sweep.budget else [])
    for what in asked:
        for key in {key: None for arm in sweep.arms for key in sweep.dimensions_of(arm)}:
            if key.startswith(SEARCHED[what]):
                name = f"match: {sweep.match}" if what == "match" else f"budget: {what}"
                yield f"search.space.{key}: {name} is solved once per arm, so this cannot be searched; give it per arm"


def _each(sweep: Sweep, solve: Callable[[Sweep, str], dict[str, Any]], problems: list[str]) -> Sweep:
    """The sweep with what `solve` gives for each arm; its ValueErrors are added to `problems`."""
    arms = {}
    for arm, tree in sweep.arms.items():
        try:
            arms[arm] = merge(tree, solve(sweep, arm))
        except ValueError as error:
            problems.append(f"arms.{arm}: {error}")
    return sweep if problems else sweep.model_copy(update={"arms": arms})


def _steps(sweep: Sweep, arm: str) -> dict[str, Any]:
    """What `budget` comes to for an arm."""
    budget, trial = sweep.budget, sweep.trial_of(arm)
    assert budget is not None
    if budget.seconds:
        return {"train": {"seconds": budget.seconds}}
    per_step: float | None = trial.tokens_per_step
    if budget.flops:
        flops = measure("flops", trial.model, trial.task.seq_len)
        if flops is None:
            raise ValueError("budget: flops: not known for its mixer; use budget: tokens")
        per_step = flops * trial.tokens_per_step
    steps = int((budget.tokens or budget.flops or 0) / per_step)
    if steps < trial.train.eval_every:
        every = trial.train.eval_every
        raise ValueError(f"budget: {budget.kind}: {budget.amount:g} are {steps} steps, fewer than eval_every {every}")
    given = merge(sweep.trial, trial_part(sweep.arms[arm])).get("train", {}).get("max_steps")
    if given not in (None, steps):
        raise ValueError(f"train.max_steps: {given}, but budget: {budget.kind} gives {steps}; leave one of them out")
    return {"train": {"max_steps": steps}}


def _width(sweep: Sweep, arm: str) -> dict[str, Any]:
    """The width with which an arm matches the first one."""
    first, trial = sweep.trial_of(next(iter(sweep.arms))), sweep.trial_of(arm)
    target = measure(sweep.match, first.model, first.task.seq_len)
    own = measure(sweep.match, trial.model, trial.task.seq_len)
    if target is None or own is None:
        whose = "the first arm's mixer" if target is None else "its mixer"
        raise ValueError(f"match: {sweep.match}: {WORDS[sweep.match]} are not known for {whose}")
    if abs(own - target) <= WITHIN * target and trial.model.d_ff == first.model.d_ff:
        return {}
    by_mlp = sweep.match != "state" and trial.model.mlp != "none"
    width, found = (_mlp_width if by_mlp else _mixer_width)(sweep.match, trial, target)
    if found is None or abs(found - target) > WITHIN * target:
        nearest = f"; the nearest is {found:,.0f}, with {_said(width)}" if width else ""
        what = "d_ff" if by_mlp else "width of its mixer"
        raise ValueError(
            f"match: {sweep.match}: no {what} gives the first arm's {target:,.0f} {WORDS[sweep.match]} within "
            f"{WITHIN:.0%}{nearest}"
        )
    given = sweep.arms[arm].get("model", {}).get("d_ff")
    if by_mlp and given not in (None, width["d_ff"]):
        raise ValueError(f"model.d_ff: {given}, but match: {sweep.match} gives {width['d_ff']}; leave one of them out")
    return {"model": width}


def _said(width: dict[str, Any]) -> str:
    if "mixer" not in width:
        return f"d_ff {width['d_ff']}"
    return "mixer " + ", ".join(str(ModelConfig(mixer=mixer).mixer[0]) for mixer in width["mixer"])


def _mlp_width(kind: str, trial: Trial, target: float) -> tuple[dict[str, Any], float | None]:
    """`d_ff`: parameters and operations are linear in it, so two models tell the rest. The roundest width that is near
    enough: tensor cores want rows of 16 bytes (8 bf16 numbers), and larger powers of two fill their tiles."""

    def at(width: int) -> float:
        model = trial.model.model_copy(update={"d_ff": width})
        return measure(kind, model, trial.task.seq_len) or 0.0

    slope = (at(1024) - at(512)) / 512
    exact = (target - at(512)) / slope + 512
    for multiple in (64, 32, 16, 8, 1):
        width = max(1, round(exact / multiple) * multiple)
        if abs(slope * (width - exact)) <= WITHIN / 2 * target:
            break
    return {"d_ff": width}, at(width)


def _mixer_width(kind: str, trial: Trial, target: float) -> tuple[dict[str, Any], float | None]:
    """A value of one argument in `WIDTHS`, alike in all of the pattern's mixers that take it: the first that is near
    enough, else the nearest."""
    best: tuple[dict[str, Any], float | None] = ({}, None)
    for name in WIDTHS:
        for value in _values(name, trial.model):
            mixers = [_widened(mixer, name, value) for mixer in trial.model.mixer]
            if mixers == [mixer.model_dump() for mixer in trial.model.mixer]:
                break  # no mixer of the arm takes it
            model = trial.model.model_copy(update={"mixer": ModelConfig(mixer=mixers).mixer})
            if any(models.check_mixer(mixer, model) for mixer in model.mixer):
                continue
            try:
                found = measure(kind, model, trial.task.seq_len)
            except (ValueError, RuntimeError, AssertionError):  # a width that its class refuses only when built or run
                continue
            if found is not None and (best[1] is None or abs(found - target) < abs(best[1] - target)):
                best = {"mixer": mixers}, found
                if abs(found - target) <= WITHIN * target:
                    return best
    return best


def _widened(mixer: Any, name: str, value: Any) -> dict[str, Any]:
    """The mixer with the argument, if its class takes it and its row leaves it open."""
    spec = spec_of(mixer.name)
    takes = signature.constructor(spec.path)
    return mixer.model_dump() | ({name: value} if name in takes and name not in spec.sets else {})


def _values(name: str, model: ModelConfig) -> list[Any]:
    """Values worth trying, multiples of 4 first: channels per head for ratios, up to 8 d_model in all; sizes to 512."""
    head = model.d_model // model.n_heads
    ratio = name in ("expand_k", "expand_v", "expand")
    sizes = sorted(range(1, (8 * head if ratio else 512) + 1), key=lambda n: (n % 4 > 0, n))
    return [n * model.n_heads / model.d_model for n in sizes] if ratio else sizes
