"""The report's figures: an arm's look, and the learning curves.

An arm has one colour and line style everywhere, fixed by its position in the sweep file. Figures are small and many, so
that they wrap on a narrow screen instead of shrinking; those of one view share their axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.figures.svg import GREY, INK, STYLE, Plot, new, render, shown
from analysis.records.load import TrialRecord
from analysis.records.select import ArmSummary, Selection
from analysis.statistics.cost import flops_per_token
from attnlab.util.text import large_text, number, spaced, value_text

# Okabe and Ito's palette (jfly.uni-koeln.de/color), strongest on white first, its yellow darkened to be seen there.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#B5A300")
DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
X_LABELS = {"steps": "step", "tokens": "training tokens", "seconds": "seconds, validation included",
            "flops": "training FLOPs"}  # fmt: skip
LARGE, PLAIN = FuncFormatter(lambda v, _: large_text(v)), FuncFormatter(lambda v, _: f"{v:g}")
MANY = 4  # arms above which one set of axes for all trials is no longer legible


def style_of(index: int) -> dict[str, Any]:
    """Colour and line style of the arm at that position of the sweep file."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index // len(COLOURS) % len(DASHES)]}


def dasharray(index: int) -> str:
    """The arm's line style for a swatch on a page, in CSS pixels."""
    style = style_of(index)["linestyle"]
    return "none" if style == "-" else " ".join(f"{2 * length:g}" for length in style[1])


def curves(sel: Selection, view: str) -> list[Plot]:
    """The metric against `view`: all arms' best trials, above MANY also each arm alone."""
    drawn = [arm for arm in sel.declared if any(series(sel, t, view)[0] for t in arm.trials)]
    if not drawn:
        return []
    one_each = len(sel.plan.names) > MANY and view != "flops"  # there they would only repeat the steps' figures
    limits = _limits(sel, drawn, view)
    out = [_overview(sel, drawn, view, limits, others=not one_each)]
    return out + ([_single(sel, arm, drawn, view, limits) for arm in drawn] if one_each else [])


def tokens_per_step(sel: Selection) -> float | None:
    """Tokens of a step if all reports agree: then both make the same axis."""
    rows = [row for trial in sel.data.trials for row in trial.rows if row["step"]]
    ratios = {tokens / row["step"] for row in rows if (tokens := number(row.get("tokens"))) is not None}
    return ratios.pop() if len(ratios) == 1 else None


def series(sel: Selection, trial: TrialRecord, view: str) -> tuple[list[float], list[float]]:
    """A trial's curve against `view`; empty where it has none."""
    if view == "flops":
        per_token = flops_per_token(trial)
        xs, ys = trial.series("tokens", sel.metric)
        return ([x * per_token for x in xs], ys) if per_token else ([], [])
    return trial.series("step" if view == "steps" else view, sel.metric)


