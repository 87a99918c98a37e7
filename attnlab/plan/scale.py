"""`--scale tiny`: a whole sweep through the same code, in minutes on two CPU cores.

What becomes of a sweep (its name ends in `-tiny`, so its results never mix with real ones):

    model.d_model      the largest becomes WIDTH, the others in proportion; d_ff in the same proportion
    model.n_layers     the largest becomes LAYERS; no fewer than the mixers of a pattern
    model.n_heads      the largest becomes HEADS; multiples of the key/value heads that a mixer is given
    a mixer's window   in proportion to the length
    task.seq_len       of text: the shortest becomes LENGTH, the others in proportion; eval_tokens: the longest row's
                       length, at least EVAL_TOKENS. Generated tasks keep their length, which their other settings hang
                       on; n_eval and n_train become at most EVAL_ROWS and TRAIN_ROWS
    train.batch_size   divided by one number for all arms, so that tokens per step stay equal where they were
    max_steps, eval_every, save_every, asha.grace_steps, warmup (in steps)
                       in proportion, the longest run becomes STEPS steps
    budget             of tokens or FLOPs: what STEPS steps of the first arm take; of seconds: at most SECONDS
    search.trials, extend, confirm.seeds, top
                       at most TRIALS, 1, SEEDS, 2; of a grid, the first TRIALS values of each setting
    resources          at most two workers, of one CPU each

Values that differ stay different, and in their order: where two would become one, the larger is raised by the least
step that its kind has. So arms differ in the same settings as before. Everything else stays: mixers and their
arguments, data, tokenizer, optimizer, learning rates, schedule, precision, matching.

`tiny: {trial.train.max_steps: 50, ...}` in a sweep file gives dotted keys a tiny value of the file's own instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from attnlab import tasks
from attnlab.config.resolved import Arm, Plan
from attnlab.config.samplers import SAMPLERS
from attnlab.config.sweep import BudgetConfig, Sweep
from attnlab.config.sweep_file import change
from attnlab.config.trial import Trial
from attnlab.models.cost import measure

SCALES = ("tiny",)
WIDTH, LAYERS, HEADS, LENGTH, STEPS = 64, 2, 2, 64, 12
EVAL_TOKENS, EVAL_ROWS, TRAIN_ROWS = 512, 64, 512
TRIALS, SEEDS, SECONDS = 2, 2, 5.0
BATCH = 4  # the largest batch keeps at least so many sequences
WINDOWS = ("window", "window_size")
KV_HEADS = ("num_kv_heads", "num_key_value_heads")


def tiny(plan: Plan) -> dict[str, Any]:
    """The tree of a checked plan's tiny version, not checked yet. Raises UserError: wrong keys in its `tiny:`."""
    sweep, maps = plan.sweep, _maps(plan)
    tree = sweep.model_dump(mode="json", exclude_none=True, exclude={"tiny"})
    shared = {**tree["trial"], "task": {"name": "text", **tree["trial"].get("task", {})}}
    defaults = Trial().model_dump()
    for key, values in maps.items():  # what the file leaves to the defaults becomes small too
        section, name = key.split(".")
        if not (key == "train.max_steps" and _paid(sweep.budget)) and (value := defaults[section].get(name)) in values:
            shared = {**shared, section: {name: value, **shared.get(section, {})}}
    tree["trial"] = _task_sized(_mapped(shared, maps), maps)
    tree["arms"] = {arm: _task_sized(_mapped(given, maps), maps) for arm, given in tree["arms"].items()}
    tree |= {
        "name": f"{sweep.name}-tiny",
        "description": f"At a tiny scale, to try the machinery: {sweep.description}",
        "resources": tree["resources"] | {"workers": min(2, sweep.resources.workers), "cpus_per_worker": 1},
    }
    if sweep.budget:
        tree["budget"] = {sweep.budget.kind: _budget(sweep.budget, sweep, tree)}
    if sweep.search:
        grid = SAMPLERS[sweep.search.sampler].exhaustive
        tree["search"] = _search(plan, tree["search"], maps)
        for given in tree["arms"].values():
            if space := (given.get("search") or {}).get("space"):
                given["search"] = {"space": _space(space, maps, grid)}
    if sweep.confirm:
        tree["confirm"] = {"seeds": list(sweep.confirm.seeds[:SEEDS]), "top": min(2, sweep.confirm.top)}
    change(tree, (sweep.tiny or {}).items(), "tiny.")
    return tree


