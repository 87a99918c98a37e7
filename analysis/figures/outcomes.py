"""The report's figures of what the arms reach and cost: benchmarks, speed against length, trials against value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from analysis.efficiency.lengths import runs_of
from analysis.figures.curves import log_ticks, style_of
from analysis.figures.svg import GREY, STYLE, Plot, new, render
from analysis.records.select import Selection
from analysis.report.wording import large_text
from analysis.statistics import pairs
from attnlab.ranking.tests import mean_over_seeds

PARTS = {"train": "training step", "prefill": "prefill", "decode": "decoding"}


def efficiency(sel: Selection, tree: Mapping[str, Any]) -> list[Plot]:
    """Tokens per second of each part, state bytes and (CUDA) training memory, against sequence length."""
    arms = [arm for arm in sel.declared if arm.arm in tree["arms"]]
    out = []
    for part, label in PARTS.items():
        found = {arm.index: runs_of(dict(tree), arm.arm, part) for arm in arms}
        lines = {i: [(n, median(r), min(r), max(r)) for n, r in sorted(runs.items())] for i, runs in found.items()}
        out += _against_length(sel, lines, f"{label}: tokens/s", f"efficiency-{part}")
    for key, label, pick in (
        ("cache_bytes", "state or cache, bytes per sequence", lambda p: p.get("cache_bytes")),
        ("peak_bytes", "peak memory of a training step, bytes", lambda p: (p.get("train") or {}).get("peak_bytes")),
    ):
        lines = {arm.index: [(p["length"], v, v, v) for p in tree["arms"][arm.arm]["points"] if (v := pick(p))]
                 for arm in arms}  # fmt: skip
        out += _against_length(sel, lines, label, f"efficiency-{key}")
    return out


def _against_length(
    sel: Selection, lines: Mapping[int, Sequence[tuple[float, ...]]], label: str, name: str
) -> list[Plot]:
    lines = {index: points for index, points in lines.items() if points}
    if not lines:
        return []
    with mpl.rc_context(STYLE):
        figure = new(3.9, 3.0)
        against_length(figure.add_subplot(), lines, label)
        return [render(figure, name, f"{label} against sequence length")]


def against_length(axes: Axes, lines: Mapping[int, Sequence[tuple[float, ...]]], label: str) -> None:
    """On logarithmic axes each arm's (length, value, low, high), by its place in the sweep file."""
    for index, points in lines.items():
        if points:
            x, y, low, high = zip(*points, strict=True)
            axes.plot(x, y, **style_of(index), marker="o", markersize=3, linewidth=1.6)
            axes.fill_between(x, low, high, color=style_of(index)["color"], alpha=0.12, linewidth=0)
    axes.set_yscale("log")
    _lengths(axes, sorted({point[0] for points in lines.values() for point in points}))
    axes.set_yticks(log_ticks(*axes.get_ylim()))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: large_text(v)))
    axes.set_title(label)


def _lengths(axes: Axes, lengths: Sequence[float]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [f"{int(n)}" if n < 10_000 else f"{n / 1024:.0f}k" for n in lengths])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("sequence length")


def benchmarks(sel: Selection, tables: Sequence[pairs.Benchmark]) -> list[Plot]:
    """Every arm with its interval on each benchmark, and the chance level."""
    out = []
    for table in tables:
        with mpl.rc_context(STYLE):
            figure = new(3.3, 0.75 + 0.27 * len(table.scores))
            axes = figure.add_subplot()
            arms = [arm for arm in sel.declared if arm.arm in table.scores]
            for row, arm in enumerate(arms):
                found, colour = table.scores[arm.arm].interval, style_of(arm.index)["color"]
                if found.low is not None and found.high is not None:
                    axes.plot([found.low, found.high], [row, row], color=colour, linewidth=2)
                axes.plot(found.value, row, "o", color=colour, markersize=5)
            ends = [end for s in table.scores.values() for end in (s.interval.value, s.interval.low, s.interval.high)
                    if end is not None]  # fmt: skip
            reach = max(ends) - min(ends)  # a level of chance farther away would press the intervals flat
            if table.chance is not None and min(ends) - reach <= table.chance <= max(ends) + reach:
                axes.axvline(table.chance, color=GREY, linestyle=(0, (3, 3)), linewidth=1)
            axes.set_yticks(range(len(arms)), [arm.arm for arm in arms])
            axes.set_ylim(len(arms) - 0.5, -0.5)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.set_title(f"{table.name}: {table.metric}")
            out.append(render(figure, f"benchmark-{table.name}", f"{table.name}, {table.metric} of every arm"))
    return out


def trials(sel: Selection, expected: Mapping[str, Sequence[float]]) -> list[Plot]:
    """The expected best value against the number of trials spent on tuning."""
    if not expected or max(map(len, expected.values())) < 2:
        return []
    with mpl.rc_context(STYLE):
        figure = new(4.4, 3.0)
        axes = figure.add_subplot()
        for arm in sel.declared:
            if values := expected.get(arm.arm):
                axes.plot(
                    range(1, len(values) + 1), values, **style_of(arm.index), marker="o", markersize=3, linewidth=1.6
                )
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("trials")
        axes.set_title(f"expected best {sel.metric}")
        return [render(figure, "trials", f"expected best {sel.metric} against the number of trials")]


def sweeps(found: Sequence[Selection]) -> list[Plot]:
    """The arms of several sweeps, best first: one figure per metric that sweeps are judged by."""
    out = []
    for metric in dict.fromkeys(sel.metric for sel in found):
        rows = [(sel, arm) for sel in found if sel.metric == metric for arm in sel.arms if arm.score is not None]
        if not rows:
            continue
        with mpl.rc_context(STYLE):
            figure = new(5.3, 0.8 + 0.24 * len(rows))
            axes = figure.add_subplot()
            for row, (sel, arm) in enumerate(rows):
                colour = style_of(arm.index)["color"]
                values = list(pairs.confirm_values(sel, arm, metric).values())
                mean = mean_over_seeds(values) if values and arm.confirm else None
                if mean and mean.low is not None and mean.high is not None:
                    axes.plot([mean.low, mean.high], [row, row], color=colour, linewidth=2)
                face = colour if mean else "white"
                axes.plot(mean.value if mean else arm.score, row, "o", color=colour, markerfacecolor=face, markersize=5)
            axes.set_yticks(range(len(rows)), [f"{sel.plan.name}: {arm.arm}" for sel, arm in rows])
            axes.set_ylim(len(rows) - 0.5, -0.5)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.set_title(metric)
            out.append(render(figure, f"sweeps-{metric}", f"{metric} of every arm of every sweep"))
    return out
