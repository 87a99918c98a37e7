"""All that can be wrong with a sweep, found in one pass without torch.

Structure and types are checked by `config` (pydantic), arguments of mixers and tasks by their tables. What takes time
is checked in `attnlab.plan.prepare`, when a sweep is about to run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from attnlab import models, tasks
from attnlab.config import space, sweep_file, values
from attnlab.config.merge import merge
from attnlab.config.resolved import Arm, Plan
from attnlab.config.samplers import SAMPLERS
from attnlab.config.sweep import AshaConfig, ResourcesConfig, SearchConfig, Sweep, trial_part
from attnlab.config.trial import ModelConfig, TaskConfig, Trial, refuse_step
from attnlab.plan import direction
from attnlab.plan.checks import claims, names
from attnlab.plan.checks.messages import lines
from attnlab.plan.checks.whose import ARM, told
from attnlab.plan.guards import factors
from attnlab.util.errors import UserError
from attnlab.util.text import did_you_mean, quoted, shortened

MOST_CHOICES = 256  # as many as corners
LEAST_FACTOR = 1.01
MOST_ARMS = 1000  # each is checked at every corner of its space
ONE_RECIPE = "all trials of a sweep share it, as two are never ranked against each other; set trial.recipe"


def parse(raw: Mapping[str, Any]) -> tuple[Sweep | None, list[str]]:
    """A raw tree's schema, and every mistake before its arms are resolved, one line each."""
    arms = raw.get("arms")
    if isinstance(arms, Mapping) and len(arms) > MOST_ARMS:
        return None, [f"arms: {len(arms):,} of them; at most {MOST_ARMS:,}"]
    if problems := list(values.problems(raw)):
        return None, problems
    sweep = None
    try:
        sweep = Sweep.model_validate(raw)
    except ValidationError as error:
        problems += lines(error, Sweep)
    base, arms = (tree if isinstance(tree := raw.get(key), dict) else {} for key in ("trial", "arms"))
    problems += _trials_problems(base, arms)
    problems += [line for arm, tree in arms.items() if isinstance(tree, dict) for line in _space_problems(arm, tree)]
    problems += names.problems(sweep.name if sweep else "", arms)
    problems += factors.problems(arms)
    recipes = [arm for arm, tree in arms.items() if isinstance(tree, dict) and "recipe" in tree]
    problems += [f"arms.{arm}.recipe: {ONE_RECIPE}" for arm in recipes]
    if sweep and sweep.noise and sweep.noise.arm not in arms:
        problems.append(f"noise.arm: no arm {quoted(sweep.noise.arm)}{did_you_mean(sweep.noise.arm, arms)}")
    if sweep:
        problems += claims.problems(sweep, arms)
    if sweep and sweep.tiny:
        try:
            sweep_file.change(dict(raw), sweep.tiny.items(), "tiny.")
        except UserError as error:
            problems += error.problems
    return sweep, list(dict.fromkeys(problems))


def _trials_problems(base: Mapping[str, Any], arms: Mapping[str, Any]) -> Iterator[str]:
    """Mistakes in the shared trial and in the arms' trials."""
    shared = [f".{line}" for line in trial_problems(base, complete=not arms)]
    yield from (f"trial{line}" for line in shared)
    trees = {arm: tree for arm, tree in arms.items() if isinstance(tree, dict)}
    by_arm = {
        arm: [line for each in trial_problems(merge(base, trial_part(tree))) if (line := f".{each}") not in shared]
        for arm, tree in trees.items()
    }
    yield from told(by_arm, trees)


def _space_problems(arm: str, tree: Mapping[str, Any]) -> Iterator[str]:
    """Mistakes in an arm's `search`. Only its `space` may be its own, so that all arms are tuned the same way."""
    key, search = f"arms.{arm}.search", tree.get("search", {})
    if not isinstance(search, dict):
        yield f"{key}: a mapping with the key `space`, not {quoted(search)}"
        return
    if unknown := [key for key in search if key != "space"]:
        yield f"{key}.{unknown[0]}: all arms share it; an arm has a `search.space` of its own at most"
        return
    forms = search.get("space") or {}
    if not isinstance(forms, Mapping):
        yield f"{key}.space: a mapping of dotted keys to ranges, not {quoted(forms)}"
        return
    for setting, form in forms.items():
        try:
            space.parse(form)
        except ValueError as error:
            yield f"{key}.space.{setting}: {error}"


def trial_problems(tree: Mapping[str, Any], complete: bool = True) -> Iterator[str]:
    """What is wrong with one trial's tree. `complete`: False for the shared trial, which arms may yet change."""
    try:
        Trial.model_validate(tree)
    except ValidationError as error:
        yield from lines(error, Trial)
    model = _sound(ModelConfig, tree.get("model", {}))
    if model and complete:
        for mixer in {repr(mixer): mixer for mixer in model.mixer}.values():
            yield from (f"model.mixer {shortened(mixer.name, 40)}: {p}" for p in models.check_mixer(mixer, model))
    task = _sound(TaskConfig, tree.get("task", {}))
    if task and complete:
        yield from (f"task {shortened(task.name, 40)}: {p}" for p in tasks.check_task(task))


