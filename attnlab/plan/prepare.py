"""What takes time before a sweep runs: users' mixers are tried and data are read."""

from __future__ import annotations

from attnlab import models, tasks
from attnlab.config import space
from attnlab.config.resolved import Plan
from attnlab.plan.checks.validate import at_corner, device_problems
from attnlab.plan.checks.whose import of_arm, told
from attnlab.tasks import Task
from attnlab.util.errors import DiskFull, UserError
from attnlab.util.text import one_line, say_once


def try_custom_mixers(plan: Plan) -> None:
    """Run users' own mixers (`module:Class`) on a small input, at every corner of the space.

    torch is imported only if there are any. Raises UserError: what is wrong with them, one line each.
    """
    problems, seen = [], set()
    for arm in plan.arms:
        for settings in space.corners({key: d for key, d in arm.space.items() if key.startswith("model")}):
            model = arm.with_settings(settings).model
            for layer in range(model.n_layers):
                mixer = model.mixer_at(layer)
                key = f"{mixer!r} {model.d_model} {model.n_heads} {model.n_layers}"
                if ":" not in mixer.name or key in seen:
                    continue
                seen.add(key)
                if problem := models.try_mixer(mixer, model, layer):
                    line = f".model.mixer {mixer.name}: {problem}"
                    problems.append(of_arm(at_corner(line, settings), arm.name))
    if problems:
        raise UserError(problems)


def prepare_tasks(plan: Plan) -> dict[str, Task]:
    """Try users' own mixers, build each arm's task, and read, tokenise and cache its data.

    Arms with equal tasks share one. What a user should know of the data is printed, once per process. Raises UserError:
    mixers that fail, data that are missing or do not give the sweep's metric, one line each; and DiskFull.
    """
    try_custom_mixers(plan)
    ready, by_arm = dict[str, Task](), {arm.name: list[str]() for arm in plan.arms}
    for arm in plan.arms:
        trial, key = arm.trial, arm.trial.task.model_dump_json()
        try:
            if key not in ready:
                ready[key] = tasks.build_task(trial.task, batch_size=trial.train.batch_size, seed=trial.train.seed)
                ready[key].prepare()
            if why := ready[key].missing.get(plan.metric):
                by_arm[arm.name].append(f".task: no {plan.metric}, the sweep's metric: {why}; use val_loss")
        except DiskFull:  # no mistake of the plan's
            raise
        except (ValueError, OSError) as error:
            by_arm[arm.name].append(f".task: {one_line(error)}")
    if problems := list(told(by_arm, plan.sweep.arms)):
        raise UserError(problems)
    for task in ready.values():
        for line in task.notes():
            say_once(line)
    return {arm.name: ready[arm.trial.task.model_dump_json()] for arm in plan.arms}


def check_device(plan: Plan, device: str) -> None:
    """Raise UserError, one line each, for what `device`, `cuda` or `cpu`, cannot do."""
    workers = plan.sweep.resources.workers
    by_arm = {arm.name: device_problems(arm.trial, device, workers) for arm in plan.arms}
    if problems := list(told(by_arm, plan.sweep.arms)):
        raise UserError(problems)
