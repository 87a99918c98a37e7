"""The arms against each other: over the seeds of the confirm runs, and on each benchmark's items.

Benchmarks are read from `analysis/benchmark_results.json`, which another run writes: {arms: {ARM: {benchmarks: {NAME:
{metric, value, chance, higher_is_better, n, limited, metrics: {metric: {how, column}}, items: {id, columns ...}}}}}}.
What of it cannot be used costs one line in `problems` each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from analysis.records.select import ArmSummary, Selection
from attnlab.ranking import tests
from attnlab.ranking.tests import Interval, Pair
from attnlab.util.files import read_json
from attnlab.util.text import number


@dataclass(frozen=True)
class Overlap:
    """Which items of a benchmark stand in the text that an arm was trained on (`analysis.statistics.overlap`)."""

    corpus: str
    seen: frozenset[str] = field(repr=False)  # ids
    n: int


@dataclass(frozen=True)
class Score:
    """One arm on one benchmark. `values`: per item, by id; their mean is `interval.value`, or its logarithm."""

    arm: str
    interval: Interval
    values: dict[str, float] = field(repr=False)
    logarithm: bool = False  # whether the values' mean is the logarithm of the figure
    overlap: Overlap | None = None


@dataclass(frozen=True)
class Benchmark:
    """One benchmark over the arms, and every pair of them on the items both have."""

    name: str
    metric: str
    mode: str  # min or max: which is better
    chance: float | None
    limited: bool
    scores: dict[str, Score]
    pairs: list[Pair]
    source: str = "-"  # where its items are from

    @property
    def best(self) -> str:
        """The arm with the best value."""
        sign = 1 if self.mode == "min" else -1
        return min(self.scores, key=lambda arm: sign * self.scores[arm].interval.value)

    def tied(self) -> set[str]:
        """The best arm and those that are not shown to be worse than it."""
        worse = {p.a if p.better(self.mode) == p.b else p.b for p in self.pairs
                 if self.best in (p.a, p.b) and p.better(self.mode) == self.best}  # fmt: skip
        return set(self.scores) - worse


@dataclass(frozen=True)
class Benchmarks:
    """All that was read; `found` is False where there is no file."""

    tables: list[Benchmark]
    problems: list[str]
    found: bool = True

    def by_name(self) -> dict[str, Benchmark]:
        return {table.name: table for table in self.tables}


def confirm_values(sel: Selection, arm: ArmSummary, metric: str) -> dict[int, float]:
    """The last values of an arm's completed confirm runs of the setting that stands for it, by seed; none: those of
    plain runs, where the sweep searches nothing. The same runs that the leaderboard's confirm mean is over."""
    runs = [t for t in arm.trials if t.phase == "confirm" and t.state == "completed" and t.results]
    if not runs and not sel.plan.sweep.search:
        runs = [t for t in arm.trials if t.state == "completed" and t.results]
    chosen = [t for t in runs if not arm.confirm or t.settings == arm.confirm["settings"]]
    values = {t.results["seed"]: number((t.results["last"] or {}).get(metric)) for t in chosen if t.results}
    return {seed: value for seed, value in values.items() if value is not None}


def over_seeds(sel: Selection) -> list[Pair]:
    """Every pair of arms, best first, on the sweep's metric over the confirm runs, Holm-corrected."""
    return tests.all_pairs({arm.arm: confirm_values(sel, arm, sel.metric) for arm in sel.arms})


