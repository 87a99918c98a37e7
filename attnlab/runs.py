"""The on-disk contract: where everything of a sweep lies, and its readers and writers.

    results/<sweep>/sweep.yaml leaderboard.json experiment_suite_results.json optuna.journal ray/ analysis/
    results/<sweep>/<arm>/<trial_id>/experiment_config.json metrics.jsonl results.json checkpoints/ events...

Training writes it, analysis reads it, and `--resume` rebuilds a sweep from it; nothing else is shared between them.
Whole files are written atomically (temporary name, fsync, rename), so a reader sees the old file or the new one.
JSON here is strict: a value that is not finite is written as null.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from attnlab.config import Config, Trial

State = Literal["completed", "pruned", "diverged", "failed"]
STATES: tuple[State, ...] = ("completed", "pruned", "diverged", "failed")


# confirm: the arm's best setting again, unstopped, under another seed; noise: an arm as declared, over seeds
Phase = Literal["search", "confirm", "noise"]


class Job(Config):
    """`experiment_config.json`: one trial as handed to a slot, with what its records need beside the trial itself."""

    arm: str
    trial_id: str  # t<number>-<digest of the trial>
    number: int  # of the arm's trials, from 0
    phase: Phase = "search"
    settings: dict[str, Any] = {}  # as sampled, by dotted key
    metric: str = "val_loss"
    mode: Literal["min", "max"] = "min"
    branches: dict[int, int] = {}  # with asha.decay_rungs: step -> optimizer steps of the decay that branches off there
    trial: Trial

    @classmethod
    def make(cls, arm: str, number: int, trial: Trial, **rest: Any) -> Job:
        """A job whose id is the arm's running number and the trial's digest."""
        return cls(arm=arm, number=number, trial_id=f"t{number:03d}-{trial.digest}", trial=trial, **rest)


class Results(TypedDict):
    """`results.json`: how one trial ended."""

    trial_id: str
    arm: str
    state: State
    phase: Phase
    settings: dict[str, Any]  # as sampled, by dotted key
    seed: int
    steps: int  # optimizer steps run, those of decay branches included
    tokens: int  # of these steps
    best: dict[str, Any] | None  # the report with the best metric
    last: dict[str, Any] | None  # the last report
    seconds: float  # wall time in training, over all attempts
    device_seconds: float  # the same times the number of workers
    n_params: int | None
    n_params_non_embedding: int | None
    flops_per_token: float | None  # training's, of sequences of seq_len, the head's included (models/flops.py)
    state_bytes: int | None  # that decoding keeps after seq_len tokens, fp32 (models/state.py)
    checkpoint: str | None  # relative to the trial's folder
    error: str | None  # the traceback of a failed trial
    environment: dict[str, Any]  # device, versions, host


@dataclass(frozen=True)
class TrialDir:
    """One trial's folder, `<results>/<sweep>/<arm>/<trial_id>/`."""

    path: Path

    @property
    def trial_id(self) -> str:
        return self.path.name

    @property
    def arm(self) -> str:
        return self.path.parent.name

    @property
    def config_file(self) -> Path:
        return self.path / "experiment_config.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def results_file(self) -> Path:
        return self.path / "results.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def final(self) -> Path:
        """The exported model, as transformers loads it."""
        return self.checkpoints / "final"

    def job(self) -> Job:
        """The trial as run."""
        return Job.model_validate(read_json(self.config_file))

    def results(self) -> Results | None:
        """`results.json`, or None while the trial has not ended."""
        return read_json(self.results_file) if self.results_file.exists() else None

    def clear(self) -> None:
        """Remove what a process that was killed while it wrote has left; for the one process that writes here."""
        for left in (*self.checkpoints.glob(".*"), *self.path.glob(".*")):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)

    def metrics(self) -> list[dict[str, Any]]:
        """Every report, oldest first; a last line cut short by a crash is left out. Those of decay branches, which
        have `branch_steps`, follow the report at their rung; see `trunk`."""
        return list(read_jsonl(self.metrics_file))


