"""Where every file of a sweep and of a trial is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from attnlab.records.results import Job, Results, refuse_mixed_recipes
from attnlab.util.errors import UserError
from attnlab.util.files import read_json, read_jsonl, remove


@dataclass(frozen=True)
class TrialDir:
    """One trial's folder, `<results>/<sweep>/<arm>/<trial_id>/`."""

    path: Path

    @property
    def trial_id(self) -> str:
        """`t<number>-<digest>`, the folder's name."""
        return self.path.name

    @property
    def arm(self) -> str:
        """The arm it is of."""
        return self.path.parent.name

    @property
    def config_file(self) -> Path:
        """The trial as run, a `Job`."""
        return self.path / "experiment_config.json"

    @property
    def metrics_file(self) -> Path:
        """Its reports, one a line."""
        return self.path / "metrics.jsonl"

    @property
    def results_file(self) -> Path:
        """How it ended; missing until then."""
        return self.path / "results.json"

    @property
    def checkpoints(self) -> Path:
        """`final/` and those to resume from."""
        return self.path / "checkpoints"

    @property
    def final(self) -> Path:
        """The exported model, as transformers loads it."""
        return self.checkpoints / "final"

    def job(self) -> Job:
        """The trial as run. Raises ValueError in one line."""
        try:
            return Job.model_validate(read_json(self.config_file))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise UserError(f"{self.config_file}: {key}: {first['msg'].removeprefix('Value error, ')}") from None

    def results(self) -> Results | None:
        """`results.json`, or None while the trial has not ended."""
        return read_json(self.results_file) if self.results_file.exists() else None

    def clear(self) -> None:
        """Remove what a process left that was killed while it wrote. No other may be writing here."""
        for path in (*self.checkpoints.glob(".*"), *self.path.glob(".*")):
            remove(path)

    def metrics(self) -> list[dict[str, Any]]:
        """Every report, those of decay branches too, oldest first; a last line cut short by a crash is left out."""
        return list(read_jsonl(self.metrics_file))


@dataclass(frozen=True)
class SweepDir:
    """One sweep's folder, `<results>/<sweep>/`."""

    path: Path

    @property
    def sweep_file(self) -> Path:
        """The resolved sweep."""
        return self.path / "sweep.yaml"

    @property
    def leaderboard_file(self) -> Path:
        """The arms ranked."""
        return self.path / "leaderboard.json"

    @property
    def suite_file(self) -> Path:
        """Every trial's results in one file."""
        return self.path / "experiment_suite_results.json"

    @property
    def journal_file(self) -> Path:
        """Optuna's studies, one per arm."""
        return self.path / "optuna.journal"

    @property
    def ray(self) -> Path:
        """What Ray Tune keeps; scratch."""
        return self.path / "ray"

    @property
    def analysis(self) -> Path:
        """The report and its tables."""
        return self.path / "analysis"

    def trial(self, arm: str, trial_id: str) -> TrialDir:
        """One trial's folder."""
        return TrialDir(self.path / arm / trial_id)

    def trials(self, arm: str | None = None) -> list[TrialDir]:
        """Every trial that was begun, by arm and id; or one arm's."""
        pattern = "*/experiment_config.json"
        configs = (self.path / arm).glob(pattern) if arm else self.path.glob(f"*/{pattern}")
        return [TrialDir(file.parent) for file in sorted(configs)]

    def results(self) -> list[Results]:
        """Read `results.json` of every trial that has ended. Raises UserError where they are of two recipes."""
        results = [r for t in self.trials() if (r := t.results()) is not None]
        refuse_mixed_recipes(results, self.path)
        return results