def benchmarks(sel: Selection) -> Benchmarks:
    """Every benchmark scored on arms of the sweep."""
    path = sel.data.folder.analysis / "benchmark_results.json"
    if not path.exists():
        return Benchmarks([], [], found=False)
    try:
        arms = read_json(path)["arms"]
        entries = {arm: dict(row["benchmarks"]) for arm, row in arms.items() if arm in sel.plan.names}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = str(error).replace(f"{path}: ", "") or type(error).__name__
        return Benchmarks([], [f"benchmark_results.json cannot be used, so benchmarks are not shown: {why}"])
    problems = [f"benchmark_results.json: left out, sweep.yaml has no arm {a}" for a in arms if a not in sel.plan.names]
    problems += [f"{arm}: {row['error']}" for arm, row in arms.items() if isinstance(row, dict) and row.get("error")]
    tables = []
    for name in dict.fromkeys(name for found in entries.values() for name in found):
        scores, facts = {}, {}
        for arm in (a.arm for a in sel.declared if name in entries.get(a.arm, {})):
            try:
                scores[arm] = _score(arm, entries[arm][name])
                facts = entries[arm][name]
            except (ValueError, KeyError, TypeError, ArithmeticError) as error:
                problems.append(
                    f"benchmark_results.json: {arm} on {name} cannot be used: {type(error).__name__} {error}"
                )
        if scores:
            tables.append(_table(name, facts, scores))
    return Benchmarks(tables, problems)


def _table(name: str, facts: Mapping[str, Any], scores: dict[str, Score]) -> Benchmark:
    pairs = []
    for a, b in combinations(scores, 2):
        left, right = scores[a].values, scores[b].values
        if both := [i for i in left if i in right]:
            pairs.append(tests.over_items(a, b, [left[i] for i in both], [right[i] for i in both]))
    higher = bool(facts.get("higher_is_better", True))
    limited = bool(facts.get("limited"))
    return Benchmark(name, str(facts["metric"]), "max" if higher else "min", number(facts.get("chance")), limited,
                     scores, tests.holm(pairs), str(facts.get("source") or "-"))  # fmt: skip


def _score(arm: str, entry: Mapping[str, Any]) -> Score:
    """A result with its interval, from its items alone: the value in the file must agree with them."""
    items, metric = entry["items"], str(entry["metric"])
    spec = (entry.get("metrics") or {}).get(metric) or {}
    how, column = spec.get("how", "proportion"), spec.get("column") or metric

    def per(below: str) -> np.ndarray:  # its mean is the ratio of the two sums
        return _column(items, column) / _column(items, below).mean()

    back = math.exp if how.startswith("perplexity") else float
    if how == "proportion":
        values = _column(items, column)
    elif how == "perplexity":
        values = -_column(items, column)
    elif how == "bits_per_byte":
        column = spec.get("column") or "nats"
        values = per("bytes") / math.log(2)
    elif how == "perplexity_per_token":
        column = spec.get("column") or "nats"
        values = per("tokens")
    elif how == "ratio":
        values = per("targets")
    else:
        raise ValueError(f"unknown kind of metric {how!r}")
    ids = [str(i) for i in items["id"]]
    if not ids or len(ids) != len(values):
        raise ValueError(f"{len(ids)} ids for {len(values)} values")
    zero_one = how == "proportion" and bool(np.isin(values, (0, 1)).all())
    found = tests.proportion(int(values.sum()), len(values)) if zero_one else tests.mean_over_items(values)
    if (
        number(entry.get("value")) is not None
        and abs(back(found.value) - entry["value"]) > 1e-3 * abs(entry["value"]) + 1e-6
    ):
        raise ValueError(f"its value {entry['value']} is not that of its items, {back(found.value):.6g}")
    ends = [None if end is None else back(end) for end in (found.low, found.high)]
    by_id = dict(zip(ids, values.tolist(), strict=True))
    return Score(arm, Interval(back(found.value), *ends, found.n), by_id, back is math.exp, _overlap(entry, ids))


def _overlap(entry: Mapping[str, Any], ids: list[str]) -> Overlap | None:
    found = entry.get("overlap")
    if not found:
        return None
    seen = frozenset(i for i, one in zip(ids, found["items"], strict=True) if one)
    return Overlap(str(found["corpus"]), seen, len(ids))


def _column(items: Mapping[str, Any], name: str) -> np.ndarray:
    values = np.asarray(items[name], float)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"column {name} holds what is no number")
    return values
