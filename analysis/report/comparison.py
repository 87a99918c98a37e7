"""All arms and benchmarks of a folder of sweeps, on one page and as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis.figures import outcomes
from analysis.records.load import load
from analysis.records.scores import benchmarks
from analysis.records.select import Selection, select
from analysis.report import wording
from analysis.report.page import template
from analysis.report.tables import ARM, Column, Table
from attnlab.ranking.tests import mean_over_seeds
from attnlab.util.errors import UserError
from attnlab.util.files import write_text


def holds_several(folder: Path) -> bool:
    """Whether it is no sweep's folder itself but has sweeps' folders in it."""
    return not (folder / "sweep.yaml").exists() and any(folder.glob("*/sweep.yaml"))


def write(folder: Path) -> Path:
    """Compare every sweep in the folder and return the page's path.

    Writes `comparison.html`, `comparison.csv` and, where there are any, `comparison-benchmarks.csv` there.

    Raises:
        UserError: none of the sweeps can be used.
    """
    sweeps, problems = [], []
    for path in sorted(folder.glob("*/sweep.yaml")):
        try:
            sweeps.append(select(load(path.parent)))
        except UserError as error:
            problems.append(str(error))
    if not sweeps:
        raise UserError(problems[0])
    arms, scores = arm_table(sweeps), benchmark_table(sweeps)
    answers = {sel.plan.name: " ".join(wording.answer(sel)) for sel in sweeps}
    page = folder / "comparison.html"
    write_text(page, template("comparison.html").render(
        folder=folder, table=arms, answers=answers, problems=problems, scores=scores, figures=outcomes.sweeps(sweeps)
    ))  # fmt: skip
    write_text(folder / "comparison.csv", arms.csv())
    if scores.rows:
        write_text(folder / "comparison-benchmarks.csv", scores.csv())
    return page


def benchmark_table(sweeps: Sequence[Selection]) -> Table:
    """Every arm of every sweep on every benchmark that was scored there, benchmark by benchmark."""
    rows = []
    for sel in sweeps:
        for table in benchmarks(sel).tables:
            best = table.tied()
            rows += [
                {"benchmark": table.title, "arm": arm.arm, "_index": arm.index, "metric": table.metric,
                 "sweep": sel.plan.name, "chance": table.chance, "value": table.scores[arm.arm].interval,
                 "_strong": ("value",) if arm.arm in best else ()}
                for arm in sel.declared if arm.arm in table.scores
            ]  # fmt: skip
    order = list(dict.fromkeys(row["benchmark"] for row in rows))
    rows.sort(key=lambda row: order.index(row["benchmark"]))
    columns = [Column("benchmark", "benchmark", "text"), Column("metric", "metric", "text"),
               Column("sweep", "sweep", "text"), ARM, Column("value", "value [95 %] (n)", "interval"),
               Column("chance", "chance")]  # fmt: skip
    return Table("comparison-benchmarks", columns, rows)


def arm_table(sweeps: Sequence[Selection]) -> Table:
    """Every arm of every sweep, unranked: metrics, tasks or sizes may differ."""
    rows = []
    for sel in sweeps:
        for arm in sel.arms:
            values = list(sel.confirm_values(arm, sel.metric).values())
            rows.append({"sweep": sel.plan.name, "arm": arm.arm, "rank": arm.rank, "metric": sel.metric,
                         "best": arm.value, "confirm": mean_over_seeds(values) if values else None,
                         "n_params": arm.n_params, "tokens": arm.tokens, "device_seconds": arm.device_seconds,
                         "_index": arm.index})  # fmt: skip
    columns = [Column("sweep", "sweep", "text"), ARM, Column("rank", "rank", "count"),
               Column("metric", "metric", "text"), Column("best", "best", "value"),
               Column("confirm", "confirm mean [95 %] (n)", "interval"), Column("n_params", "parameters", "large"),
               Column("tokens", "tokens", "large"), Column("device_seconds", "device-s", "seconds")]  # fmt: skip
    return Table("comparison", columns, rows)