def _limits(sel: Selection, arms: Iterable[ArmSummary], view: str) -> dict[str, tuple[float, float]]:
    """Limits for best trials and confirm runs after their first tenth, which is steep."""
    trials = [t for arm in arms for t in arm.trials]
    lead = [t for arm in arms for t in arm.trials if t is arm.best or (t.phase, t.state) == ("confirm", "completed")]
    y = [v for ys in (series(sel, t, view)[1] for t in lead) for v in ys[len(ys) // 10 :]]
    y = y or [v for t in trials for v in series(sel, t, view)[1]]
    low, high = min(y), max(y)
    reach = 0.5 * (high - low)  # a baseline farther away would press the curves flat
    near = [b for b in sel.baselines.values() if low - reach <= b <= high + reach]
    low, high = min([low, *near]), max([high, *near])
    pad = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    far = max(v for t in trials for v in series(sel, t, view)[0] or [0.0])
    return {"x": (0.0, far * 1.03 or 1.0), "y": (low - pad, high + pad)}


def _overview(sel: Selection, arms: list[ArmSummary], view: str, limits: dict[str, Any], others: bool) -> Plot:
    with mpl.rc_context(STYLE):
        longest = max(len(arm.arm) for arm in arms)
        columns = 3 if longest <= 10 else 2 if longest <= 20 else 1
        figure = new(4.0, 3.0 + 0.19 * math.ceil(len(arms) / columns))
        axes = figure.add_subplot()
        for arm in arms:
            _arm_lines(axes, sel, arm, view, others)
        _frame(axes, sel, view, limits)
        if view == "steps" and (ratio := tokens_per_step(sel)):
            top = axes.secondary_xaxis("top", functions=(lambda x: x * ratio, lambda x: x / ratio))
            top.set_xlabel(X_LABELS["tokens"])
            top.xaxis.set_major_formatter(LARGE)
            top.xaxis.set_major_locator(MaxNLocator(5))
            top.spines["top"].set_visible(True)
        handles = [Line2D([], [], **style_of(arm.index), linewidth=2.2, label=shown(arm.arm)) for arm in arms]
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8.5)
        label = f"{sel.metric} against {X_LABELS[view]}, the best trial of {', '.join(a.arm for a in arms)}"
        return render(figure, f"curves-{view}", label)


def _single(sel: Selection, arm: ArmSummary, arms: list[ArmSummary], view: str, limits: dict[str, Any]) -> Plot:
    """One arm with all its trials, before the other arms' best in grey."""
    with mpl.rc_context(STYLE):
        figure = new(3.5, 2.45)
        axes = figure.add_subplot()
        for other in arms:
            if other is not arm and other.best:
                axes.plot(*series(sel, other.best, view), color="#c9c9c9", linewidth=1, zorder=1)
        _arm_lines(axes, sel, arm, view, others=True)
        _frame(axes, sel, view, limits)
        axes.set_title(arm.arm, color=INK)
        return render(figure, f"curves-{view}-{arm.arm}", f"{arm.arm}: {sel.metric} against {X_LABELS[view]}")


def _arm_lines(axes: Axes, sel: Selection, arm: ArmSummary, view: str, others: bool) -> None:
    look = style_of(arm.index)
    for trial in arm.trials:
        xs, ys = series(sel, trial, view)
        best = trial is arm.best
        if not xs or not (best or others):
            continue
        thin = {**look, "linestyle": ":"} if trial.phase == "confirm" else look
        width = {"linewidth": 2.2, "zorder": 3} if best else {"linewidth": 0.9, "alpha": 0.55, "zorder": 2}
        axes.plot(xs, ys, **(look if best else thin), **width)
        mark = {"pruned": "o", "diverged": "x", "failed": "+"}.get(trial.state)
        if mark:
            face = "white" if mark == "o" else look["color"]
            axes.plot(xs[-1], ys[-1], mark, color=look["color"], markerfacecolor=face, markersize=4.5, zorder=4)
        elif len(xs) == 1:
            axes.plot(xs, ys, "o", color=look["color"], markersize=3, zorder=3)


def _frame(axes: Axes, sel: Selection, view: str, limits: dict[str, Any]) -> None:
    axes.set_xlim(*limits["x"])
    axes.set_ylim(*limits["y"])
    axes.set_xlabel(X_LABELS[view])
    axes.set_ylabel(sel.metric)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(LARGE if limits["x"][1] >= 1e5 else PLAIN)
    baseline_lines(axes, sel)


def baseline_lines(axes: Axes, sel: Selection) -> None:
    """Draw the baselines that lie within the axes."""
    low, high = axes.get_ylim()
    for name, value in sel.baselines.items():
        if low <= value <= high:
            axes.axhline(value, color=GREY, linestyle=(0, (3, 3)), linewidth=1, zorder=1)
            below = value > low + 0.92 * (high - low)  # the label would leave the axes
            axes.annotate(f"{spaced(name)} {value_text(value)}", (0.995, value), fontsize=8, color="#595959",
                          xycoords=("axes fraction", "data"), xytext=(0, -3 if below else 3), ha="right",
                          textcoords="offset points", va="top" if below else "bottom", zorder=5)  # fmt: skip


def log_ticks(low: float, high: float) -> list[float]:
    """Up to about six round numbers of a logarithmic axis.

    Decades, with 2s and 5s where those are few. A narrow range gets whatever is round, or else its ends.
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [f * 10.0**d for d in decades for f in factors if low * 0.999 <= f * 10.0**d <= high * 1.001]
        if len(ticks) <= 5:
            break
    ticks = ticks[:: math.ceil(len(ticks) / 6)] if ticks else ticks
    if len(ticks) < 2:
        ticks = [float(tick) for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high]
    return ticks if len(ticks) >= 2 else [low, high]