def _maps(plan: Plan) -> dict[str, dict[Any, Any]]:
    """Dotted key -> {value: its tiny one}, over all values in arms and search spaces."""
    trials = [arm.trial for arm in plan.arms]

    def values(key: str) -> list[int]:
        section, name = key.split(".")
        distinct = {getattr(getattr(trial, section), name) for trial in trials}
        for arm in plan.arms:
            if dimension := arm.space.get(key):
                distinct |= set(dimension.choices) or {dimension.low, dimension.high}
        return sorted(distinct - {None})

    shared = [m.args[key] for trial in trials for m in trial.model.mixer for key in KV_HEADS if m.args.get(key)]
    heads = proportional(values("model.n_heads"), HEADS / max(values("model.n_heads")), math.lcm(*shared))
    widths, layers = values("model.d_model"), values("model.n_layers")
    least = max(len(trial.model.mixer) for trial in trials)
    shrink = min(1.0, WIDTH / max(widths))
    maps = {
        "model.n_heads": heads,
        "model.d_model": proportional(widths, shrink, 8 * math.lcm(*heads.values())),
        "model.d_ff": proportional(values("model.d_ff"), shrink, 8),
        "model.n_layers": proportional(layers, LAYERS / max(layers), least=least),
        "train.batch_size": _batches(values("train.batch_size"), trials, min(2, plan.sweep.resources.workers)),
    }
    lengths = sorted({trial.task.seq_len for trial in trials if trial.task.name == "text"})
    if lengths:
        maps["task.seq_len"] = proportional(lengths, LENGTH / lengths[0])
    return maps | _steps(plan, values)


def proportional(values: Sequence[Any], factor: float, unit: int = 1, least: int = 0) -> dict[Any, int]:
    """Ascending values times `factor` (never enlarged) in multiples of `unit`, distinct and in their order.

    >>> proportional([4, 6, 12], 2 / 12)
    {4: 1, 6: 2, 12: 3}
    """
    out: dict[Any, int] = {}
    below = 0
    for value in values:
        near = max(unit, least, unit * round(value * min(1.0, factor) / unit))
        out[value] = below = max(near, below + unit)
    return out


