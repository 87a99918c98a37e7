"""A sweep's folder as plain records, whatever state it is in.

A sweep that still runs, or whose machine died while writing, must still give a report. So nothing here raises for a
single bad file: what cannot be read becomes a line in `SweepData.problems` and the rest goes on. Only a folder that
is no sweep's, or in which nothing has ended, is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from attnlab.config.resolved import Plan
from attnlab.plan import direction
from attnlab.plan.load import read
from attnlab.records.metrics import learning_curve
from attnlab.records.paths import SweepDir, TrialDir
from attnlab.records.results import STATES, Phase, Results, refuse_mixed_recipes
from attnlab.util.errors import UserError
from attnlab.util.files import json_value, read_json
from attnlab.util.text import number

UNREADABLE = object()
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
        """The best value of the metric as `results.json` gives it."""
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
    plan = _plan(folder)
    trials = []
    for trial in folder.trials():
        if trial.arm in plan.names:
            trials.append(_trial(trial, problems))
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
    """The plan by its structure alone, since the full check needs models."""
    if not folder.sweep_file.exists():
        hint = "give a sweep's results folder, such as results/quickstart"
        raise UserError(f"{folder.path}: no sweep.yaml in it; {hint}")
    try:
        return read(folder.sweep_file)
    except UserError as error:
        raise UserError(error.problems[0]) from None
    except ValidationError as error:
        raise UserError(f"{folder.sweep_file}: {_short(error)}") from None


def _trial(trial: TrialDir, problems: list[str]) -> TrialRecord:
    def attempt(file: str, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (ValueError, OSError) as error:
            reason = _short(error).removeprefix(f"{trial.path / file}: ")
            problems.append(f"{trial.arm}/{trial.trial_id}/{file} cannot be used: {reason}")
            return UNREADABLE

    job = attempt("experiment_config.json", trial.job)
    rows = attempt("metrics.jsonl", lambda: _rows(trial))
    results = attempt("results.json", lambda: _sound(trial, trial.results()))
    state = "unreadable" if results is UNREADABLE else results["state"] if results else "unfinished"
    job, rows, results = (None if value is UNREADABLE else value for value in (job, rows, results))
    settings = results["settings"] if results else job.settings if job else {}
    phase = results["phase"] if results else job.phase if job else "search"
    return TrialRecord(trial.arm, trial.trial_id, state, phase, settings, results, rows or [])


def _rows(trial: TrialDir) -> list[dict[str, Any]]:
    rows = [row for row in trial.metrics() if isinstance(row, dict) and number(row.get("step")) is not None]
    return json_value(learning_curve(rows))


def _short(error: Exception) -> str:
    """The error on one line, without the path that the caller names anyway."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    text = str(error)
    return text.rpartition("damaged JSON (")[2].removesuffix(")") if "damaged JSON (" in text else text.split("\n")[0]


def _sound(trial: TrialDir, raw: Any) -> Results | None:
    """`results.json` with every field the contract names, of the kind it names. Raises ValueError."""
    if raw is None:
        return None
    if not isinstance(raw, dict):
        raise ValueError("it is no mapping")
    raw = {"flops_per_token": None, "state_bytes": None, "recipe": 1} | raw  # added later than the rest
    if missing := [key for key in Results.__annotations__ if key not in raw]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    for key, known in (("state", STATES), ("phase", get_args(Phase))):
        if raw[key] not in known:
            raise ValueError(f"unknown {key} {raw[key]!r}")
    for key in ("steps", "tokens", "seconds", "device_seconds"):
        if number(raw[key]) is None:
            raise ValueError(f"{key} is no number: {raw[key]!r}")
    for key in ("best", "last", "settings"):
        if not isinstance(raw[key], dict) and (raw[key] is not None or key == "settings"):
            raise ValueError(f"{key} is no mapping: {raw[key]!r}")
    out = json_value({**raw, "arm": trial.arm, "trial_id": trial.trial_id})
    for key in ("best", "last"):
        out[key] = out[key] and {k: number(v) for k, v in out[key].items()}
    for key in ("n_params", "n_params_non_embedding", "flops_per_token", "state_bytes"):
        out[key] = number(out[key])
    out["environment"] = out["environment"] if isinstance(out["environment"], dict) else {}
    return out


def _baselines(folder: SweepDir, problems: list[str]) -> dict[str, float]:
    """The task's baselines, which only leaderboard.json keeps."""
    if not folder.leaderboard_file.exists():
        return {}
    try:
        baselines = read_json(folder.leaderboard_file)["baselines"]
        return {str(k): v for k, v in baselines.items() if number(v) is not None}
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        problems.append(f"leaderboard.json cannot be used, so baselines are not shown: {_short(error)}")
        return {}
