"""One self-contained page per sweep: no script, no network, every figure inline."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from analysis.figures import curves, interactive, outcomes, settings, svg
from analysis.records.load import SweepData, load
from analysis.records.select import Selection, select
from analysis.report import details, leaderboard, sections, wording
from attnlab.util.files import write_text
from attnlab.util.text import last_line

KINDS = ("curves-", "setting-", "trials", "benchmark-", "efficiency-")  # figures that this writes


def write_report(sweep_dir: Path) -> Path:
    """Analyse a sweep's folder and write `analysis/report.html`, `analysis/leaderboard.csv` and `analysis/figures/`.

    Returns:
        the page's path.

    Raises:
        UserError: the folder holds nothing to analyse; nothing was written.
    """
    return write(select(load(Path(sweep_dir))))


def write(sel: Selection, hover: bool = False) -> Path:
    """Write everything for a selection; figures of an earlier report that no longer exist are removed.

    Args:
        hover: also the interactive figures, for which plotly must be installed.
    """
    home = sel.data.folder.analysis
    parts = sections.gather(sel)
    figures = Figures(sel, parts)
    page = home / "report.html"
    write_text(page, render(sel, figures, parts, hover))
    write_text(home / "leaderboard.csv", leaderboard.to_csv(sel))
    for table in parts.tables.values():
        write_text(home / f"{table.name}.csv", table.csv())
    kept = {f"{plot.name}.svg" for plot in figures.all()}
    for old in (f for kind in KINDS for f in home.glob(f"figures/{kind}*.svg")):
        if old.name not in kept:
            old.unlink()
    (home / "figures").mkdir(exist_ok=True)
    for plot in figures.all():  # many, and made again at will: not worth an fsync each
        (home / "figures" / f"{plot.name}.svg").write_text(svg.file_text(plot))
    return page


class Figures:
    """Every figure of a report, by section."""

    def __init__(self, sel: Selection, parts: sections.Sections):
        # tokens are the upper axis of the steps' figure where both are the same axis
        views = [v for v in curves.X_LABELS if v != "tokens" or curves.tokens_per_step(sel) is None]
        self.curves = {view: found for view in views if (found := curves.curves(sel, view))}
        self.settings = settings.settings(sel)
        self.trials = outcomes.trials(sel, parts.expected)
        self.benchmarks = outcomes.benchmarks(sel, parts.benchmarks.tables)
        self.efficiency = outcomes.efficiency(sel, parts.efficiency) if parts.efficiency else []

    def all(self) -> list[svg.Plot]:
        grouped = [plot for group in (self.curves, self.settings) for found in group.values() for plot in found]
        return [*grouped, *self.trials, *self.benchmarks, *self.efficiency]


def render(sel: Selection, figures: Figures, parts: sections.Sections, hover: bool = False) -> str:
    """The page."""
    env = Environment(
        loader=PackageLoader("analysis.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(
        value=wording.value_text, count=wording.count_text, large=wording.large_text, seconds=wording.seconds_text,
        settings=wording.settings_text, confirm=wording.confirm_text, baseline=wording.baseline_name,
    )  # fmt: skip
    where, sweep = sel.data.folder.path, sel.plan.sweep
    again = ["python", "launch.py", str(sel.data.folder.sweep_file), "--results", "results-again"]
    return env.get_template("report.html").render(
        sel=sel,
        sweep=sweep,
        style_of=curves.style_of,
        dasharray=curves.dasharray,
        x_labels=curves.X_LABELS,
        better=wording.better_text(sel.plan.mode),
        answer=wording.answer(sel),
        caveats=wording.caveats(sel),
        edges=wording.edges(sel),
        figures=figures,
        details=details.details(sel),
        hovering=interactive.figures(sel, parts.efficiency) if hover else [],
        library=interactive.library() if hover else None,
        parts=parts,
        efficiency_errors=_errors(parts.efficiency),
        problems=[*sel.data.problems, *parts.problems],
        command=shlex.join(["python", "-m", "analysis", str(where)]),
        states=leaderboard.states_shown(sel),
        declared=_yaml(sweep.trial),
        plan=_yaml(
            sel.plan.sweep.model_dump(mode="json", include={"search", "confirm", "resources"}, exclude_none=True)
        ),
        differences={arm: _flat(tree) for arm, tree in sweep.arms.items()},
        places=wording.places(sel),
        environment=environment(sel.data),
        totals=_totals(sel),
        reproduce=shlex.join(again),
        tensorboard=shlex.join(["tensorboard", "--logdir", str(where)]),
        failed=[(t, t.results["error"]) for t in sel.data.trials if t.state == "failed"],
        diverged=[t for t in sel.data.trials if t.state == "diverged"],
        last_line=lambda error: last_line(error) or wording.NONE,
    )


def environment(data: SweepData) -> dict[str, str]:
    """What the trials ran on, by dotted key; where they differ, each value with its number of trials, or how many."""
    seen: dict[str, Counter[str]] = {}
    for results in data.results:
        for key, value in _flat(results["environment"]).items():
            if key != "pid" and not key.endswith("_at"):  # of the run, not of what it ran on
                seen.setdefault(key, Counter())[value] += 1
    out = {}
    for key, values in seen.items():
        each = "; ".join(f"{value} ({n} {'trial' if n == 1 else 'trials'})" for value, n in values.most_common())
        out[key] = next(iter(values)) if len(values) == 1 else each if len(values) <= 4 else f"{len(values)} values"
    return out


def _totals(sel: Selection) -> dict[str, Any]:
    results = sel.data.results
    return {
        "counts": {s: sum(arm.counts[s] for arm in sel.arms) for s in leaderboard.states_shown(sel)},
        "tokens": sum(r["tokens"] for r in results),
        "steps": sum(r["steps"] for r in results),
        "seconds": sum(r["seconds"] for r in results),
        "device_seconds": sum(r["device_seconds"] for r in results),
    }


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted keys; a mixer or any list stays one value, as YAML on one line."""
    out: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and key not in ("mixer", "task"):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value if isinstance(value, str) else _yaml(value, flow=True)
    return out


def _yaml(value: Any, flow: bool = False) -> str:
    text = yaml.safe_dump(
        value, sort_keys=False, allow_unicode=True, default_flow_style=flow, width=100000 if flow else 96
    )
    return text.strip().removesuffix("\n...")  # the end mark that a lone scalar gets


def _errors(tree: Mapping[str, Any] | None) -> list[str]:
    """What could not be measured, a line each."""
    out: list[str] = []
    for arm, row in (tree or {"arms": {}})["arms"].items():
        out += [f"{arm}: {row['error']}"] if row.get("error") else []
        if not row.get("error") and row.get("left_out"):
            out.append(f"{arm}: not measured at {', '.join(map(str, row['left_out']))}: the time was up")
        failed: dict[tuple[str, str], list[str]] = {}
        for point in row["points"]:
            for part in outcomes.PARTS:
                if isinstance(point.get(part), dict) and (error := point[part].get("error")):
                    failed.setdefault((part, error), []).append(str(point["length"]))
        out += [f"{arm}, {part} at {', '.join(lengths)}: {error}" for (part, error), lengths in failed.items()]
    return out
