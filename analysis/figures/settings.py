"""The report's figures of each sampled setting against the metric."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

from analysis.figures.curves import PLAIN, baseline_lines, log_ticks, style_of
from analysis.figures.svg import INK, STYLE, Plot, new, render
from analysis.records.load import TrialRecord
from analysis.records.select import ArmSummary, Selection
from attnlab.config.space import Dimension
from attnlab.util.text import setting_text


def settings(sel: Selection) -> dict[str, list[Plot]]:
    """By searched key one figure per arm with ended trials; they share the metric's axis."""
    if not sel.plan.sweep.search:
        return {}
    arms = [arm for arm in sel.declared if any(_searched(t) for t in arm.trials)]
    values = [v for arm in arms for t in arm.trials if _searched(t) and (v := _shown(t, sel.metric)) is not None]
    if not arms:
        return {}
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    pad = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    limits = (low - pad, high + 2 * pad)  # room at the top for trials without a value
    keys = dict.fromkeys(key for arm in arms for key in arm.space)
    return {key: [_setting(sel, arm, key, arm.space[key], limits) for arm in arms if key in arm.space] for key in keys}


def _searched(trial: TrialRecord) -> bool:
    return trial.phase == "search" and trial.results is not None


def _shown(trial: TrialRecord, metric: str) -> float | None:
    """The value a trial is drawn at: its last, or the best of a pruned one; others have none that compares."""
    return trial.reached(metric) if trial.state == "pruned" else trial.value(metric)


def _setting(sel: Selection, arm: ArmSummary, key: str, dim: Dimension, limits: tuple[float, float]) -> Plot:
    colour = style_of(arm.index)["color"]
    with mpl.rc_context(STYLE):
        figure = new(2.9, 2.15)
        axes = figure.add_subplot()
        axes.set_ylim(*limits)
        top = limits[1] - 0.035 * (limits[1] - limits[0])
        for trial in filter(_searched, arm.trials):
            x, y = _position(dim, trial.settings.get(key)), _shown(trial, sel.metric)
            if x is None:
                continue
            if y is None:
                axes.plot(x, top, "+" if trial.state == "failed" else "x", color=colour, markersize=6, clip_on=False)
            else:
                face = colour if trial.state == "completed" else "white"
                axes.plot(x, y, "o", color=colour, markerfacecolor=face, markersize=5)
                if trial is arm.best:
                    axes.plot(x, y, "o", color=INK, markerfacecolor="none", markersize=9)
        _x_axis(axes, dim)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(key)
        axes.set_ylabel(sel.metric)
        axes.set_title(arm.arm, color=INK)
        baseline_lines(axes, sel)
        return render(figure, f"setting-{key}-{arm.arm}", f"{arm.arm}: {sel.metric} against {key}")


def _position(dim: Dimension, value: Any) -> float | None:
    """A setting's value or its choice's number; None if the space lacks it."""
    if dim.kind != "choice":
        return value if dim.position(value) is not None else None
    same = [i for i, c in enumerate(dim.choices) if c == value and isinstance(c, bool) == isinstance(value, bool)]
    return float(same[0]) if same else None


def _x_axis(axes: Axes, dim: Dimension) -> None:
    if dim.kind == "choice":
        axes.set_xlim(-0.6, len(dim.choices) - 0.4)
        texts = [setting_text(choice) for choice in dim.choices]
        slanted = {"rotation": 30, "ha": "right"} if sum(map(len, texts)) > 32 else {}
        axes.set_xticks(range(len(dim.choices)), texts, **slanted)
        return
    if dim.log:
        axes.set_xscale("log")
        axes.set_xlim(dim.low / (dim.high / dim.low) ** 0.04, dim.high * (dim.high / dim.low) ** 0.04)
        axes.set_xticks(log_ticks(dim.low, dim.high))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        pad = 0.04 * (dim.high - dim.low)
        axes.set_xlim(dim.low - pad, dim.high + pad)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=dim.kind == "int"))
    axes.xaxis.set_major_formatter(PLAIN)
