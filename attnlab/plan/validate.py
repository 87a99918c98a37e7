"""Everything that can be wrong with a sweep, found in one pass, before torch or ray is imported.

Structure and types come from `config` (pydantic); mixers' and tasks' own arguments from their tables. What takes time
is asked only when a sweep is about to run: `prepared` reads the data, `try_own_mixers` runs the mixers users wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from attnlab import models, tasks
from attnlab.config import space
from attnlab.config.merge import merge, nest
from attnlab.config.sweep import AshaConfig, ResourcesConfig, SearchConfig, Sweep, trial_part
from attnlab.config.trial import ModelConfig, TaskConfig, Trial
from attnlab.plan import match
from attnlab.plan import scale as scales
from attnlab.plan.guards import factors
from attnlab.util.text import did_you_mean

if TYPE_CHECKING:
    pass
from attnlab.plan.messages import lines
from attnlab.util.errors import UserError


def checked(raw: Mapping[str, Any], *, scale: str | None = None, solve: bool = True) -> Sweep:
    """A raw tree -> Sweep.

    Args:
        scale: `tiny`: checked as it is, then made small (`scale.tiny`) and checked again.
        solve: fill in what `match:` and `budget:` come to, which takes torch.

    Raises:
        UserError: every mistake found, each on one line that names its key.
    """
    if scale:
        if scale not in scales.SCALES:
            raise UserError([f"scale {scale}: there is none of this name{did_you_mean(scale, scales.SCALES)}"])
        return checked(scales.tiny(checked(raw, solve=False)), solve=solve)
    problems, sweep = [], None
    try:
        sweep = Sweep.model_validate(raw)
    except ValidationError as error:
        problems += lines(error, Sweep)
    base, arms = (tree if isinstance(tree := raw.get(key), dict) else {} for key in ("trial", "arms"))
    shared = list(trial_problems(base, "trial", complete=not arms))
    problems += shared
    trees = {arm: merge(base, trial_part(tree)) for arm, tree in arms.items() if isinstance(tree, dict)}
    found = {arm: [line.removeprefix(f"arms.{arm}.") for line in trial_problems(tree, f"arms.{arm}")]
             for arm, tree in trees.items()}  # fmt: skip
    told = {line.removeprefix("trial.") for line in shared}
    for arm, own in found.items():
        for line in own:
            everywhere = len(found) > 1 and all(line in other for other in found.values())  # the shared trial's mistake
            if line not in told:
                problems.append(f"trial.{line}" if everywhere else f"arms.{arm}.{line}")
    problems += [line for arm, tree in arms.items() if isinstance(tree, dict) for line in _space_problems(arm, tree)]
    problems += factors.problems(arms)
    if sweep and sweep.noise and sweep.noise.arm not in arms:
        problems.append(f"noise.arm: no arm {sweep.noise.arm!r}{did_you_mean(sweep.noise.arm, arms)}")
    if sweep and not problems:
        sweep = match.solved(sweep) if solve else sweep
        if solve or sweep.budget is None:  # until a budget is solved, its runs have no length
            problems += list(sweep_problems(sweep))
    if problems:
        raise UserError(list(dict.fromkeys(problems)))
    assert sweep is not None
    return sweep


def _space_problems(arm: str, tree: Mapping[str, Any]) -> Iterator[str]:
    """An arm's own `search.space`; nothing else of the search may be an arm's, or the arms would not be tuned alike."""
    where, own = f"arms.{arm}.search", tree.get("search", {})
    if not isinstance(own, dict) or (unknown := [key for key in own if key != "space"]):
        yield (
            f"{where}.{unknown[0]}: all arms share it; an arm has a `search.space` of its own at most"
            if isinstance(own, dict)
            else f"{where}: a mapping with the key `space`, not {own!r}"
        )
        return
    for key, form in (own.get("space") or {}).items():
        try:
            space.parse(form)
        except ValueError as error:
            yield f"{where}.space.{key}: {error}"


def trial_problems(tree: Mapping[str, Any], where: str, complete: bool = True) -> Iterator[str]:
    """What is wrong with one trial's tree; `complete` False for the shared part, which an arm may yet change."""
    try:
        Trial.model_validate(tree)
    except ValidationError as error:
        yield from lines(error, Trial, where)
    model = _part(ModelConfig, tree.get("model", {}))
    if model and complete:
        for mixer in dict.fromkeys(repr(m) for m in model.mixer):
            found = next(m for m in model.mixer if repr(m) == mixer)
            yield from (f"{where}.model.mixer {found.name}: {p}" for p in models.check_mixer(found, model))
    task = _part(TaskConfig, tree.get("task", {}))
    if task and complete:
        yield from (f"{where}.task {task.name}: {p}" for p in tasks.check_task(task))


