"""A folder of several sweeps: all their arms and benchmarks on one page, and as CSV."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from analysis.figures import curves, outcomes
from analysis.records.load import load
from analysis.records.select import Selection, select
from analysis.report import wording
from analysis.report.tables import Column, Table
from analysis.statistics import pairs
from analysis.statistics.pairs import confirm_values
from attnlab.ranking import tests
from attnlab.util.errors import UserError
from attnlab.util.files import write_text


def holds_several(folder: Path) -> bool:
    """Whether it is no sweep's folder itself but has sweeps' folders in it."""
    return not (folder / "sweep.yaml").exists() and any(folder.glob("*/sweep.yaml"))


def write(folder: Path) -> Path:
    """Compare every sweep in the folder; `comparison.html`, `comparison.csv` and, where there are any,
    `comparison-benchmarks.csv` are written there.

    Raises:
        UserError: none of them can be used.
    """
    found, problems = [], []
    for path in sorted(folder.glob("*/sweep.yaml")):
        try:
            found.append(select(load(path.parent)))
        except UserError as error:
            problems.append(str(error))
    if not found:
        raise UserError(problems[0])
    table, scores = compared(found), benchmarks(found)
    env = Environment(loader=PackageLoader("analysis.report"), autoescape=True, undefined=StrictUndefined,
                      trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    page = folder / "comparison.html"
    answers = {sel.plan.name: " ".join(wording.answer(sel)) for sel in found}
    text = env.get_template("suite.html").render(folder=folder, table=table, answers=answers, problems=problems,
                                                 style_of=curves.style_of, dasharray=curves.dasharray, scores=scores,
                                                 figures=outcomes.sweeps(found))  # fmt: skip
    write_text(page, text)
    write_text(folder / "comparison.csv", table.csv())
    if scores.rows:
        write_text(folder / "comparison-benchmarks.csv", scores.csv())
    return page


def benchmarks(found: list[Selection]) -> Table:
    """Every arm of every sweep on every benchmark that was scored there, benchmark by benchmark."""
    rows = []
    for sel in found:
        for table in pairs.benchmarks(sel).tables:
            best = table.tied()
            for arm in sel.declared:
                if arm.arm in table.scores:
                    rows.append({"benchmark": table.name + (" (limited)" if table.limited else ""), "arm": arm.arm,
                                 "_index": arm.index, "metric": table.metric, "sweep": sel.plan.name,
                                 "chance": table.chance, "value": table.scores[arm.arm].interval,
                                 "_strong": ("value",) if arm.arm in best else ()})  # fmt: skip
    order = list(dict.fromkeys(row["benchmark"] for row in rows))
    rows.sort(key=lambda row: order.index(row["benchmark"]))
    columns = [Column("benchmark", "benchmark", "text"), Column("metric", "metric", "text"),
               Column("sweep", "sweep", "text"), Column("arm", "arm", "arm"),
               Column("value", "value [95 %] (n)", "interval"), Column("chance", "chance")]  # fmt: skip
    return Table("comparison-benchmarks", columns, rows)


def compared(found: list[Selection]) -> Table:
    """Every arm of every sweep. Values of different metrics, tasks or sizes stand beside each other, unranked."""
    rows = []
    for sel in found:
        for arm in sel.arms:
            interval = None
            if values := list(confirm_values(sel, arm, sel.metric).values()):
                interval = tests.mean_over_seeds(values)
            rows.append({"sweep": sel.plan.name, "arm": arm.arm, "rank": arm.rank, "metric": sel.metric,
                         "best": arm.value, "confirm": interval, "n_params": arm.n_params, "tokens": arm.tokens,
                         "device_seconds": arm.device_seconds, "_index": arm.index})  # fmt: skip
    columns = [Column("sweep", "sweep", "text"), Column("arm", "arm", "arm"), Column("rank", "rank", "count"),
               Column("metric", "metric", "text"), Column("best", "best", "value"),
               Column("confirm", "confirm mean [95 %] (n)", "interval"), Column("n_params", "parameters", "large"),
               Column("tokens", "tokens", "large"), Column("device_seconds", "device-s", "seconds")]  # fmt: skip
    return Table("comparison", columns, rows)