def at_corner(line: str, settings: Mapping[str, Any]) -> str:
    """Put a corner's mistake, a line of an arm's trial, under the searched key it names, if it names one."""
    if not settings:
        return line
    said = line.lstrip(".: ")
    if any(said.startswith(f"{key}:") for key in settings):
        return f"search.space.{said}"
    return f"search.space at {quoted(dict(settings), 120)}, {ARM}: {said}"


def _sound(kind: type[BaseModel], tree: Any) -> Any:
    """As much of a node as is sound, so that one mistake hides no others. None if nothing is."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        wrong = {e["loc"][0] for e in error.errors() if e["loc"]}
        sound = {key: value for key, value in tree.items() if key not in wrong} if isinstance(tree, Mapping) else {}
        return kind.model_validate(sound) if wrong and len(sound) < len(tree) else None


def plan_problems(plan: Plan) -> Iterator[str]:
    """Mistakes that show in a well-formed sweep only: corners, rungs, batches and workers."""
    sweep = plan.sweep
    yield from told({arm.name: _arm_problems(plan, arm) for arm in plan.arms}, sweep.arms)
    if negative := [seed for seed in plan.seeds if seed < 0]:
        yield f"confirm.seeds: at least 0, not {negative[0]}"
    if len(set(plan.seeds)) < len(plan.seeds):
        yield f"confirm.seeds: {quoted(list(plan.seeds))} names a seed twice, and its run would be the same"
    yield from claims.metric_problems(plan)
    if line := direction.problem(plan):
        yield line
    if sweep.search:
        yield from _budget_problems(plan, sweep.search)
        if sweep.rank:
            yield "rank: the search has a metric; leave one of the two out"


def _arm_problems(plan: Plan, arm: Arm) -> Iterator[str]:
    """One arm's lines for `told`."""
    sweep, trial = plan.sweep, arm.trial
    yield from _run_problems(trial, sweep.resources)
    if trial.optim.min_lr_ratio == 1 and trial.optim.schedule != "constant" and "optim.min_lr_ratio" not in arm.space:
        yield f".optim.min_lr_ratio: at 1 schedule {trial.optim.schedule} never decays; lower it, or use constant"
    known = tasks.metrics_of(trial.task) + (() if sweep.search else tuple(direction.PACE))
    if plan.metric not in known:
        section, hint = "search" if sweep.search else "rank", did_you_mean(plan.metric, known)
        yield f"{section}.metric: {ARM}, task {trial.task.name}, has no metric {quoted(plan.metric)}{hint}"
    if sweep.search:
        yield from _search_problems(sweep.search, arm, sweep.resources)


def _budget_problems(plan: Plan, search: SearchConfig) -> Iterator[str]:
    """Arms whose spaces have so few points that they would get fewer trials than others."""
    counts = {name: plan.quota(name) for name in plan.names}
    few, many = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[few] < counts[many]:
        exhaustive = SAMPLERS[search.sampler].exhaustive
        remedy = "give all arms as many points" if exhaustive else f"set search.trials to {counts[few]}"
        yield (
            f"search.space: arm {few} has {counts[few]} settings to try, where arm {many} gets {counts[many]} trials; "
            f"arms get equal numbers: {remedy}"
        )


def device_problems(trial: Trial, device: str, workers: int = 1) -> list[str]:
    """What a trial asks of `device`, `cuda` or `cpu` and cannot have, one line each for `told`.

    That is a captured step (`refuse_step`), and on CUDA a precision that its mixers' kernels refuse.
    """
    problems = []
    try:
        refuse_step(trial.train.step, device, workers)
    except ValueError as error:
        problems.append(f".{error}")
    if device == "cuda":
        refused = models.precision_problems(trial.model, trial.train.precision)
        problems += [f".model.mixer {reason}" for reason in refused]
    return problems


def _run_problems(trial: Trial, resources: ResourcesConfig) -> Iterator[str]:
    yield from _batch_problems(trial, resources.workers)
    if trial.train.seconds and resources.workers > 1:
        yield ".train.seconds: the workers of a trial have no common clock; use resources.workers 1"
    if resources.gpus_per_worker != "auto":  # auto: known once the cluster is
        yield from device_problems(trial, "cuda" if resources.gpus_per_worker else "cpu", resources.workers)


