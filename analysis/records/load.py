"""A sweep's folder as plain records, whatever state it is in.

A sweep that still runs, or whose machine died while writing, must still give a report. So nothing here raises for a
single bad file: what cannot be read becomes a line in `SweepData.problems` and the rest goes on. Only a folder that
is no sweep's, or in which nothing has ended, is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from attnlab.config.resolved import Plan
from attnlab.plan import direction
from attnlab.plan.load import read
from attnlab.ranking.candidates import final_value
from attnlab.records.identity import derived, job_of
from attnlab.records.mend import standing
from attnlab.records.metrics import learning_curve
from attnlab.records.paths import SweepDir, TrialDir
from attnlab.records.reading import ADDED_LATER, read_board
from attnlab.records.results import STATES, Job, Results, refuse_mixed_recipes
from attnlab.records.strays import stray, strays
from attnlab.util.errors import UserError
from attnlab.util.files import json_value
from attnlab.util.text import number

ALL_STATES = (*STATES, "unfinished", "unreadable")  # without results.json, and with one that cannot be used


@dataclass(frozen=True)
class TrialRecord:
    """One trial: how it ended (if it did) and all it reported."""

    arm: str
    trial_id: str
    state: str  # one of ALL_STATES
    phase: str  # search, confirm or noise
    settings: dict[str, Any]
    results: Results | None  # None while unfinished, and when unreadable
    rows: list[dict[str, Any]] = field(repr=False)  # metrics.jsonl without decay branches, oldest first

    def value(self, metric: str) -> float | None:
        """A completed trial's last value of the metric, by which settings are chosen and arms ranked; else None."""
        return number(final_value(self.results, metric)) if self.results else None

    def reached(self, metric: str) -> float | None:
        """The best value that a trial of any end reached, as `results.json` gives it."""
        return number(((self.results or {}).get("best") or {}).get(metric))

    def series(self, x: str, y: str) -> tuple[list[float], list[float]]:
        """Two columns of the reports, over the reports that have both."""
        pairs = [(number(row.get(x)), number(row.get(y))) for row in self.rows]
        whole = [(a, b) for a, b in pairs if a is not None and b is not None]
        return [a for a, _ in whole], [b for _, b in whole]


@dataclass(frozen=True)
class SweepData:
    """A sweep as declared and everything that can be read of it."""

    folder: SweepDir
    plan: Plan
    trials: list[TrialRecord]
    baselines: dict[str, float]  # those of leaderboard.json, by name
    problems: list[str]  # what could not be read, one line each

    @property
    def results(self) -> list[Results]:
        """Results of the trials that ended."""
        return [t.results for t in self.trials if t.results]


def load(path: Path) -> SweepData:
    """Read a sweep's folder.

    Raises:
        UserError: no folder, no usable sweep.yaml, or no trial that has ended.
    """
    folder, problems = SweepDir(path), []
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; give a sweep's results folder, such as results/quickstart")
    links = strays(path)
    own = [link for link in links if len(link.relative_to(path).parts) < 2 or link.is_relative_to(folder.analysis)]
    if own:
        raise stray(own[0])
    plan = _plan(folder)
    trials = []
    for trial in folder.trials():
        if link := next((link for link in links if link.is_relative_to(trial.path)), None):
            problems.append(f"{trial.arm}/{trial.trial_id}: left out: {stray(link)}")
        elif trial.arm in plan.names:
            trials.append(_trial(plan, trial, problems))
        else:
            problems.append(f"{trial.arm}/{trial.trial_id}: left out, sweep.yaml has no arm {trial.arm}")
    refuse_mixed_recipes((t.results for t in trials if t.results), path)
    if not any(t.results for t in trials):
        bad = sum(t.state == "unreadable" for t in trials)
        begun = f"{len(trials)} begun" + (f", {bad} with unreadable results.json" if bad else "")
        raise UserError(f"{path}: no trial has ended yet ({begun}); there is nothing to report")
    if wrong := direction.problem(plan):
        problems.append(f"sweep.yaml: {wrong}. Its arms are ranked and its search was led by {plan.mode}")
    return SweepData(folder, plan, trials, _baselines(folder, problems), problems)


def _plan(folder: SweepDir) -> Plan:
    """The plan by its structure alone, since the full check needs models. Raises UserError."""
    if not folder.sweep_file.exists():
        hint = "give a sweep's results folder, such as results/quickstart"
        raise UserError(f"{folder.path}: no sweep.yaml in it; {hint}")
    return read(folder.sweep_file)


def _trial(plan: Plan, trial: TrialDir, problems: list[str]) -> TrialRecord:
    """A trial by the rule of `attnlab.records.mend`, changing nothing."""

    def say(file: str, why: str) -> None:
        problems.append(f"{trial.arm}/{trial.trial_id}/{file} cannot be used: {why}")

    try:
        job: Job | None = job_of(plan, trial)
    except UserError as error:
        say("experiment_config.json", _short(error, trial.config_file))
        job = derived(plan, trial, ())
    if job is None:
        return TrialRecord(trial.arm, trial.trial_id, "unreadable", "search", {}, None, [])
    try:
        found = standing(trial, job)
    except UserError as error:  # of the machine's, such as a missing permission
        say("results.json", _short(error, trial.results_file))
        return TrialRecord(trial.arm, trial.trial_id, "unreadable", job.phase, job.settings, None, [])
    for path, why in found.damage.items():
        say(path.name, why)
    ended = trial.results_file.exists()
    state = found.results["state"] if found.results else "unreadable" if ended else "unfinished"
    rows = json_value(learning_curve(found.rows))
    return TrialRecord(trial.arm, trial.trial_id, state, job.phase, job.settings, _shown(found.results), rows)


def _shown(results: Results | None) -> Results | None:
    """Sound results with the keys that older ones lack."""
    return None if results is None else cast(Results, {**ADDED_LATER, **results})


def _short(error: UserError, path: Path) -> str:
    """The error on one line, without the path that the caller names anyway."""
    return error.problems[0].removeprefix(f"{path}: ")


def _baselines(folder: SweepDir, problems: list[str]) -> dict[str, float]:
    """The task's baselines, which only leaderboard.json keeps."""
    try:
        board = read_board(folder.leaderboard_file)
    except UserError as error:
        why = _short(error, folder.leaderboard_file)
        problems.append(f"leaderboard.json cannot be used, so baselines are not shown: {why}")
        return {}
    return dict(board["baselines"]) if board else {}