@dataclass(frozen=True)
class SweepDir:
    """One sweep's folder, `<results>/<sweep>/`."""

    path: Path

    @property
    def sweep_file(self) -> Path:
        return self.path / "sweep.yaml"

    @property
    def leaderboard_file(self) -> Path:
        return self.path / "leaderboard.json"

    @property
    def suite_file(self) -> Path:
        return self.path / "experiment_suite_results.json"

    @property
    def journal_file(self) -> Path:
        return self.path / "optuna.journal"

    @property
    def ray(self) -> Path:
        return self.path / "ray"

    @property
    def analysis(self) -> Path:
        return self.path / "analysis"

    def trial(self, arm: str, trial_id: str) -> TrialDir:
        return TrialDir(self.path / arm / trial_id)

    def trials(self, arm: str | None = None) -> list[TrialDir]:
        """Every trial that was begun, by arm and id; or one arm's."""
        found = (
            (self.path / arm).glob("*/experiment_config.json") if arm else self.path.glob("*/*/experiment_config.json")
        )
        return [TrialDir(f.parent) for f in sorted(found)]

    def results(self) -> list[Results]:
        """`results.json` of every trial that has ended."""
        return [r for t in self.trials() if (r := t.results()) is not None]


def strict(value: Any) -> Any:
    """`value` with every number that is not finite as None, so that it is JSON."""
    if isinstance(value, Mapping):
        return {str(k): strict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class NoRoom(OSError):
    """The disk of the results is full, or a quota of it: no trial's fault. Says which file did not fit."""


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Around writing `path`: a full disk is NoRoom."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and not isinstance(error, NoRoom):
            raise NoRoom(error.errno, os.strerror(error.errno), str(path)) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write a whole file atomically; its folder is made if missing. Raises NoRoom."""
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)  # mkstemp's 0600 would hide results from the group on shared storage
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON atomically."""
    write_text(path, json.dumps(strict(value), indent=1, allow_nan=False) + "\n")


def write_lines(path: Path, values: Iterable[Any]) -> None:
    """Write a list as strict JSON atomically, one value a line: the encoder that indents takes ten times as long."""
    lines = ",\n".join(json.dumps(strict(value), allow_nan=False) for value in values)
    write_text(path, f"[\n{lines}\n]\n")


def last_line(error: str | None) -> str:
    """What a traceback, such as `Results.error`, says in the end; "" if there is none."""
    lines = [line.strip() for line in (error or "").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def read_json(path: Path) -> Any:
    """A JSON file's value. Raises ValueError naming the file when it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: damaged JSON ({error})") from None


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Values of a JSON-lines file, up to the first line that is not whole."""
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return


class MetricsWriter:
    """Appends reports to `metrics.jsonl`, one flushed line each; steps strictly increase, also over resumes."""

    def __init__(self, trial: TrialDir, resumed_step: int):
        """Keeps the rows up to `resumed_step` (0: none): later ones came after the checkpoint and are made again, and
        so did a branch from that step."""
        trial.path.mkdir(parents=True, exist_ok=True)
        kept = [row for row in trial.metrics() if place(row) <= (resumed_step, False)]
        self.rows = kept
        write_text(trial.metrics_file, "".join(json.dumps(row) + "\n" for row in kept))
        self._path = trial.metrics_file

    def write(self, row: dict[str, Any]) -> dict[str, Any]:
        """Append one report; returns it as written. Raises NoRoom; half a line is then left out by the next reader."""
        row = strict(row)
        assert not self.rows or place(row) > place(self.rows[-1]), f"step {row['step']} reported twice"
        with room_for(self._path), self._path.open("a") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
        self.rows.append(row)
        return row


def place(row: Mapping[str, Any]) -> tuple[int, bool]:
    """Where a report stands in a trial's order: a branch comes after the trunk's report at its rung."""
    return row["step"], "branch_steps" in row


def trunk(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The reports without those of decay branches: one learning curve."""
    return [row for row in rows if "branch_steps" not in row]


def steps_run(rows: Iterable[Mapping[str, Any]]) -> int:
    """Optimizer steps behind the reports: the trunk's and every branch's."""
    rows = list(rows)
    return max((row["step"] for row in rows), default=0) + sum(row.get("branch_steps", 0) for row in rows)


def judged(job: Job, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The reports that say how good a trial is on its way: of a trial with decay branches these alone, since its trunk
    is compared before its decay."""
    return [row for row in rows if "branch_steps" in row] if job.branches else list(rows)


def best_row(rows: list[dict[str, Any]], metric: str, mode: str) -> dict[str, Any] | None:
    """The trunk's report with the best finite `metric`, the earliest of equals; None if there is none. A branch's model
    is not kept, so its value is nobody's best."""
    valued = [row for row in trunk(rows) if row.get(metric) is not None]
    pick = min if mode == "min" else max
    return pick(valued, key=lambda row: row[metric]) if valued else None


def better(a: float, b: float, mode: str) -> bool:
    """Whether value `a` is better than `b`."""
    return a < b if mode == "min" else a > b
