"""Results of benchmarks on disk; what was scored before is read from there.

    <sweep>/analysis/benchmarks/<checkpoint>-<benchmark>-<dtype>.json    one result each, by digests
    <sweep>/analysis/benchmarks/overlap-<corpus>-<benchmark>.json        which items are in the training text
    <sweep>/analysis/benchmark_results.json                              those of the arms examined last, with all items
    <sweep>/all_benchmark_results.json                                   every result ever had here, without the items

A result: `benchmark` (the exam's name), `digest`, `version`, `source`, `checkpoint` (digest), `dtype`, `n`, `n_all`,
`limited`, `metric` (the exam's own) with its `value`, `chance` and `higher_is_better`, `metrics` (all of them, with
`how` and `column` that say how the value comes from the columns), and `items`: `id` and every column, one entry per
item, so that arms can be compared pairwise on the same items. benchmark_results.json has also `overlap`, as
`analysis.statistics.overlap.scan` gives it, where the checkpoint was trained on text and the items are text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import Progress

from analysis.scoring.exam import Exam, value_of
from analysis.scoring.targets import Target
from analysis.statistics.overlap import scan
from attnlab.records.paths import SweepDir
from attnlab.tasks import build_task
from attnlab.util.files import json_value, read_json, write_json, write_text
from attnlab.util.text import first_line

FORMAT = 1  # of the files; another one in a cached result has it made again


@dataclass
class Report:
    """`benchmark_results.json`, and what could not be had, one line each."""

    tree: dict[str, Any]
    problems: list[str] = field(default_factory=list)

    def collect(self, folder: SweepDir) -> None:
        """Write `all_benchmark_results.json`: a row per result of the sweep's checkpoints, without items.

        `arm` and `trial_id` are known where the checkpoint is one of those just examined.
        """
        examined = self.tree["arms"].items()
        whose = {row["checkpoint"]: (arm, row["trial_id"]) for arm, row in examined}
        overlaps = {(row["checkpoint"], r["digest"]): r.get("overlap")
                    for _, row in examined for r in row["benchmarks"].values()}  # fmt: skip
        rows = []
        for path in sorted((folder.analysis / "benchmarks").glob("*.json")):
            if result := read_result(path):
                arm, trial_id = whose.get(result["checkpoint"], (None, None))
                rows.append({"arm": arm, "trial_id": trial_id, **_without_items(result)})
                if overlap := overlaps.get((result["checkpoint"], result["digest"])):
                    rows[-1]["overlap"] = _without_items(overlap)
        rows.sort(key=lambda row: (row["benchmark"], row["arm"] or "", row["checkpoint"]))
        write_json(folder.path / "all_benchmark_results.json", rows)


def result_of(exam: Exam, columns: Mapping[str, Sequence[Any]], checkpoint: str, dtype: str) -> dict[str, Any]:
    """An exam's result from a checkpoint's answers."""
    metrics = {
        name: {"value": value_of(metric, name, columns), **vars(metric), "column": metric.column or name}
        for name, metric in exam.metrics.items()
    }
    first = next(iter(metrics))
    return {
        "format": FORMAT, "benchmark": exam.name, "digest": exam.digest, "version": exam.version,
        "source": exam.source, "checkpoint": checkpoint, "dtype": dtype,
        "n": len(exam.ids), "n_all": exam.n_all, "limited": exam.limited, "metric": first,
        **{key: metrics[first][key] for key in ("value", "chance", "higher_is_better")}, "metrics": metrics,
        "items": {"id": list(exam.ids), **{name: list(column) for name, column in columns.items()}},
    }  # fmt: skip


def read_result(path: Path) -> dict[str, Any] | None:
    """A result of an earlier run; None if there is none that can be read."""
    try:
        result = read_json(path)
        return result if result["format"] == FORMAT and result["items"] and result["metrics"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_compact(path: Path, tree: Any) -> None:
    """Write strict JSON on one line: the items of an exam are many."""
    write_text(path, json.dumps(json_value(tree), allow_nan=False, separators=(",", ":")) + "\n")


def _without_items(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if key != "items"}


def add_overlaps(
    answered: Sequence[tuple[Target, Exam]], arms: Mapping[str, Any], folder: Path, fresh: bool, bar: Progress
) -> list[str]:
    """Give the results of `arms` their `overlap`; return a line per missing corpus.

    Every corpus is read once, for all exams that were not compared with it yet. Files: overlap-<corpus>-<exam>.json.
    """
    by_corpus: dict[str, list[tuple[Target, Exam]]] = {}
    for target, exam in answered:
        if exam.texts and target.job and target.job.trial.task.name == "text":
            by_corpus.setdefault(target.job.trial.task.model_dump_json(), []).append((target, exam))
    problems = []
    for group in by_corpus.values():
        try:
            task = group[0][0].job.trial.task  # type: ignore[union-attr]
            packed = build_task(task, batch_size=1, seed=0).packed  # type: ignore[attr-defined]
        except (ValueError, OSError) as error:
            problems.append(f"overlap: the training text cannot be had ({first_line(error)})")
            continue
        files = {exam.digest: folder / f"overlap-{packed.path.name}-{exam.digest}.json" for _, exam in group}
        texts = {exam.digest: exam.texts for _, exam in group}
        known = {d: None if fresh else _read_overlap(files[d], len(items)) for d, items in texts.items()}
        if unknown := {digest: items for digest, items in texts.items() if known[digest] is None}:
            row = bar.add_task("looking for the items in the training text", total=len(packed.train))
            for digest, overlap in scan(unknown, packed, lambda n, row=row: bar.advance(row, n)).items():  # type: ignore[misc]
                known[digest] = overlap
                write_text(files[digest], json.dumps(overlap) + "\n")
            bar.remove_task(row)
        for target, exam in group:
            results = arms[target.label]["benchmarks"]
            results[exam.name] = {**results[exam.name], "overlap": known[exam.digest]}
    return problems


def _read_overlap(path: Path, n: int) -> dict[str, Any] | None:
    try:
        overlap = read_json(path)
        return overlap if len(overlap["items"]) == overlap["n"] == n else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
