"""Figures of what the arms reach and cost: benchmarks, speed, trials against value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from analysis.efficiency.results import WORKLOADS, runs_of
from analysis.figures.curves import LARGE, log_ticks, style_of
from analysis.figures.svg import GREY, STYLE, Plot, new, render
from analysis.records.scores import ScoredBenchmark
from analysis.records.select import Selection
from attnlab.ranking.tests import Interval, mean_over_seeds

Lines = Mapping[int, Sequence[tuple[float, ...]]]  # by an arm's position in the sweep file: (length, value, low, high)


def efficiency(sel: Selection, tree: Mapping[str, Any]) -> list[Plot]:
    """Tokens per second of each workload, state bytes and (CUDA) training memory, against sequence length."""
    arms = [arm for arm in sel.declared if arm.arm in tree["arms"]]
    out = []
    for workload, label in WORKLOADS.items():
        runs = {arm.index: sorted(runs_of(tree, arm.arm, workload).items()) for arm in arms}
        lines = {i: [(n, median(each), min(each), max(each)) for n, each in by_length] for i, by_length in runs.items()}
        out += _length_figure(lines, f"{label}: tokens/s", f"efficiency-{workload}")
    for key, label, pick in (
        ("cache_bytes", "state or cache, bytes per sequence", lambda p: p.get("cache_bytes")),
        ("peak_bytes", "peak memory of a training step, bytes", lambda p: (p.get("train") or {}).get("peak_bytes")),
    ):
        lines = {arm.index: [(p["length"], v, v, v) for p in tree["arms"][arm.arm]["points"] if (v := pick(p))]
                 for arm in arms}  # fmt: skip
        out += _length_figure(lines, label, f"efficiency-{key}")
    return out


def _length_figure(lines: Lines, label: str, name: str) -> list[Plot]:
    if not any(lines.values()):
        return []
    with mpl.rc_context(STYLE):
        figure = new(3.9, 3.0)
        against_length(figure.add_subplot(), lines, label)
        return [render(figure, name, f"{label} against sequence length")]


def against_length(axes: Axes, lines: Lines, label: str) -> None:
    """Draw each arm's values with their bands, on logarithmic axes."""
    for index, points in lines.items():
        if points:
            x, y, low, high = zip(*points, strict=True)
            axes.plot(x, y, **style_of(index), marker="o", markersize=3, linewidth=1.6)
            axes.fill_between(x, low, high, color=style_of(index)["color"], alpha=0.12, linewidth=0)
    lengths = sorted({point[0] for points in lines.values() for point in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [f"{int(n)}" if n < 10_000 else f"{n / 1024:.0f}k" for n in lengths])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("sequence length")
    axes.set_yscale("log")
    axes.set_yticks(log_ticks(*axes.get_ylim()))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(LARGE)
    axes.set_title(label)


def benchmarks(sel: Selection, tables: Iterable[ScoredBenchmark]) -> list[Plot]:
    """Every arm with its interval on each benchmark, and the chance level."""
    out = []
    for table in tables:
        arms = [arm for arm in sel.declared if arm.arm in table.scores]
        intervals = [table.scores[arm.arm].interval for arm in arms]
        with mpl.rc_context(STYLE):
            figure = new(3.3, 0.75 + 0.27 * len(intervals))
            axes = figure.add_subplot()
            for row, (arm, interval) in enumerate(zip(arms, intervals, strict=True)):
                _dot(axes, row, interval, style_of(arm.index)["color"])
            ends = [end for i in intervals for end in (i.value, i.low, i.high) if end is not None]
            reach = max(ends) - min(ends)  # a level of chance farther away would press the intervals flat
            if table.chance is not None and min(ends) - reach <= table.chance <= max(ends) + reach:
                axes.axvline(table.chance, color=GREY, linestyle=(0, (3, 3)), linewidth=1)
            _rows(axes, [arm.arm for arm in arms], f"{table.name}: {table.metric}")
            out.append(render(figure, f"benchmark-{table.name}", f"{table.name}, {table.metric} of every arm"))
    return out


def _dot(axes: Axes, row: int, interval: Interval, colour: str, hollow: bool = False) -> None:
    if interval.low is not None and interval.high is not None:
        axes.plot([interval.low, interval.high], [row, row], color=colour, linewidth=2)
    axes.plot(interval.value, row, "o", color=colour, markerfacecolor="white" if hollow else colour, markersize=5)


def _rows(axes: Axes, labels: Sequence[str], title: str) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_title(title)


def trials(sel: Selection, expected: Mapping[str, Sequence[float]]) -> list[Plot]:
    """The expected best value against the number of trials spent on tuning."""
    if not expected or max(map(len, expected.values())) < 2:
        return []
    with mpl.rc_context(STYLE):
        figure = new(4.4, 3.0)
        axes = figure.add_subplot()
        for arm in sel.declared:
            if values := expected.get(arm.arm):
                look = {**style_of(arm.index), "marker": "o", "markersize": 3, "linewidth": 1.6}
                axes.plot(range(1, len(values) + 1), values, **look)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("trials")
        axes.set_title(f"expected best {sel.metric}")
        return [render(figure, "trials", f"expected best {sel.metric} against the number of trials")]


def sweeps(selections: Sequence[Selection]) -> list[Plot]:
    """The arms of several sweeps, best first, in one figure per metric."""
    out = []
    for metric in dict.fromkeys(sel.metric for sel in selections):
        rows = [(sel, arm) for sel in selections if sel.metric == metric for arm in sel.arms if arm.score is not None]
        if not rows:
            continue
        with mpl.rc_context(STYLE):
            figure = new(5.3, 0.8 + 0.24 * len(rows))
            axes = figure.add_subplot()
            for row, (sel, arm) in enumerate(rows):
                values = list(sel.confirm_values(arm, metric).values()) if arm.confirm else []
                interval = mean_over_seeds(values) if values else Interval(arm.score, None, None, 1)
                _dot(axes, row, interval, style_of(arm.index)["color"], hollow=not values)
            _rows(axes, [f"{sel.plan.name}: {arm.arm}" for sel, arm in rows], metric)
            out.append(render(figure, f"sweeps-{metric}", f"{metric} of every arm of every sweep"))
    return out
