"""The benchmarks: every file here with a `BENCHMARK` is one, under the file's name.

A benchmark makes `Exam`s (usually one): items with stable ids, a digest over all that is asked, and a way to have a
checkpoint answer them. `analysis.scoring.exam` says what they share. `_harness` brings lm-eval's tasks, `_choice`
questions of our own.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from functools import partial

from analysis.benchmarks._harness import Harness
from analysis.scoring.exam import Answers, Benchmark, Context, Exam, Metric
from attnlab.util.errors import UserError
from attnlab.util.text import did_you_mean

__all__ = ["BENCHMARKS", "Answers", "Benchmark", "Context", "Exam", "Metric", "harness_of", "select_benchmarks"]


def _load(name: str) -> Benchmark:
    return importlib.import_module(f"{__name__}.{name}").BENCHMARK


def discover() -> dict[str, Callable[[], Benchmark]]:
    """Each benchmark file of this folder: its name -> what imports its `BENCHMARK`."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    return {name: partial(_load, name) for name in names if not name.startswith("_")}


def summaries() -> dict[str, str]:
    """Each benchmark's name and the first line of its file."""
    return {name: (importlib.import_module(f"{__name__}.{name}").__doc__ or "").splitlines()[0] for name in BENCHMARKS}


BENCHMARKS = discover()


def select_benchmarks(names: Sequence[str] | None, context: Context) -> list[tuple[str, Benchmark]]:
    """The benchmarks that `--benchmarks` names; None: those by default. Raises UserError: no such one."""
    if names is None:
        return [(name, b) for name, load in BENCHMARKS.items() if (b := load()).by_default(context)]
    wanted = {"all": list(BENCHMARKS), "none": []}.get(names[0], names) if len(names) == 1 else names
    if unknown := [name for name in wanted if name not in BENCHMARKS]:
        known = [*BENCHMARKS, "all", "none"]
        raise UserError(f"--benchmarks {unknown[0]}: no such benchmark{did_you_mean(unknown[0], known)}")
    return [(name, load()) for name, load in BENCHMARKS.items() if name in wanted]


def harness_of(name: str) -> Harness:
    """The benchmark `name`, which must be one of lm-eval's tasks."""
    benchmark = BENCHMARKS[name]()
    assert isinstance(benchmark, Harness), f"{name} is no task of lm-eval's"
    return benchmark
