"""One self-contained page per sweep: no script, no network, every figure inline."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from analysis.efficiency import results
from analysis.figures import curves, interactive, outcomes, settings, svg
from analysis.records.load import SweepData, load
from analysis.records.select import Selection, select
from analysis.report import details, hypothesis, leaderboard, sections, wording
from attnlab.config import yaml_text
from attnlab.util import text
from attnlab.util.files import write_json, write_text

FIGURES = ("curves-", "setting-", "trials", "benchmark-", "efficiency-")  # beginnings of the files that this writes


def write_report(sweep_dir: Path) -> Path:
    """Analyse a sweep's folder and return the page's path.

    Writes `analysis/report.html`, `verdicts.json`, `leaderboard.csv`, `figures/` and a CSV file per table there.

    Raises:
        UserError: the folder holds nothing to analyse; nothing was written.
    """
    return write(select(load(Path(sweep_dir))))


def write(sel: Selection, hover: bool = False) -> Path:
    """Write page, tables and figures, for `hover` plotly's too; remove figures no longer drawn."""
    folder = sel.data.folder.analysis
    gathered = sections.gather(sel)
    figures = Figures(sel, gathered)
    page = folder / "report.html"
    write_text(page, render(sel, figures, gathered, hover))
    write_text(folder / "leaderboard.csv", leaderboard.to_csv(sel))
    write_json(sel.data.folder.verdicts_file, sel.decided[0])
    for table in gathered.tables.values():
        write_text(folder / f"{table.name}.csv", table.csv())
    drawn = {f"{plot.name}.svg": plot for plot in figures.all()}
    for old in (file for kind in FIGURES for file in folder.glob(f"figures/{kind}*.svg")):
        if old.name not in drawn:
            old.unlink()
    (folder / "figures").mkdir(exist_ok=True)
    for name, plot in drawn.items():  # many, and made again at will: not worth an fsync each
        (folder / "figures" / name).write_text(svg.file_text(plot), encoding="utf-8")
    return page


class Figures:
    """Every figure of a report, by section."""

    def __init__(self, sel: Selection, gathered: sections.Sections):
        # tokens are the upper axis of the steps' figure where both are the same axis
        views = [v for v in curves.X_LABELS if v != "tokens" or curves.tokens_per_step(sel) is None]
        self.curves = {view: plots for view in views if (plots := curves.curves(sel, view))}
        self.settings = settings.settings(sel)
        self.trials = outcomes.trials(sel, gathered.expected)
        self.benchmarks = outcomes.benchmarks(sel, gathered.benchmarks.tables)
        self.efficiency = outcomes.efficiency(sel, gathered.efficiency) if gathered.efficiency else []

    def all(self) -> list[svg.Plot]:
        """All of them."""
        grouped = [plot for group in (self.curves, self.settings) for plots in group.values() for plot in plots]
        return [*grouped, *self.trials, *self.benchmarks, *self.efficiency]


def template(name: str) -> Template:
    """A page's template, with the filters and the arms' looks that all pages use."""
    env = Environment(loader=PackageLoader("analysis.report"), autoescape=True, undefined=StrictUndefined,
                      trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    env.filters.update(
        value=text.value_text, count=text.count_text, large=text.large_text, seconds=text.seconds_text,
        settings=text.settings_text, confirm=wording.confirm_text, rank=wording.rank_text, baseline=text.spaced,
    )  # fmt: skip
    env.globals.update(style_of=curves.style_of, dasharray=curves.dasharray)
    return env.get_template(name)


def render(sel: Selection, figures: Figures, gathered: sections.Sections, hover: bool = False) -> str:
    """The page."""
    folder, trials, sweep = sel.data.folder, sel.data.trials, sel.plan.sweep
    again = ["python", "launch.py", str(folder.sweep_file), "--results", "results-again"]
    return template("report.html").render(
        sel=sel, sweep=sweep, expected=hypothesis.gather(sel), x_labels=curves.X_LABELS,
        better=wording.better_text(sel.plan.mode), answer=wording.answer(sel), ranked=wording.ranked_text(sel),
        caveats=wording.caveats(sel),
        edges=wording.edges(sel), layers=wording.layers(sel),
        figures=figures, sections=gathered, details=details.details(sel),
        hovering=interactive.figures(sel, gathered.efficiency) if hover else [],
        library=interactive.library() if hover else None,
        efficiency_errors=results.errors(gathered.efficiency),
        problems=[*sel.data.problems, *gathered.problems],
        command=shlex.join(["python", "-m", "analysis", str(folder.path)]),
        states=leaderboard.states_shown(sel), declared=_yaml(sweep.trial),
        plan=_yaml(sweep.model_dump(mode="json", include={"search", "confirm", "resources"}, exclude_none=True)),
        differences={arm: _flat(tree) for arm, tree in sweep.arms.items()},
        environment=environment(sel.data), totals=_totals(sel), reproduce=shlex.join(again),
        tensorboard=shlex.join(["tensorboard", "--logdir", str(folder.path)]),
        failed=[(t, t.results["error"]) for t in trials if t.results and t.state == "failed"],
        diverged=[t for t in trials if t.state == "diverged"],
        reason=lambda error: text.reason(error) or text.NONE,
    )  # fmt: skip


def environment(data: SweepData) -> dict[str, str]:
    """What the trials ran on, by dotted key; each value's trials where they differ."""
    seen: dict[str, Counter[str]] = {}
    for result in data.results:
        for key, value in _flat(result["environment"]).items():
            if key != "pid" and not key.endswith("_at"):  # of the run, not of what it ran on
                seen.setdefault(key, Counter())[value] += 1
    out = {}
    for key, values in seen.items():
        each = "; ".join(f"{value} ({n} {'trial' if n == 1 else 'trials'})" for value, n in values.most_common())
        out[key] = next(iter(values)) if len(values) == 1 else each if len(values) <= 4 else f"{len(values)} values"
    return out


def _totals(sel: Selection) -> dict[str, Any]:
    counts = {s: sum(arm.counts[s] for arm in sel.arms) for s in leaderboard.states_shown(sel)}
    keys = ("tokens", "steps", "seconds", "device_seconds")
    return {"counts": counts, **{key: sum(r[key] for r in sel.data.results) for key in keys}}  # type: ignore[literal-required]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted keys; a mixer, a task or a list stays YAML."""
    out: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and key not in ("mixer", "task"):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value if isinstance(value, str) else _yaml(value, flow=True)
    return out


def _yaml(value: Any, flow: bool = False) -> str:
    width = 100_000 if flow else 96
    dumped = yaml_text.dump(value, default_flow_style=flow, width=width)
    return dumped.strip().removesuffix("\n...")  # the end mark that a lone scalar gets
