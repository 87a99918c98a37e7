"""What of a trial's records can be used, and how the rest is set aside.

Reading commands ask `standing` and change nothing. Training and `--resume` call `mend` first: it gives each file that
cannot be used a name of its own, `NAME.damaged-N`, and says so in one line. The trial then goes on from its newest
checkpoint before which every report stands as it was written, or starts anew.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from attnlab.records.metrics import best_row, digest, due, learning_curve, steps_run
from attnlab.records.paths import TrialDir
from attnlab.records.reading import ADDED_LATER, Damaged, report_order
from attnlab.records.results import Job, Results
from attnlab.util.files import write_text


@dataclass(frozen=True)
class Standing:
    """What can be used of a trial's records."""

    results: Results | None  # how it ended, if it did
    rows: list[dict[str, Any]]  # its reports
    damage: dict[Path, str]  # file -> why it cannot be used, or not whole
    incomplete: bool = False  # results stand, but reports before them are lost


def standing(trial: TrialDir, job: Job) -> Standing:
    """What can be used of the records of `job`, read without a change."""
    damage, results = dict[Path, str](), None
    reports = trial.reports()
    rows = reports.rows
    if reports.left_out:
        damage[trial.metrics_file] = reports.left_out
    try:
        results = trial.results()
    except Damaged as error:
        damage[trial.results_file] = str(error).removeprefix(f"{trial.results_file}: ")
    if results and (why := _of_another(results, job) or _contradicts_itself(results, job)):
        damage[trial.results_file], results = why, None
    incomplete = results is not None and not _all_there(results, rows, job)
    if results and (why := _changed(results, rows, job, incomplete)):
        return Standing(None, [], dict.fromkeys((trial.results_file, trial.metrics_file), why))
    return Standing(results, rows, damage, incomplete)


def mend(trial: TrialDir, job: Job) -> tuple[Standing, list[str]]:
    """Set aside what cannot be used, so that every file left is sound. Returns what is left, and a line for each.

    Results before which reports are lost are set aside too: the trial makes both again. No other may be writing here.
    """
    found, lines = standing(trial, job), list[str]()
    damage = dict(found.damage)
    if found.incomplete:
        damage.setdefault(trial.results_file, "reports before it are lost")
    for path, why in damage.items():
        lines.append(f"{path}: {why}; set aside as {set_aside(path).name}")
        if path == trial.metrics_file:
            write_text(path, "".join(json.dumps(row) + "\n" for row in found.rows))
    return Standing(None if trial.results_file in damage else found.results, found.rows, damage), lines


def set_aside(path: Path) -> Path:
    """Rename a file to `NAME.damaged-N`, the first such name that is free."""
    aside = next(name for n in count(1) if not (name := path.with_name(f"{path.name}.damaged-{n}")).exists())
    os.replace(path, aside)
    return aside


def _of_another(results: Results, job: Job) -> str | None:
    """What names another trial than the job, if anything does."""
    whole: dict[str, Any] = {**ADDED_LATER, **results}
    mine: dict[str, Any] = {"arm": job.arm, "trial_id": job.trial_id, "phase": job.phase, "settings": job.settings}
    mine |= {"seed": job.trial.train.seed, "recipe": job.trial.recipe}
    for key, value in mine.items():
        if whole[key] != value:
            return f"{key}: {whole[key]!r}, where the trial has {value!r}"
    return None


def _contradicts_itself(results: Results, job: Job) -> str | None:
    """Why its state cannot have come about, if so."""
    state, last, train = results["state"], results["last"], job.trial.train
    if results["tokens"] != results["steps"] * job.trial.tokens_per_step:
        return f"tokens: {results['tokens']} in {results['steps']} steps of {job.trial.tokens_per_step}"
    if (results["error"] is not None) != (state == "failed"):
        return f"state: {state!r} {'with' if results['error'] else 'without'} an error"
    if state in ("completed", "pruned") and last is None:
        return f"state: {state!r} without a report"
    final = results["checkpoint"] == "checkpoints/final"
    ended = last is not None and (last["step"] == train.max_steps or train.seconds is not None)
    if final != (state == "completed") or (final and not ended):
        return f"state: {state!r} after step {last and last['step']} with checkpoint {results['checkpoint']!r}"
    if state == "diverged" and last and None not in (last.get(job.metric), last.get("train_loss")):
        return "state: 'diverged' with finite values"
    return None


def _all_there(results: Results, rows: list[dict[str, Any]], job: Job) -> bool:
    """Whether every report up to the results' last one is there."""
    curve, last = learning_curve(rows), results["last"]
    if last is None or not curve:
        return last is None and not curve
    upto = due(job, last["step"])
    return curve[-1]["step"] == last["step"] and [report_order(row) for row in rows][: len(upto)] == upto


def _changed(results: Results, rows: list[dict[str, Any]], job: Job, incomplete: bool) -> str | None:
    """Where results and reports, written from the same values, differ, if they do. Neither can be believed then."""
    by_step = {row["step"]: row for row in learning_curve(rows)}
    for key, row in (("last", results["last"]), ("best", results["best"])):
        if row and by_step.get(row["step"], row) != row:
            return f"results.json and metrics.jsonl differ at step {row['step']} ({key})"
    if not incomplete and results["best"] != best_row(rows, job.metric, job.mode):
        return "results.json has another best report than metrics.jsonl"
    if not incomplete and results["steps"] != steps_run(rows):
        return f"results.json has {results['steps']} steps, metrics.jsonl {steps_run(rows)}"
    if not incomplete and (results.get("reports") or digest(rows)) != digest(rows):
        return "results.json has the digest of other reports than those of metrics.jsonl"
    return None
