"""The benchmarks: every file of this folder with a `BENCHMARK` is one, under the file's name.

A benchmark makes `Exam`s (usually one): items with stable ids, a digest over all that is asked, and a way to have a
checkpoint answer them. `base` says what they share, `_harness` brings lm-eval's tasks, `_choice` those of our own.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import partial

from analysis.benchmarks._harness import Harness
from analysis.benchmarks.base import Benchmark, Context, Exam, Metric, Outcome

__all__ = ["BENCHMARKS", "Benchmark", "Context", "Exam", "Metric", "Outcome", "harness_of"]


def _load(name: str) -> Benchmark:
    return importlib.import_module(f"{__name__}.{name}").BENCHMARK


BENCHMARKS: dict[str, Callable[[], Benchmark]] = {
    module.name: partial(_load, module.name)
    for module in pkgutil.iter_modules(__path__)
    if module.name != "base" and not module.name.startswith("_")
}


def harness_of(name: str) -> Harness:
    """The benchmark `name`, which must be one of lm-eval's tasks."""
    found = BENCHMARKS[name]()
    assert isinstance(found, Harness), f"{name} is no task of lm-eval's"
    return found