def _at_corner(line: str, arm: str, settings: Mapping[str, Any]) -> str:
    """A corner's mistake, under the searched key it names if it names one."""
    line = line.removeprefix(".")
    if any(line.startswith(f"{key}:") for key in settings):
        return f"search.space.{line}"
    return f"search.space at {settings}, arm {arm}: {line}"


def _part(kind: type[BaseModel], tree: Any) -> Any:
    """As much of a node as is sound, so that what is wrong elsewhere in it hides nothing; None if nothing is."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        wrong = {e["loc"][0] for e in error.errors() if e["loc"]}
        sound = {key: value for key, value in tree.items() if key not in wrong} if isinstance(tree, Mapping) else {}
        return kind.model_validate(sound) if wrong and len(sound) < len(tree) else None


def sweep_problems(sweep: Sweep) -> Iterator[str]:
    """Mistakes that take a well-formed sweep to be seen: the space's corners, rungs, batches and workers."""
    for arm in sweep.arms:
        trial = sweep.trial_of(arm)
        yield from _run_problems(trial, arm, sweep.resources)
        schedule, never = trial.optim.schedule, trial.optim.min_lr_ratio == 1 and trial.optim.schedule != "constant"
        if never and "optim.min_lr_ratio" not in sweep.dimensions_of(arm):
            yield f"arms.{arm}.optim.min_lr_ratio: at 1 schedule {schedule} never decays; lower it, or use constant"
        known = tasks.metrics_of(trial.task) + (() if sweep.search else ("tokens_per_s",))
        if sweep.metric not in known:
            hint = did_you_mean(sweep.metric, known)
            where = "search" if sweep.search else "rank"
            yield f"{where}.metric: arm {arm}, task {trial.task.name}, has no metric {sweep.metric!r}{hint}"
        if sweep.search:
            yield from _search_problems(sweep, sweep.search, arm, trial)
    if sweep.search:
        yield from _budget_problems(sweep, sweep.search)
        if sweep.rank:
            yield "rank: the search has a metric and a mode; leave one of the two out"


def _budget_problems(sweep: Sweep, search: SearchConfig) -> Iterator[str]:
    """Arms whose spaces have so few points that they would get fewer trials than others."""
    counts = {arm: search.trials_of(sweep.dimensions_of(arm)) for arm in sweep.arms}
    few, many = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[few] < counts[many]:
        grid = "give all arms as many points" if search.sampler == "grid" else f"set search.trials to {counts[few]}"
        yield (
            f"search.space: arm {few} has {counts[few]} settings to try, where arm {many} gets {counts[many]} trials; "
            f"arms get equal numbers: {grid}"
        )


def device_problems(trial: Trial, arm: str, device: str, workers: int = 1) -> list[str]:
    """What the trial asks for and cannot have on its device, one line each: a captured step without CUDA or of several
    workers; on CUDA, a precision that its mixers' kernels refuse.

    Args:
        device: its type, `cuda` or `cpu`.
        workers: that the trial is spread over.
    """
    problems = []
    if trial.train.step == "captured":  # the others can be had everywhere
        import torch

        from attnlab.training.step import choose

        try:
            choose(trial.train.step, torch.device(device), workers)
        except ValueError as error:
            problems.append(f"arms.{arm}.{error}")
    if device == "cuda":
        refused = models.precision_problems(trial.model, trial.train.precision)
        problems += [f"arms.{arm}.model.mixer {problem}" for problem in refused]
    return problems