def _batch_problems(trial: Trial, workers: int) -> Iterator[str]:
    size, micro_batches = trial.train.batch_size, workers * trial.train.grad_accum
    if size % micro_batches:
        yield (
            f".train.batch_size: {size} sequences cannot be split evenly over {workers} workers x "
            f"{trial.train.grad_accum} micro-batches (grad_accum); use a multiple of {micro_batches}"
        )
    if trial.train.eval_every > trial.train.max_steps:
        yield f".train.eval_every: {trial.train.eval_every} is beyond max_steps {trial.train.max_steps}"
    if trial.optim.warmup >= trial.train.max_steps or 1 > trial.optim.warmup > 0.99:
        yield f".optim.warmup: {trial.optim.warmup:g} is as long as the run of {trial.train.max_steps} steps"
    if trial.train.save_every_steps % trial.train.eval_every:
        yield f".train.save_every: {trial.train.save_every} is no multiple of eval_every"


def _branch_problems(asha: AshaConfig, trial: Trial) -> Iterator[str]:
    """Why the rungs of `asha.decay_rungs` cannot stand where they would."""
    optim, last = trial.optim, trial.train.max_steps
    warmup = optim.warmup if optim.warmup >= 1 else round(optim.warmup * last)
    if optim.schedule != "wsd":
        yield (
            f"search.asha.decay_rungs: {ARM} has optim.schedule {optim.schedule}; only wsd has a stable trunk from "
            f"which a decay can branch off"
        )
    elif asha.grace_steps < warmup:
        yield f"search.asha.grace_steps: {asha.grace_steps} lies in {ARM}'s warm-up of {warmup:g} steps"
    elif asha.grace_steps < last and not asha.branches(trial):
        yield (
            f"search.asha.grace_steps: {asha.grace_steps} lies in {ARM}'s final decay, which begins at step "
            f"{optim.decay_start(last)}: no rung is left (lower it, or optim.decay)"
        )


def _search_problems(search: SearchConfig, arm: Arm, resources: ResourcesConfig) -> Iterator[str]:
    asha, every, last = search.asha, arm.trial.train.eval_every, arm.trial.train.max_steps
    if asha and asha.reduction_factor < LEAST_FACTOR:
        factor = f"search.asha.reduction_factor: {asha.reduction_factor:g}"
        yield f"{factor} prunes next to nothing at each of thousands of rungs; at least {LEAST_FACTOR}"
        return
    if asha and asha.grace_steps % every:
        yield f"search.asha.grace_steps: {asha.grace_steps} is no multiple of {ARM}'s eval_every {every}"
    if asha and asha.grace_steps >= last:
        grace = f"search.asha.grace_steps: {asha.grace_steps}"
        yield f"{grace} is not below {ARM}'s max_steps {last}: nothing to prune"
    if asha and asha.decay_rungs:
        yield from _branch_problems(asha, arm.trial)
    sampler = SAMPLERS[search.sampler]
    for key, dimension in arm.space.items():
        if dimension.kind != "choice" and not sampler.ranges:
            yield f"search.space.{key}: sampler {search.sampler} takes `choice` only; list the values"
            return
        if dimension.kind == "choice" and not sampler.choices:
            yield f"search.space.{key}: sampler {search.sampler} takes ranges only; use tpe where there are choices"
            return
    for key in arm.space:
        if key.startswith("train.seed"):
            yield f"search.space.{key}: a seed is not a setting to be tuned; use confirm.seeds"
        if key == "recipe":
            yield f"search.space.recipe: {ONE_RECIPE}"
    known = set(_run_problems(arm.trial, resources))
    for settings in space.corners(arm.space):
        problems = [at_corner(line, settings) for line in trial_problems(arm.tree(settings))]
        if not problems:
            trial = arm.with_settings(settings)
            problems = [at_corner(line, settings) for line in _run_problems(trial, resources) if line not in known]
            problems += _branch_problems(asha, trial) if asha and asha.decay_rungs else []
        if problems:
            yield from problems
            return  # one corner shows the mistake; the others would repeat it
    for key, dimension in arm.space.items():
        yield from _choice_problems(arm, key, dimension.choices)


def _choice_problems(arm: Arm, key: str, choices: Sequence[Any]) -> Iterator[str]:
    """Choices that are no settings, where there are too many to see all at corners, or that make the same trial."""
    if len(choices) > MOST_CHOICES:
        yield f"search.space.{key}: {len(choices):,} choices; at most {MOST_CHOICES:,}, or a range"
        return
    trials: list[tuple[Any, Trial]] = []
    for choice in choices:
        if problems := list(trial_problems(arm.tree({key: choice}))):
            yield at_corner(problems[0], {key: choice})
            return
        trial = arm.with_settings({key: choice})
        if same := [other for other, known in trials if known == trial]:
            yield f"search.space.{key}: {quoted(same[0])} and {quoted(choice)} are the same setting; keep one"
            return
        trials.append((choice, trial))
