"""The tasks: every file of this folder that has a `Task` is one, under the file's name.

    task = build_task(TaskConfig(name="text", seq_len=256), batch_size=16, seed=0)
    inputs, targets = task.batch(step=0)        # int64 [16, 256] each

Nothing here imports torch, and a task's file is imported only when it is asked for.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import types
from collections.abc import Callable
from functools import partial
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from attnlab.config import TaskConfig, did_you_mean
from attnlab.tasks.base import IGNORE, Batch, Task

__all__ = ["IGNORE", "TASKS", "Task", "Batch", "build_task", "check_task", "metrics_of", "settings_of"]

GIVEN = ("batch_size", "seed")  # given by the training loop, never by a sweep file's `task:`
WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    dict: "a mapping",
    type(None): "null",
}


def _load(name: str) -> type[Task]:
    return importlib.import_module(f"{__name__}.{name}").Task


TASKS: dict[str, Callable[[], type[Task]]] = {
    module.name: partial(_load, module.name)
    for module in pkgutil.iter_modules(__path__)
    if module.name != "base" and not module.name.startswith("_")
}


def settings_of(name: str) -> dict[str, inspect.Parameter]:
    """What the task `name` takes in a sweep file: argument -> parameter (annotation resolved, default)."""
    kind = TASKS[name]()
    hints = get_type_hints(kind.__init__)
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    return {p.name: p.replace(annotation=hints[p.name]) for p in parameters if p.name not in GIVEN}


def check_task(task: TaskConfig) -> list[str]:
    """Everything wrong with a task's settings, one line each: its name, its arguments, their types, their values."""
    if task.name not in TASKS:
        return [f"unknown task{did_you_mean(task.name, TASKS)}"]
    settings = settings_of(task.name)
    problems = [f"{key}: unknown argument{did_you_mean(key, settings)}" for key in task.args if key not in settings]
    for key, parameter in settings.items():
        if key in task.args:
            problems += _type_problem(key, task.args[key], parameter.annotation)
        elif parameter.default is parameter.empty:
            problems.append(f"{key}: missing, and it has no default")
    return problems or TASKS[task.name]()(**task.args, batch_size=1, seed=0).check()


def _type_problem(key: str, value: Any, annotation: Any) -> list[str]:
    """Strict: `1` is no text and `true` no number, but a whole number may stand where a number is asked for."""
    try:
        TypeAdapter(annotation, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError:
        union = get_origin(annotation) in (Union, types.UnionType)
        kinds = [get_origin(a) or a for a in (get_args(annotation) if union else (annotation,))]
        return [f"{key}: {' or '.join(WORDS.get(kind, str(kind)) for kind in kinds)}, not {value!r}"]
    return []


def build_task(task: TaskConfig, *, batch_size: int, seed: int) -> Task:
    """The task that `task` names; no data is touched yet.

    Args:
        batch_size: examples per optimizer step, over all workers.
        seed: of the training examples' order.

    Raises:
        ValueError: everything `check_task` finds, one line each.
    """
    if problems := check_task(task):
        raise ValueError("\n".join(f"task {task.name}: {problem}" for problem in problems))
    return TASKS[task.name]()(**task.args, batch_size=batch_size, seed=seed)


def metrics_of(task: TaskConfig) -> tuple[str, ...]:
    """Names of the metrics a task's evaluation gives; none for a task that does not exist."""
    return TASKS[task.name]().metrics if task.name in TASKS else ()