def _run_problems(trial: Trial, arm: str, resources: ResourcesConfig) -> Iterator[str]:
    yield from _batch_problems(trial, arm, resources.workers)
    if trial.train.seconds and resources.workers > 1:
        yield f"arms.{arm}.train.seconds: the workers of a trial have no common clock; use resources.workers 1"
    if resources.gpus_per_worker != "auto":  # auto: known once the cluster is
        yield from device_problems(trial, arm, "cuda" if resources.gpus_per_worker else "cpu", resources.workers)


def _batch_problems(trial: Trial, arm: str, workers: int) -> Iterator[str]:
    size, parts = trial.train.batch_size, workers * trial.train.grad_accum
    if size % parts:
        yield (
            f"arms.{arm}.train.batch_size: {size} sequences cannot be split evenly over {workers} workers x "
            f"{trial.train.grad_accum} micro-batches (grad_accum); use a multiple of {parts}"
        )
    if trial.train.eval_every > trial.train.max_steps:
        yield f"arms.{arm}.train.eval_every: {trial.train.eval_every} is beyond max_steps {trial.train.max_steps}"
    if trial.optim.warmup >= trial.train.max_steps or 1 > trial.optim.warmup > 0.99:
        yield f"arms.{arm}.optim.warmup: {trial.optim.warmup:g} is as long as the run of {trial.train.max_steps} steps"
    if trial.train.save_every_steps % trial.train.eval_every:
        yield f"arms.{arm}.train.save_every: {trial.train.save_every} is no multiple of eval_every"


def _branch_problems(asha: AshaConfig, trial: Trial, arm: str) -> Iterator[str]:
    """Why the rungs of `asha.decay_rungs` cannot stand where they would."""
    optim, last = trial.optim, trial.train.max_steps
    warmup = optim.warmup if optim.warmup >= 1 else round(optim.warmup * last)
    if optim.schedule != "wsd":
        yield (
            f"search.asha.decay_rungs: arm {arm} has optim.schedule {optim.schedule}; only wsd has a stable trunk from "
            f"which a decay can branch off"
        )
    elif asha.grace_steps < warmup:
        yield f"search.asha.grace_steps: {asha.grace_steps} lies in arm {arm}'s warm-up of {warmup:g} steps"
    elif asha.grace_steps < last and not asha.branches(trial):
        yield (
            f"search.asha.grace_steps: {asha.grace_steps} lies in arm {arm}'s final decay, which begins at step "
            f"{optim.decay_start(last)}: no rung is left (lower it, or optim.decay)"
        )


def _search_problems(sweep: Sweep, search: SearchConfig, arm: str, trial: Trial) -> Iterator[str]:
    asha, every = search.asha, trial.train.eval_every
    if asha and asha.grace_steps % every:
        yield f"search.asha.grace_steps: {asha.grace_steps} is no multiple of arm {arm}'s eval_every {every}"
    if asha and asha.grace_steps >= trial.train.max_steps:
        last = trial.train.max_steps
        yield f"search.asha.grace_steps: {asha.grace_steps} is not below arm {arm}'s max_steps {last}: nothing to prune"
    if asha and asha.decay_rungs:
        yield from _branch_problems(asha, trial, arm)
    dimensions = sweep.dimensions_of(arm)
    if search.sampler == "grid" and (loose := [k for k, d in dimensions.items() if d.kind != "choice"]):
        yield f"search.space.{loose[0]}: sampler grid takes `choice` only; list the values"
        return
    if search.sampler == "cmaes" and (unordered := [k for k, d in dimensions.items() if d.kind == "choice"]):
        yield f"search.space.{unordered[0]}: sampler cmaes takes ranges only; use tpe where there are choices"
        return
    for key in dimensions:
        if key.startswith("train.seed"):
            yield f"search.space.{key}: a seed is not a setting to be tuned; use confirm.seeds"
    for settings in space.corners(dimensions):
        tree = merge(sweep.trial, trial_part(sweep.arms[arm]))
        for key, value in settings.items():
            tree = merge(tree, nest(key, value))
        found = [_at_corner(line, arm, settings) for line in trial_problems(tree, "")]
        if not found:
            at = Trial.model_validate(tree)
            found = list(_run_problems(at, arm, sweep.resources))
            found += _branch_problems(asha, at, arm) if asha and asha.decay_rungs else []
        if found:
            yield from found
            return  # one corner shows the mistake; the others would repeat it
