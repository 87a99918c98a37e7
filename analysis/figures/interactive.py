"""The page's figures to zoom and hover over, by plotly, with `--interactive`.

plotly.js (some 5 MB) is put into the page once, so that the page still asks for nothing from outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from importlib.util import find_spec
from statistics import median
from typing import Any

from markupsafe import Markup

from analysis.efficiency.results import WORKLOADS, runs_of
from analysis.figures import curves
from analysis.records.select import ArmSummary, Selection
from attnlab.util.text import settings_text

DASHES = ("solid", "dash", "dot", "dashdot")  # as `curves.DASHES`
BUTTONS = [["zoom2d", "pan2d", "resetScale2d", "toImage"]]  # none that would send data anywhere
CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtons": BUTTONS}


def available() -> bool:
    """Whether plotly is installed (`pip install attnlab[interactive]`)."""
    return find_spec("plotly") is not None


def library() -> Markup:
    """plotly.js as a `<script>` element."""
    from plotly.offline import get_plotlyjs

    return Markup(f"<script>{get_plotlyjs()}</script>")


def figures(sel: Selection, tree: Mapping[str, Any] | None) -> list[Markup]:
    """Every trial's curve, every trial's settings, and (where measured) speed against length: a `<div>` each."""
    drawn = [_curves(sel), _settings(sel), _speed(sel, tree) if tree else None]
    out = []
    for i, figure in enumerate(f for f in drawn if f is not None):
        figure.update_layout(template="plotly_white", margin={"l": 60, "r": 20, "t": 60, "b": 50}, height=460)
        how = {"include_plotlyjs": False, "full_html": False, "config": CONFIG, "default_width": "100%"}
        out.append(Markup(figure.to_html(div_id=f"interactive-{i}", **how)))
    return out


def _look(arm: ArmSummary, **more: Any) -> dict[str, Any]:
    """A line as everywhere else: the arm's colour and dash."""
    dash = DASHES[arm.index // len(curves.COLOURS) % len(DASHES)]
    return {"color": curves.COLOURS[arm.index % len(curves.COLOURS)], "dash": dash, **more}


def _text(text: str) -> str:
    """A text as plotly shows it, which reads some HTML and, in a hover text, `%{...}`."""
    return escape(text).replace("%{", "%&#123;")


def _curves(sel: Selection) -> Any:
    import plotly.graph_objects as go

    figure, shown = go.Figure(), []
    for view in curves.X_LABELS:
        for arm in sel.declared:
            for trial in arm.trials:
                x, y = curves.series(sel, trial, view)
                if not x:
                    continue
                best, chosen = trial is arm.best, _text(settings_text(trial.settings))
                label = f"{_text(arm.arm)}, {trial.trial_id} ({trial.state})<br>{chosen}"
                figure.add_scatter(
                    x=x, y=y, mode="lines+markers" if best or len(x) == 1 else "lines", name=_text(arm.arm),
                    legendgroup=arm.arm, showlegend=best, opacity=1 if best else 0.5,
                    line=_look(arm, width=2.6 if best else 1), marker={"size": 4},
                    hovertemplate=f"{label}<br>%{{x}}: %{{y:.4f}}<extra></extra>",
                )  # fmt: skip
                shown.append(view)
    if not shown:
        return None
    figure.update_layout(yaxis_title=sel.metric)
    _choose(figure, shown, curves.X_LABELS, axis=True)
    return figure


def _settings(sel: Selection) -> Any:
    """Each search trial as a line over its settings, if two or more are searched."""
    import plotly.graph_objects as go

    keys = list(dict.fromkeys(key for arm in sel.declared for key in arm.space))
    rows = [(arm, t) for arm in sel.declared for t in arm.trials
            if t.phase == "search" and t.reached(sel.metric) is not None]  # fmt: skip
    if len(keys) < 2 or len(rows) < 2:
        return None
    arms = [arm.arm for arm in sel.declared]
    dimensions = [{"label": "arm", "values": [arms.index(arm.arm) for arm, _ in rows], "tickvals": [*range(len(arms))],
                   "ticktext": [*map(_text, arms)]}]  # fmt: skip
    for key in keys:
        values = [t.settings.get(key) for _, t in rows]
        if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
            dimensions.append({"label": key, "values": values})
        else:
            choices = sorted({str(v) for v in values})
            ticks = {"tickvals": [*range(len(choices))], "ticktext": choices}
            dimensions.append({"label": key, "values": [choices.index(str(v)) for v in values], **ticks})
    reached = [t.reached(sel.metric) for _, t in rows]
    dimensions.append({"label": sel.metric, "values": reached})
    line = {"color": reached, "colorscale": "Cividis", "reversescale": sel.plan.mode == "min", "showscale": True}
    return go.Figure(go.Parcoords(dimensions=dimensions, line=line))


def _speed(sel: Selection, tree: Mapping[str, Any]) -> Any:
    import plotly.graph_objects as go

    figure, shown = go.Figure(), []
    for workload in WORKLOADS:
        for arm in sel.declared:
            runs = dict(sorted(runs_of(tree, arm.arm, workload).items()))
            if not runs:
                continue
            middle = [median(each) for each in runs.values()]
            errors = {"array": [max(each) - m for each, m in zip(runs.values(), middle, strict=True)],
                      "arrayminus": [m - min(each) for each, m in zip(runs.values(), middle, strict=True)]}  # fmt: skip
            name = _text(arm.arm)
            figure.add_scatter(x=list(runs), y=middle, mode="lines+markers", name=name, line=_look(arm, width=2),
                               error_y=errors,
                               hovertemplate=f"{name}<br>%{{x}}: %{{y:,.0f}} tokens/s<extra></extra>")  # fmt: skip
            shown.append(workload)
    if not shown:
        return None
    figure.update_xaxes(type="log", title="sequence length")
    figure.update_yaxes(type="log", title="tokens/s")
    _choose(figure, shown, WORKLOADS, axis=False)
    return figure


def _choose(figure: Any, shown: list[str], labels: Mapping[str, str], axis: bool) -> None:
    """Add a menu of views; `shown` has each line's view."""
    buttons = []
    for view, label in ((view, label) for view, label in labels.items() if view in shown):
        args = [{"visible": [v == view for v in shown]}, {"xaxis.title.text": label} if axis else {}]
        buttons.append({"label": label, "method": "update", "args": args})
    for trace, visible in zip(figure.data, buttons[0]["args"][0]["visible"], strict=True):
        trace.visible = visible
    if axis:
        figure.update_xaxes(title=buttons[0]["label"])
    above = {"x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}
    figure.update_layout(updatemenus=[{"buttons": buttons, "active": 0, "showactive": True, **above}])
