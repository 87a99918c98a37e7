"""What the arms scored on benchmarks, read from `analysis/benchmark_results.json`, with intervals and tests.

The file, as `analysis.scoring.results` writes it: {arms: {ARM: {benchmarks: {NAME: {metric, value, chance,
higher_is_better, n, limited, metrics: {metric: {how, column}}, items: {id, columns ...}}}}}}. What of it cannot be used
costs one line in `problems` each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis.records.select import Selection
from attnlab.ranking.pairs import all_over_items
from attnlab.ranking.tests import Comparison, Interval, mean_over_items, proportion
from attnlab.util.files import read_json
from attnlab.util.text import number

BELOW = {"bits_per_byte": "bytes", "perplexity_per_token": "tokens", "ratio": "targets"}  # columns of denominators


@dataclass(frozen=True)
class Overlap:
    """A benchmark's items in an arm's training text (`analysis.statistics.overlap`)."""

    corpus: str
    seen: frozenset[str] = field(repr=False)  # ids
    n: int


@dataclass(frozen=True)
class Score:
    """One arm on one benchmark."""

    interval: Interval
    values: dict[str, float] = field(repr=False)  # per item, by id; their mean is `interval.value` or its logarithm
    logarithm: bool = False  # whether the values' mean is the logarithm of the figure
    overlap: Overlap | None = None


@dataclass(frozen=True)
class ScoredBenchmark:
    """One benchmark over the arms, and every pair of them on the items both have."""

    name: str
    metric: str
    mode: str  # min or max: which is better
    chance: float | None
    limited: bool
    scores: dict[str, Score]
    pairs: list[Comparison]
    source: str = "-"  # where its items are from

    @property
    def title(self) -> str:
        """The name, marked if items were left out."""
        return self.name + (" (limited)" if self.limited else "")

    @property
    def best(self) -> str:
        """The arm with the best value."""
        sign = 1 if self.mode == "min" else -1
        return min(self.scores, key=lambda arm: sign * self.scores[arm].interval.value)

    def tied(self) -> set[str]:
        """The best arm and those that are not shown to be worse than it."""
        worse = {p.a if p.b == self.best else p.b for p in self.pairs if p.better(self.mode) == self.best}
        return set(self.scores) - worse


@dataclass(frozen=True)
class BenchmarkScores:
    """Every benchmark that could be read, and what could not."""

    tables: list[ScoredBenchmark]
    problems: list[str]

    def by_name(self) -> dict[str, ScoredBenchmark]:
        """The benchmarks by name."""
        return {table.name: table for table in self.tables}


def benchmarks(sel: Selection) -> BenchmarkScores:
    """Every benchmark scored on arms of the sweep."""
    path, known = sel.data.folder.analysis / "benchmark_results.json", sel.plan.names
    if not path.exists():
        return BenchmarkScores([], [])
    try:
        arms = read_json(path)["arms"]
        entries = {arm: dict(row["benchmarks"]) for arm, row in arms.items() if arm in known}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = str(error).replace(f"{path}: ", "") or type(error).__name__
        return BenchmarkScores([], [f"benchmark_results.json cannot be used, so benchmarks are not shown: {why}"])
    problems = [f"benchmark_results.json: left out, sweep.yaml has no arm {arm}" for arm in arms if arm not in known]
    problems += [f"{arm}: {row['error']}" for arm, row in arms.items() if isinstance(row, dict) and row.get("error")]
    tables = []
    for name in dict.fromkeys(name for by_name in entries.values() for name in by_name):
        scores, entry = {}, {}
        for arm in (a.arm for a in sel.declared if name in entries.get(a.arm, {})):
            try:
                scores[arm] = _score(entries[arm][name])
                entry = entries[arm][name]
            except (ValueError, KeyError, TypeError, ArithmeticError) as error:
                why = f"{type(error).__name__} {error}"
                problems.append(f"benchmark_results.json: {arm} on {name} cannot be used: {why}")
        if scores:
            tables.append(_table(name, entry, scores))
    return BenchmarkScores(tables, problems)


def _table(name: str, entry: Mapping[str, Any], scores: dict[str, Score]) -> ScoredBenchmark:
    return ScoredBenchmark(
        name, str(entry["metric"]), mode="max" if entry.get("higher_is_better", True) else "min",
        chance=number(entry.get("chance")), limited=bool(entry.get("limited")), scores=scores,
        pairs=all_over_items({arm: score.values for arm, score in scores.items()}),
        source=str(entry.get("source") or "-"),
    )  # fmt: skip


def _score(entry: Mapping[str, Any]) -> Score:
    """A result's interval from its items, with which the value in the file must agree."""
    items, metric = entry["items"], str(entry["metric"])
    spec = (entry.get("metrics") or {}).get(metric) or {}
    how = spec.get("how", "proportion")
    ids, values = [str(i) for i in items["id"]], _values(items, how, spec.get("column"), metric)
    if not ids or len(ids) != len(values):
        raise ValueError(f"{len(ids)} ids for {len(values)} values")
    zero_one = how == "proportion" and bool(np.isin(values, (0, 1)).all())
    mean = proportion(int(values.sum()), len(values)) if zero_one else mean_over_items(values.tolist())
    logarithm = how.startswith("perplexity")
    value, low, high = (math.exp(x) if logarithm and x is not None else x for x in (mean.value, mean.low, mean.high))
    stated = number(entry.get("value"))
    if stated is not None and abs(value - stated) > 1e-3 * abs(stated) + 1e-6:
        raise ValueError(f"its value {stated} is not that of its items, {value:.6g}")
    overlap = None
    if scanned := entry.get("overlap"):
        seen = frozenset(i for i, one in zip(ids, scanned["items"], strict=True) if one)
        overlap = Overlap(str(scanned["corpus"]), seen, len(ids))
    by_id = dict(zip(ids, values.tolist(), strict=True))
    return Score(Interval(value, low, high, mean.n), by_id, logarithm, overlap)


def _values(items: Mapping[str, Any], how: str, column: str | None, metric: str) -> np.ndarray:
    """Per item what the figure, or its logarithm, is the mean of."""
    if how in ("proportion", "perplexity"):
        return _column(items, column or metric) * (1 if how == "proportion" else -1)
    if how not in BELOW:
        raise ValueError(f"unknown kind of metric {how!r}")
    above = _column(items, column or (metric if how == "ratio" else "nats"))
    return above / _column(items, BELOW[how]).mean() / (math.log(2) if how == "bits_per_byte" else 1)


def _column(items: Mapping[str, Any], name: str) -> np.ndarray:
    values = np.asarray(items[name], float)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"column {name} holds what is no number")
    return values