def _batches(values: Sequence[int], trials: Iterable[Trial], workers: int) -> dict[int, int]:
    """All divided by one number: the largest that leaves the biggest BATCH and all divisible."""
    parts = workers * math.lcm(*(trial.train.grad_accum for trial in trials))
    common = math.gcd(*values)
    fits = (d for d in range(common, 0, -1) if common % d == 0 and values[-1] // d >= BATCH)
    by = next((d for d in fits if all(v // d % parts == 0 for v in values)), 1)
    return {value: value // by for value in values}


def _factor(plan: Plan) -> float:
    """Tiny optimizer steps per real one: the longest run becomes STEPS."""
    trials, budget = [arm.trial for arm in plan.arms], plan.sweep.budget
    if budget and _paid(budget):
        longest = max(budget.amount / trial.tokens_per_step / _flops(budget, trial) for trial in trials)
    else:
        longest = max(trial.train.max_steps for trial in trials)
    return min(1.0, STEPS / longest)


def _steps(plan: Plan, values: Callable[[str], list[Any]]) -> dict[str, dict[Any, int]]:
    """The maps of what is counted in optimizer steps."""
    factor = _factor(plan)
    every = proportional(values("train.eval_every"), factor)
    common = math.lcm(*every.values())
    return {
        "train.max_steps": proportional(values("train.max_steps"), factor),
        "train.eval_every": every,
        "train.save_every": {v: common * max(1, round(v * factor / common)) for v in values("train.save_every")},
        "optim.warmup": proportional([v for v in values("optim.warmup") if v >= 1], factor),
    }


def _paid(budget: BudgetConfig | None) -> bool:
    """Whether a budget says how many steps there are."""
    return budget is not None and budget.kind != "seconds"


def _flops(budget: BudgetConfig, trial: Trial) -> float:
    """Operations per token, for a budget of FLOPs. 1 for one of tokens."""
    if budget.kind == "tokens":
        return 1.0
    return measure("flops", trial.model, trial.task.seq_len) or 1.0  # not known: `match` says so


def _budget(budget: BudgetConfig, sweep: Sweep, tree: Mapping[str, Any]) -> float:
    """What STEPS steps of the tiny first arm take."""
    if budget.kind == "seconds":
        return min(budget.amount, SECONDS)
    small = sweep.model_copy(update={"trial": tree["trial"], "arms": tree["arms"]})
    first = Arm.of(small, next(iter(small.arms))).trial
    return STEPS * first.tokens_per_step * _flops(budget, first)


def _mapped(tree: Mapping[str, Any], maps: Mapping[str, Mapping[Any, Any]]) -> dict[str, Any]:
    """A trial's or arm's tree with sizes replaced, and windows in proportion to the length."""
    out = dict(tree)
    for key, values in maps.items():
        section, name = key.split(".")
        node = out.get(section)
        if isinstance(node, Mapping) and node.get(name) in values:
            out[section] = {**node, name: values[node[name]]}
    if isinstance(model := out.get("model"), Mapping) and "mixer" in model:
        shrink = min((small / full for full, small in maps.get("task.seq_len", {}).items()), default=1.0)
        out["model"] = {**model, "mixer": _windowed(model["mixer"], shrink)}
    return out


def _windowed(form: Any, shrink: float) -> Any:
    """A mixer, or a pattern of them, with its windows times `shrink`."""
    if isinstance(form, (list, tuple)):
        return [_windowed(mixer, shrink) for mixer in form]
    if not isinstance(form, Mapping):
        return form
    return {key: max(1, round(v * shrink)) if key in WINDOWS and v else v for key, v in form.items()}


def _task_sized(tree: Mapping[str, Any], maps: Mapping[str, Mapping[Any, int]]) -> dict[str, Any]:
    """A tree that names its task, with the task's validation and training set small."""
    task = tree.get("task")
    if not isinstance(task, Mapping) or "name" not in task:
        return dict(tree)
    if task["name"] == "text":
        small: dict[str, Any] = {"eval_tokens": max(EVAL_TOKENS, *maps.get("task.seq_len", {0: 0}).values())}
    else:
        small = {"n_eval": EVAL_ROWS} if "n_eval" in tasks.settings_of(task["name"]) else {}
        small |= {"n_train": min(TRAIN_ROWS, task["n_train"])} if task.get("n_train") else {}
    return {**tree, "task": {**task, **small}}


def _search(plan: Plan, search: Mapping[str, Any], maps: Mapping[str, Mapping[Any, int]]) -> dict[str, Any]:
    out = dict(search) | {
        "space": _space(search["space"], maps, SAMPLERS[search["sampler"]].exhaustive),
        "trials": min(TRIALS, search["trials"]),
        "extend": min(1, search["extend"]),
    }
    if asha := search.get("asha"):
        common = math.lcm(*maps["train.eval_every"].values())
        grace = common * max(1, round(asha["grace_steps"] * _factor(plan) / common))
        out["asha"] = {**asha, "grace_steps": grace}
    return out


def _space(space: Mapping[str, Any], maps: Mapping[str, Mapping[Any, int]], grid: bool) -> dict[str, Any]:
    """Make ranges and choices of sizes small as the sizes themselves. Of a grid's values, the first TRIALS stay."""
    out = {}
    for key, form in space.items():
        ((kind, values),) = form.items()
        values = [maps.get(key, {}).get(value, value) for value in values]
        out[key] = {kind: values[:TRIALS] if grid else values}
    return out
