"""Where every file of a sweep and of a trial is."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from attnlab.records.reading import Damaged, Reports, read_job, read_reports, read_results
from attnlab.records.results import Job, Results, refuse_mixed_recipes
from attnlab.util.files import remove


class Below:
    """A path below a folder's own, as an attribute of the folder."""

    def __init__(self, *names: str):
        self._names = names

    @property
    def name(self) -> str:
        """The first part of the path."""
        return self._names[0]

    def __get__(self, folder: TrialDir | SweepDir, owner: Any) -> Path:
        return folder.path.joinpath(*self._names)


@dataclass(frozen=True)
class TrialDir:
    """One trial's folder, `<results>/<sweep>/<arm>/<trial_id>/`."""

    path: Path
    config_file = Below("experiment_config.json")  # the trial as run, a `Job`
    metrics_file = Below("metrics.jsonl")  # its reports, one a line
    results_file = Below("results.json")  # how it ended; missing until then
    checkpoints = Below("checkpoints")  # `final` and those to resume from
    final = Below("checkpoints", "final")  # the exported model, as transformers loads it

    @property
    def trial_id(self) -> str:
        """The folder's name, `t<number>-<digest>`."""
        return self.path.name

    @property
    def arm(self) -> str:
        """The name of the trial's arm."""
        return self.path.parent.name

    def job(self) -> Job:
        """Read the trial as run. Raises Damaged in one line."""
        return read_job(self.config_file)

    def results(self) -> Results | None:
        """Read `results.json`; None while the trial has not ended. Raises Damaged in one line."""
        return read_results(self.results_file)

    def clear(self) -> None:
        """Remove what a process that was killed left half written. No other may be writing here."""
        for path in (*self.checkpoints.glob(".*"), *self.path.glob(".*")):
            remove(path)

    def reports(self) -> Reports:
        """Read metrics.jsonl: every sound report, and what is wrong with the other lines."""
        return read_reports(self.metrics_file)

    def metrics(self) -> list[dict[str, Any]]:
        """Every sound report, decay branches' too, oldest first. A last line cut short by a crash is left out."""
        return self.reports().rows


@dataclass(frozen=True)
class SweepDir:
    """One sweep's folder, `<results>/<sweep>/`."""

    path: Path
    sweep_file = Below("sweep.yaml")  # the resolved sweep
    preregistration_file = Below("preregistration.json")  # what was expected, as of before the first trial
    leaderboard_file = Below("leaderboard.json")  # the arms ranked
    suite_file = Below("experiment_suite_results.json")  # every trial's results in one file
    journal_file = Below("optuna.journal")  # Optuna's studies, one per arm
    ray = Below("ray")  # what Ray Tune keeps; scratch
    analysis = Below("analysis")  # the report and its tables
    verdicts_file = Below("analysis", "verdicts.json")  # what is decided between arms

    @classmethod
    def names(cls) -> set[str]:
        """What lies at the top of every sweep's folder, so that no arm may be called so."""
        return {below.name for below in vars(cls).values() if isinstance(below, Below)}

    def must_exist(self) -> None:
        """Raise FileNotFoundError if the folder of a sweep that runs is gone. Writing into it would make it anew."""
        self.sweep_file.stat()

    def trial(self, arm: str, trial_id: str) -> TrialDir:
        """One trial's folder."""
        return TrialDir(self.path / arm / trial_id)

    def trials(self, arm: str | None = None) -> list[TrialDir]:
        """Every trial that was begun, or one arm's, by arm and id."""
        arms = "*" if arm is None else escape(arm)
        return [TrialDir(file.parent) for file in sorted(self.path.glob(f"{arms}/*/experiment_config.json"))]

    def results(self) -> list[Results]:
        """Read the results of every trial that has ended; those that cannot be used are left out, with a line.

        Raises UserError where they are of two recipes.
        """
        results = []
        for trial in self.trials():
            try:
                results.append(trial.results())
            except Damaged as error:
                print(f"attnlab: left out: {error}", file=sys.stderr, flush=True)
        ended = [result for result in results if result is not None]
        refuse_mixed_recipes(ended, self.path)
        return ended
