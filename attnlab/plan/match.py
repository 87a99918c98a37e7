"""Matched comparisons: widths and lengths that are solved from the sweep, not typed per arm.

`match: params | flops | state` gives every arm after the first an integer width, so that its model agrees with the
first arm's within `WITHIN`. `budget: {tokens: ...}` or `{flops: ...}` gives every arm its `train.max_steps`, and
`{seconds: ...}` its `train.seconds`. Both are solved at loading and stand in the resolved sweep.yaml, which a resumed
sweep keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from attnlab import models
from attnlab.config import values
from attnlab.config.merge import merge
from attnlab.config.resolved import Arm, Plan
from attnlab.config.sweep import Sweep
from attnlab.config.trial import MixerConfig, ModelConfig, Trial
from attnlab.models import signature
from attnlab.models.checks import spec_of
from attnlab.models.cost import measure
from attnlab.plan.checks.whose import told
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


def wanted(sweep: Sweep) -> bool:
    """Whether a sweep asks for widths or lengths to be solved."""
    return sweep.match != "none" or sweep.budget is not None


def solve(plan: Plan, folder: Plan | None = None) -> Plan:
    """Fill in the arms' widths and steps. Raises UserError: what cannot be solved, one line per arm.

    Of `folder`, the sweep as its results folder holds it, what was solved for its arms stays, if all else agrees.
    """
    if problems := list(_searched(plan)):
        raise UserError(problems)
    known = _previously_solved(plan, folder) if folder else {}
    if plan.sweep.match != "none":
        plan = _each(plan, _width, known)
    return _each(plan, _steps, known) if plan.sweep.budget else plan


def _searched(plan: Plan) -> Iterator[str]:
    budget = plan.sweep.budget
    for what in ["match"] * (plan.sweep.match != "none") + ([budget.kind] if budget else []):
        for key in {key: None for arm in plan.arms for key in arm.space}:
            if key.startswith(SEARCHED[what]):
                name = f"match: {plan.sweep.match}" if what == "match" else f"budget: {what}"
                yield f"search.space.{key}: {name} is solved once per arm, so this cannot be searched; give it per arm"


def _previously_solved(plan: Plan, folder: Plan) -> dict[str, dict[str, Any]]:
    """What was solved for a folder's arms, as trees. {} if anything else in them differs from the plan's."""
    known = {}
    if (plan.sweep.match, plan.sweep.budget) != (folder.sweep.match, folder.sweep.budget):
        return {}
    for arm in plan.arms:
        if arm.name in folder.names:
            new, old = arm.trial, folder.arm(arm.name).trial
            solved = _solvable_settings(plan, arm, old)
            changed = {key: getattr(new, key).model_copy(update=values) for key, values in solved.items()}
            if new.model_copy(update=changed).digest != old.digest:
                return {}
            known[arm.name] = {k: node.model_dump(mode="json", include=set(solved[k])) for k, node in changed.items()}
    return known


def _solvable_settings(plan: Plan, arm: Arm, old: Trial) -> dict[str, dict[str, Any]]:
    """What solving may have set in a folder's trial: settings that the arm leaves open."""
    model: dict[str, Any] = {}
    train: dict[str, Any] = {}
    if plan.sweep.match != "none" and old.model.d_ff != arm.trial.model.d_ff:
        if plan.sweep.arms[arm.name].get("model", {}).get("d_ff") is None:
            model["d_ff"] = old.model.d_ff
    elif plan.sweep.match != "none" and len(old.model.mixer) == len(arm.trial.model.mixer):
        widths = [{key: value for key, value in mixer.args.items() if key in WIDTHS} for mixer in old.model.mixer]
        pairs = zip(widths, arm.trial.model.mixer, strict=True)
        mixers = tuple(MixerConfig(**width | mixer.model_dump()) for width, mixer in pairs)
        if mixers != arm.trial.model.mixer:
            model["mixer"] = mixers
    if plan.sweep.budget and plan.sweep.budget.seconds:
        train["seconds"] = old.train.seconds
    elif plan.sweep.budget and arm.declared.get("train", {}).get("max_steps") is None:
        train["max_steps"] = old.train.max_steps
    return {key: values for key, values in (("model", model), ("train", train)) if values}


def _each(plan: Plan, solve: Callable[[Plan, Arm], dict[str, Any]], known: Mapping[str, dict[str, Any]]) -> Plan:
    """The plan with what is known of each arm, else what `solve` gives. Its ValueErrors become a UserError."""
    trees, by_arm = {}, {arm.name: list[str]() for arm in plan.arms}
    for arm in plan.arms:
        try:
            solved = known[arm.name] if arm.name in known else solve(plan, arm)
            trees[arm.name] = merge(plan.sweep.arms[arm.name], solved)
        except ValueError as error:
            of_key = str(error).startswith(("model.", "train."))
            by_arm[arm.name].append(f".{error}" if of_key else f": {error}")
    if problems := list(told(by_arm, plan.sweep.arms)):
        raise UserError([line.removeprefix("trial: ") for line in problems])  # `match` and `budget` stand beside it
    return Plan.of(plan.sweep.model_copy(update={"arms": trees}))


