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
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from attnlab.config import values
from attnlab.config.trial import Mode, TaskConfig
from attnlab.tasks.base import IGNORE, Batch, Task
from attnlab.util.text import did_you_mean, quoted

__all__ = ["IGNORE", "TASKS", "Batch", "Task", "build_task", "check_task", "metrics_of", "mode_of", "settings_of",
           "summaries"]  # fmt: skip

GIVEN = ("batch_size", "seed")  # given by the training loop, never by a sweep file's `task:`
MOST = 10**6  # of a setting that is a number
LARGEST = {
    **dict.fromkeys(("n_train", "n_eval", "max_tokens", "eval_tokens"), 10**12),
    **dict.fromkeys(("seq_len", "eval_seq_lens"), 10**10),
    "fact_seed": values.MOST,
}
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", dict: "a mapping"}
WORDS[type(None)] = "null"
PLURAL = {int: "whole numbers", float: "numbers"}


def _load(name: str) -> type[Task]:
    task: type[Task] = importlib.import_module(f"{__name__}.{name}").Task
    return task


def discover() -> dict[str, Callable[[], type[Task]]]:
    """Map the name of each task's file in this folder to what imports its class."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    return {name: partial(_load, name) for name in names if name != "base" and not name.startswith("_")}


TASKS = discover()


def settings_of(name: str) -> dict[str, inspect.Parameter]:
    """What the task `name` takes in a sweep file: argument -> parameter (annotation resolved, default)."""
    settings: dict[str, inspect.Parameter] = {}
    for kind in TASKS[name]().__mro__:
        if "__init__" not in vars(kind):
            continue
        hints = get_type_hints(vars(kind)["__init__"])
        taken = list(inspect.signature(vars(kind)["__init__"]).parameters.values())[1:]
        named = [p for p in taken if p.kind is not p.VAR_KEYWORD]
        new = [p for p in named if p.name not in {*settings, *GIVEN}]
        settings |= {p.name: p.replace(annotation=hints[p.name]) for p in new}
        if len(named) == len(taken):
            break
    return settings


def check_task(task: TaskConfig) -> list[str]:
    """List everything wrong with a task's name and settings, one line each."""
    if task.name not in TASKS:
        return [f"unknown task{did_you_mean(task.name, TASKS)}"]
    settings = settings_of(task.name)
    problems = [f"{key}: unknown argument{did_you_mean(key, settings)}" for key in task.args if key not in settings]
    for key, parameter in settings.items():
        if key in task.args:
            problems += _type_problem(key, task.args[key], parameter.annotation) or _range_problem(key, task.args[key])
        elif parameter.default is parameter.empty:
            problems.append(f"{key}: missing, and it has no default")
    return problems or TASKS[task.name]()(**task.args, batch_size=1, seed=0).check()


def _type_problem(key: str, value: Any, annotation: Any) -> list[str]:
    """Check a type strictly, except that a whole number may stand for a number."""
    try:
        TypeAdapter(annotation, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError:
        union = get_origin(annotation) in (Union, types.UnionType)
        kinds = get_args(annotation) if union else (annotation,)
        return [f"{key}: {' or '.join(map(_words, kinds))}, not {quoted(value)}"]
    return []


def _range_problem(key: str, value: Any) -> list[str]:
    """Refuse numbers that no task could be made of, before one is tried. The least a task knows itself."""
    most = LARGEST.get(key, MOST)
    large = [x for x in (value if isinstance(value, list) else [value]) if isinstance(x, (int, float)) and x > most]
    return [f"{key}: at most {most:,}, not {quoted(large[0])}"] if large else []


def _words(annotation: Any) -> str:
    """One annotation for people."""
    kind, inner = get_origin(annotation), get_args(annotation)
    if kind is Literal:
        return " or ".join(map(str, inner))
    if kind is list:
        return f"a list of {PLURAL[inner[0]]}"
    return WORDS[kind or annotation]


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
    """Names of the metrics a task's evaluation gives; none for a task that `check_task` refuses."""
    if task.name not in TASKS or check_task(task):
        return ()
    return TASKS[task.name]()(**task.args, batch_size=1, seed=0).metrics


def mode_of(task: TaskConfig, metric: str) -> Mode | None:
    """Which values of a task's metric are better, those of a length (`val_loss_T512`) or a kind as of the whole.

    None where the task does not say, or has no such metric.
    """
    if metric not in metrics_of(task):
        return None
    better = TASKS[task.name]().better
    named = [name for name in better if f"{metric}_".startswith(f"{name}_")]
    return better[max(named, key=len)] if named else None


def summaries() -> dict[str, str]:
    """Each task's name and the first line of its file."""
    return {name: (importlib.import_module(f"{__name__}.{name}").__doc__ or "").splitlines()[0] for name in TASKS}
