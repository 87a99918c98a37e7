"""Set aside what cannot be used of a sweep's folder, before it is resumed.

The rule is that of `attnlab.records.mend`. A trial's experiment_config.json is made again where its sweep tells what
was in it. A trial of which nothing tells begins anew, under another id.
"""

from __future__ import annotations

from pathlib import Path

from attnlab.config.resolved import Plan
from attnlab.plan.load import read
from attnlab.records.identity import TRIAL_ID, derived, job_of
from attnlab.records.mend import mend, set_aside
from attnlab.records.mirror import Mirror
from attnlab.records.paths import SweepDir, TrialDir
from attnlab.records.reading import Damaged, read_board
from attnlab.records.results import Job
from attnlab.util.files import write_json


def mend_sweep(plan: Plan, mirror: Mirror) -> list[str]:
    """Set aside every record that cannot be used. Returns a line for each."""
    trials, lines = _trials(mirror.folder), list[str]()
    plan = plan.rejoined(trial.arm for trial in trials)
    jobs = {trial: _job(plan, trial) for trial in trials}
    known = [job for job in jobs.values() if isinstance(job, Job)]
    for trial, job in jobs.items():
        if isinstance(job, Damaged):
            job = _made_again(plan, mirror, trial, job, known, lines)
        if job is None:
            continue
        before = _names(trial)
        _, said = mend(trial, job)
        _follow(mirror, trial, before)
        lines += said
    return [*_mend_sweep_files(mirror), *lines]


def _made_again(
    plan: Plan, mirror: Mirror, trial: TrialDir, damage: Damaged, known: list[Job], lines: list[str]
) -> Job | None:
    """Set aside an experiment_config.json and write it again, if the sweep tells what was in it."""
    job = derived(plan, trial, [each.settings for each in known if each.arm == trial.arm])
    if trial.config_file.exists():
        made = "made again from the sweep" if job else "its trial is no longer counted"
        lines.append(f"{damage}; {_aside(mirror, trial.config_file)}, {made}")
    elif job:
        lines.append(f"{damage}; made again from the sweep")
    if job:
        write_json(trial.config_file, job.model_dump(mode="json"))
        mirror.push(trial.config_file)
    return job


def fits(plan: Plan, folder: SweepDir) -> bool:
    """Whether most trials of a folder, as far as they are of the plan's arms, are the plan's. None at all fit too."""
    found = _trials(folder)
    trials = [trial for trial in found if trial.arm in plan.names]
    good = sum(isinstance(_job(plan, trial), Job) for trial in trials)
    return good * 2 > len(trials) or not found


def _mend_sweep_files(mirror: Mirror) -> list[str]:
    lines, folder = [], mirror.folder
    try:
        read_board(folder.leaderboard_file)
    except Damaged as error:
        lines.append(f"{error}; {_aside(mirror, folder.leaderboard_file)}")
    try:
        if folder.sweep_file.exists():
            read(folder.sweep_file)
    except ValueError as error:
        first = str(error).splitlines()[0].removeprefix(f"{folder.sweep_file}: ")
        lines.append(f"{folder.sweep_file}: {first}; {_aside(mirror, folder.sweep_file)}")
    return lines


def _trials(folder: SweepDir) -> list[TrialDir]:
    """Every trial's folder, also of those whose experiment_config.json is lost."""
    names = ("experiment_config.json", "results.json", "metrics.jsonl")
    found = {file.parent for name in names for file in folder.path.glob(f"*/*/{name}")}
    return [TrialDir(path) for path in sorted(found) if TRIAL_ID.fullmatch(path.name)]


def _job(plan: Plan, trial: TrialDir) -> Job | Damaged:
    try:
        return job_of(plan, trial)
    except Damaged as error:
        return error


def _aside(mirror: Mirror, path: Path) -> str:
    aside = set_aside(path)
    mirror.discard(path)
    mirror.push(aside)
    return f"set aside as {aside.name}"


def _names(trial: TrialDir) -> set[Path]:
    return {path for path in trial.path.iterdir() if path.is_file()}


def _follow(mirror: Mirror, trial: TrialDir, before: set[Path]) -> None:
    """Publish what setting aside has changed."""
    after = _names(trial)
    for gone in before - after:
        mirror.discard(gone)
    if after - before:
        mirror.push(*(after - before), trial.metrics_file)