def _steps(plan: Plan, arm: Arm) -> dict[str, Any]:
    """What `budget` comes to for an arm."""
    budget, trial = plan.sweep.budget, arm.trial
    assert budget is not None
    if budget.seconds:
        return {"train": {"seconds": budget.seconds}}
    per_step: float = trial.tokens_per_step
    if budget.flops:
        flops = measure("flops", trial.model, trial.task.seq_len)
        if flops is None:
            raise ValueError("budget: flops: not known for its mixer; use budget: tokens")
        per_step = flops * trial.tokens_per_step
    steps = int((budget.tokens or budget.flops or 0) / per_step)
    if steps > values.STEPS:
        raise ValueError(f"budget: {budget.kind}: {budget.amount:g} are {steps:.3g} steps; give less")
    if steps < trial.train.eval_every:
        every = trial.train.eval_every
        raise ValueError(f"budget: {budget.kind}: {budget.amount:g} are {steps} steps, fewer than eval_every {every}")
    given = arm.declared.get("train", {}).get("max_steps")
    if given not in (None, steps):
        raise ValueError(f"train.max_steps: {given}, but budget: {budget.kind} gives {steps}; leave one of them out")
    return {"train": {"max_steps": steps}}


def _width(plan: Plan, arm: Arm) -> dict[str, Any]:
    """The width with which an arm matches the first one."""
    first, trial, kind = plan.arms[0].trial, arm.trial, plan.sweep.match
    target = measure(kind, first.model, first.task.seq_len)
    present = measure(kind, trial.model, trial.task.seq_len)
    if target is None or present is None:
        whose = "the first arm's mixer" if target is None else "its mixer"
        raise ValueError(f"match: {kind}: {WORDS[kind]} are not known for {whose}")
    if abs(present - target) <= WITHIN * target and trial.model.d_ff == first.model.d_ff:
        return {}
    by_mlp = kind != "state" and trial.model.mlp != "none"
    width, nearest = (_mlp_width if by_mlp else _mixer_width)(kind, trial, target)
    if nearest is None or abs(nearest - target) > WITHIN * target:
        hint = f"; the nearest is {nearest:,.0f}, with {_width_text(width)}" if width else ""
        what = "d_ff" if by_mlp else "width of its mixer"
        raise ValueError(
            f"match: {kind}: no {what} gives the first arm's {target:,.0f} {WORDS[kind]} within {WITHIN:.0%}{hint}"
        )
    given = plan.sweep.arms[arm.name].get("model", {}).get("d_ff")
    if by_mlp and given not in (None, width["d_ff"]):
        raise ValueError(f"model.d_ff: {given}, but match: {kind} gives {width['d_ff']}; leave one of them out")
    return {"model": width}


def _width_text(width: dict[str, Any]) -> str:
    if "mixer" not in width:
        return f"d_ff {width['d_ff']}"
    return "mixer " + ", ".join(str(ModelConfig(mixer=mixer).mixer[0]) for mixer in width["mixer"])


def _mlp_width(kind: str, trial: Trial, target: float) -> tuple[dict[str, Any], float | None]:
    """The roundest `d_ff` that is near enough.

    Parameters and operations are linear in it, so two models tell the rest. Tensor cores want rows of 16 bytes (8 bf16
    numbers), and larger powers of two fill their tiles.
    """

    def value(width: int) -> float:
        model = trial.model.model_copy(update={"d_ff": width})
        return measure(kind, model, trial.task.seq_len) or 0.0

    slope = (value(1024) - value(512)) / 512
    exact = (target - value(512)) / slope + 512
    for multiple in (64, 32, 16, 8, 1):
        width = max(1, round(exact / multiple) * multiple)
        if abs(slope * (width - exact)) <= WITHIN / 2 * target:
            break
    return {"d_ff": width}, value(width)


def _mixer_width(kind: str, trial: Trial, target: float) -> tuple[dict[str, Any], float | None]:
    """One argument of `WIDTHS`, equal in all of the pattern's mixers that take it.

    The first value that is near enough, else the nearest.
    """
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
                measured = measure(kind, model, trial.task.seq_len)
            except (ValueError, RuntimeError, AssertionError):  # a width that its class refuses only when built or run
                continue
            if measured is not None and (best[1] is None or abs(measured - target) < abs(best[1] - target)):
                best = {"mixer": mixers}, measured
                if abs(measured - target) <= WITHIN * target:
                    return best
    return best


def _widened(mixer: MixerConfig, name: str, value: Any) -> dict[str, Any]:
    """The mixer's tree, with the argument if its class takes and its row lacks it."""
    spec = spec_of(mixer.name)
    takes = signature.constructor(spec.path)
    return mixer.model_dump() | ({name: value} if name in takes and name not in spec.sets else {})


def _values(name: str, model: ModelConfig) -> list[Any]:
    """Values worth trying, multiples of 4 first. Sizes go to 512, ratios (by channels per head) to 8 d_model."""
    head = model.d_model // model.n_heads
    ratio = name in ("expand_k", "expand_v", "expand")
    sizes = sorted(range(1, (8 * head if ratio else 512) + 1), key=lambda n: (n % 4 > 0, n))
    return [n * model.n_heads / model.d_model for n in sizes] if ratio else sizes
