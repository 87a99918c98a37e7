"""What every benchmark gives: exams, and answers from which each figure follows."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, Literal

from analysis.scoring.scorer import Advance, Scorer
from analysis.scoring.targets import Target
from attnlab.util.errors import UserError
from attnlab.util.files import json_digest

How = Literal["proportion", "perplexity", "bits_per_byte", "perplexity_per_token", "ratio"]


@dataclass(frozen=True)
class Context:
    """What the command line gives every benchmark."""

    data_dir: Path | None = None  # with a folder per dataset in hub schema; None: the hub, or its cache
    limit: int | None = None  # items per exam, at most
    text: Path | None = None  # a file for the benchmark `text`


@dataclass(frozen=True)
class Metric:
    """One figure of an exam, from the answers' columns.

    `proportion` is the mean of 0/1; `perplexity` exp(-mean) of log-likelihoods in nats. `bits_per_byte` and
    `perplexity_per_token` are of columns nats, bytes and tokens. `ratio` is the column's sum over that of `targets`.
    """

    how: How
    higher_is_better: bool = True
    chance: float | None = None  # what guessing gives; None: no such level
    column: str | None = None  # default: the metric's name


@dataclass(frozen=True)
class Answers:
    """A checkpoint's answers: columns of one value per item, in the ids' order."""

    columns: Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Exam:
    """What a checkpoint is asked. Raises UserError: an item twice."""

    name: str  # of the benchmark, with what tells its exams apart: `hellaswag`, `mqar_x4`
    source: str  # where the items are from, for the report
    version: str
    ids: Sequence[str]  # one per item, stable over runs and limits, so that arms can be compared item by item
    n_all: int  # items there are without a limit
    content: Any = field(repr=False)  # of the items, JSON-able; with metrics and `version` it decides the digest
    metrics: Mapping[str, Metric]  # the first one is the exam's own
    requests: int
    ask: Callable[[Scorer, Advance], Answers] = field(repr=False)  # has a checkpoint answer; reports requests done
    # of each item its wordings with an answer, to look for in training text; empty: it is no text
    texts: Sequence[Sequence[str]] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if repeated := len(self.ids) - len(set(self.ids)):
            raise UserError(f"{self.name}: {repeated} of {len(self.ids)} items are repetitions; ask each once")

    @property
    def digest(self) -> str:
        """20 hexadecimal digits: equal digests, the same items asked and judged in the same way."""
        metrics = {name: vars(metric) for name, metric in self.metrics.items()}
        return json_digest([self.name, self.version, list(self.ids), self.content, metrics])

    @property
    def limited(self) -> bool:
        """Whether items were left out."""
        return len(self.ids) < self.n_all


class Benchmark(ABC):
    """A file's `BENCHMARK`."""

    needs_text: ClassVar[bool] = True  # a tokenizer, that is: a model trained on text
    per_checkpoint: ClassVar[bool] = False  # whether the exams depend on what the checkpoint was trained on

    def by_default(self, context: Context) -> bool:
        """Whether it is examined when none is named."""
        return True

    @abstractmethod
    def exams(self, context: Context, target: Target | None) -> list[Exam]:
        """The exams, if any apply to `target`. Raises UserError: data or a package is missing."""


def value_of(metric: Metric, name: str, columns: Mapping[str, Sequence[Any]]) -> float | None:
    """A metric's value from the answers; None without items."""
    column = columns[metric.column or name]
    if not len(column):
        return None
    if metric.how == "perplexity":
        return math.exp(min(-fmean(column), 700.0))  # beyond, a float ends
    if metric.how == "bits_per_byte":
        return sum(column) / math.log(2) / sum(columns["bytes"])
    if metric.how == "perplexity_per_token":
        return math.exp(min(sum(column) / sum(columns["tokens"]), 700.0))
    if metric.how == "ratio":
        return sum(column) / sum(columns["targets"])
    return fmean(column)
