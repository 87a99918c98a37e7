"""What takes time before a sweep runs: users' mixers are tried and data are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnlab import models, tasks
from attnlab.config import space
from attnlab.config.sweep import Sweep

if TYPE_CHECKING:
    from attnlab.tasks import Task
from attnlab.plan.validate import _at_corner, device_problems
from attnlab.util.errors import UserError
from attnlab.util.text import one_line


def try_own_mixers(sweep: Sweep) -> None:
    """Run the mixers that users wrote (`module:Class`) on a small input, at every corner of the space that reaches the
    model; torch is imported only if there are any.

    Raises:
        UserError: what is wrong with them, one line each.
    """
    problems, seen = [], set()
    for arm in sweep.arms:
        reaching = {k: d for k, d in sweep.dimensions_of(arm).items() if k.startswith("model")}
        for settings in space.corners(reaching):
            model = sweep.trial_of(arm, settings).model
            for layer in range(model.n_layers):
                mixer = model.mixer_at(layer)
                key = f"{mixer!r} {model.d_model} {model.n_heads} {model.n_layers}"
                if ":" not in mixer.name or key in seen:
                    continue
                seen.add(key)
                if problem := models.try_mixer(mixer, model, layer):
                    line = f"model.mixer {mixer.name}: {problem}"
                    problems.append(_at_corner(line, arm, settings) if settings else f"arms.{arm}.{line}")
    if problems:
        raise UserError(problems)


def prepared(sweep: Sweep) -> dict[str, Task]:
    """Each arm's task with its data at hand (read, tokenised and cached; equal ones once), on this machine; users' own
    mixers are tried first.

    Raises:
        UserError: what `try_own_mixers` finds; data that cannot be had or does not suffice, one line each.
    """
    try_own_mixers(sweep)
    ready: dict[str, Task] = {}
    problems = []
    for arm in sweep.arms:
        trial = sweep.trial_of(arm)
        key = trial.task.model_dump_json()
        try:
            if key not in ready:
                ready[key] = tasks.build_task(trial.task, batch_size=trial.train.batch_size, seed=trial.train.seed)
                ready[key].prepare()
        except (ValueError, OSError) as error:
            problems.append(f"arms.{arm}.task: {one_line(error)}")
    if problems:
        raise UserError(problems[:1] if len(problems) == len(sweep.arms) > 1 else problems)
    return {arm: ready[sweep.trial_of(arm).task.model_dump_json()] for arm in sweep.arms}


def check_device(sweep: Sweep, device: str) -> None:
    """Refuse what the arms ask for and `device`, `cuda` or `cpu`, cannot do; UserError, one line each."""
    workers = sweep.resources.workers
    if problems := [p for arm in sweep.arms for p in device_problems(sweep.trial_of(arm), arm, device, workers)]:
        raise UserError(problems)
