"""A trial's reports in `metrics.jsonl`, where a decay branch's (`branch_steps`) follows its rung's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from attnlab.records.paths import TrialDir
from attnlab.records.reading import report_order
from attnlab.records.results import Job
from attnlab.util.files import json_digest, json_value, naming_full_disk, write_text
from attnlab.util.text import number


class MetricsWriter:
    """Appends reports to `metrics.jsonl`, one flushed line each. Steps increase strictly, also over resumes."""

    def __init__(self, trial: TrialDir, resumed_step: int):
        """Keep the rows up to `resumed_step` (0: none). Later ones, and a branch from that step, are made again."""
        trial.path.mkdir(parents=True, exist_ok=True)
        self.rows = up_to(trial.metrics(), resumed_step)
        write_text(trial.metrics_file, "".join(json.dumps(row) + "\n" for row in self.rows))
        self._path = trial.metrics_file

    def write(self, row: dict[str, Any]) -> dict[str, Any]:
        """Append one report and return it as written. Raises DiskFull (readers leave out half a line)."""
        row = json_value(row)
        assert not self.rows or report_order(row) > report_order(self.rows[-1]), f"step {row['step']} reported twice"
        with naming_full_disk(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
        self.rows.append(row)
        return row


def up_to(rows: Iterable[dict[str, Any]], step: int) -> list[dict[str, Any]]:
    """The reports up to that of a step, without a branch from there. They precede a checkpoint of the step."""
    return [row for row in rows if report_order(row) <= (step, False)]


def precede(rows: Iterable[dict[str, Any]], state: Mapping[str, Any], job: Job) -> bool:
    """Whether the reports before a checkpoint are all there, and as they were, by its `state`.

    Older checkpoints keep no digest of them: then every report that was due must be there.
    """
    if number(state.get("seconds")) is None:
        return False
    if "reports" in state:
        return bool(before(rows, state["step"])["reports"] == state["reports"])
    return [report_order(row) for row in up_to(rows, state["step"])] == due(job, state["step"])


def before(rows: Iterable[dict[str, Any]], step: int) -> dict[str, str]:
    """What a checkpoint of a step keeps of the reports before it: their digest."""
    return {"reports": digest(up_to(rows, step))}


def digest(rows: list[dict[str, Any]]) -> str:
    """What shows a change in any value of the reports."""
    return json_digest(rows)


def due(job: Job, step: int) -> list[tuple[int, bool]]:
    """The orders of the reports that a job makes up to that of a step, its last or one of its schedule."""
    regular = {*range(job.trial.train.eval_every, step, job.trial.train.eval_every), *([step] if step else [])}
    branches = [(rung, True) for rung in job.branches if rung < step]
    return sorted([*((each, False) for each in regular), *branches])


def learning_curve(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The reports without those of decay branches."""
    return [row for row in rows if "branch_steps" not in row]


def steps_run(rows: Iterable[Mapping[str, Any]]) -> int:
    """Optimizer steps behind the reports: the main run's and every branch's."""
    rows = list(rows)
    return max((int(row["step"]) for row in rows), default=0) + sum(int(row.get("branch_steps", 0)) for row in rows)


def pruning_reports(job: Job, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The reports by which a trial may be pruned: of its decay branches, if any."""
    return [row for row in rows if "branch_steps" in row] if job.branches else list(rows)


def best_row(rows: list[dict[str, Any]], metric: str, mode: str) -> dict[str, Any] | None:
    """The report with the best finite `metric`, the earliest of equals, if any."""
    # a branch's model is not kept, so its value is nobody's best
    valued = [row for row in learning_curve(rows) if row.get(metric) is not None]
    return (min if mode == "min" else max)(valued, key=lambda row: row[metric], default=None)


def better(a: float, b: float, mode: str) -> bool:
    """Whether value `a` is better than `b`."""
    return a < b if mode == "min" else a > b
