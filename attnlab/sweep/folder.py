"""Check whether a sweep may go on with the folder that has its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from attnlab.config.resolved import Plan
from attnlab.config.sweep_file import dump
from attnlab.plan import direction
from attnlab.plan.load import read
from attnlab.plan.provenance import UNKNOWN_FILES, Provenance
from attnlab.records.lock import Lock
from attnlab.records.mirror import Mirror, mirror
from attnlab.records.paths import SweepDir
from attnlab.records.strays import stray, strays
from attnlab.sweep.mend import fits
from attnlab.util.errors import StorageError, UserError
from attnlab.util.files import write_text
from attnlab.util.text import one_line, quoted, say_once

STATEMENTS = ("description", "hypothesis", "claims", "sesoi", "baseline")  # no trial depends on them


def sweep_mirror(plan: Plan, results: str | Path) -> Mirror:
    """A sweep's folder, of which nothing is read yet. Raises UserError for storage that is not known."""
    try:
        return mirror(results, plan.name)
    except StorageError as error:
        raise UserError(f"--results {error}") from None


def check_unheld(records: Mirror) -> None:
    """Raise UserError if another launcher runs the sweep: its copy of the records must not be fetched anew."""
    try:
        Lock(records).check()
    except StorageError as error:
        raise UserError(f"--results {error}") from None
    except OSError as error:
        raise UserError(f"{error.filename or records}: it cannot be read ({error.strerror})") from None


def hold(records: Mirror, stack: ExitStack) -> tuple[Lock | None, str]:
    """Hold a sweep's folder against other launchers until the stack closes. Without a lock, why nothing is written.

    Raises UserError if another launcher runs the sweep.
    """
    try:
        return stack.enter_context(Lock(records)), ""
    except StorageError as error:
        return None, str(error)
    except OSError as error:
        try:
            records.check()
        except StorageError as said:
            return None, str(said)
        return None, f"{records}: nothing can be written there ({error.strerror})"


def open_sweep_folder(plan: Plan, records: Mirror, resume: bool) -> None:
    """Fetch a sweep's folder and check that the sweep may go on there. Raises UserError as `check_folder` does."""
    try:
        records.pull()
    except StorageError as error:
        raise UserError(f"--results {error}") from None
    check_folder(plan, records.folder, resume, str(records))


def folder_note(plan: Plan, results: str | Path, resume: bool) -> str:
    """What a run would find where its results go, on one line; "" for nothing.

    Nothing is written there, and of a bucket only sweep.yaml is looked at. Raises UserError for unknown storage.
    """
    records = sweep_mirror(plan, results)
    try:
        if records.remote:
            records.fetch_sweep_file()
            there = records.folder.sweep_file.exists()
            return f"{records} holds a sweep of this name, which a run goes on with by --resume" if there else ""
        check_folder(plan, records.folder, resume, str(records))
    except (UserError, OSError) as error:
        return one_line(error)
    ended = sum(trial.results_file.exists() for trial in records.folder.trials())
    return f"{records}: {ended} trials ended, and --resume goes on" if records.folder.sweep_file.exists() else ""


def check_folder(plan: Plan, folder: SweepDir, resume: bool, name: str) -> None:
    """Raise UserError if the folder is another sweep's, can only be resumed, or holds a link that leads out of it.

    `name`: the folder's, in messages.
    """
    for link in strays(folder.path):
        raise stray(link)
    if not folder.sweep_file.exists():
        return _check_stump(plan, folder, resume, name)
    try:
        old = read(folder.sweep_file)
        differs = changes(old, plan)
    except ValueError as error:
        if resume and fits(plan, folder):  # it is set aside and written again
            return _refuse_changed_files(plan, folder, name)
        raise UserError(f"{name}/sweep.yaml: not a sweep of this version ({error}); use another --results") from None
    if wrong := direction.problem(old):
        raise UserError(
            f"{name} was trained under a mode that contradicts its metric ({wrong}): it can be reported, not "
            f"resumed; start afresh under another folder (--results DIR) or name (name=...)"
        )
    if differs:
        raise UserError(
            f"{name} holds another sweep of this name: {'; '.join(differs[:4])}. "
            f"Give this one a name of its own (name=...), or another folder (--results DIR)"
        )
    if not resume:
        ended = sum(trial.results_file.exists() for trial in folder.trials())
        raise UserError(
            f"{name} already holds this sweep, {ended} trials ended: go on with --resume, or keep it and start "
            f"afresh under another folder (--results DIR) or name (name=...)"
        )
    _refuse_changed_files(plan, folder, name)


def _check_stump(plan: Plan, folder: SweepDir, resume: bool, name: str) -> None:
    """Check a folder without a sweep.yaml, as one that was removed half-way leaves it. Nothing in it is a sweep anew.

    Raises UserError if it holds trials that may be another sweep's, or with which only `resume` goes on.
    """
    if not (trials := folder.trials()):
        return
    if not fits(plan, folder):
        raise UserError(
            f"{name} holds {len(trials)} trials, most of another sweep, and no sweep.yaml; give this one a name of its "
            f"own (name=...), or another folder (--results DIR)"
        )
    if not resume:
        raise UserError(
            f"{name} holds {len(trials)} trials of this sweep and no sweep.yaml: go on with --resume, which writes it "
            f"again, or start afresh under another folder (--results DIR) or name (name=...)"
        )
    _refuse_changed_files(plan, folder, name)


def _refuse_changed_files(plan: Plan, folder: SweepDir, name: str) -> None:
    """Raise UserError if trials began with another corpus, tokenizer or mixer's file than there is now."""
    jobs = []
    for trial in folder.trials():
        with suppress(ValueError):  # a damaged record is said where trials are read
            jobs.append(trial.job())
    jobs = [job for job in jobs if job.arm in plan.names]
    if changed := Provenance().changes(jobs):
        raise UserError(
            f"{name}: {'; '.join(changed)} since its trials began: put back what was there, or start afresh under "
            f"another folder (--results DIR) or name (name=...)"
        )
    if older := sum(job.hashes is None for job in jobs):
        say_once(f"{name}: {older} of {len(jobs)} trials {UNKNOWN_FILES}")


def restate(plan: Plan, records: Mirror) -> None:
    """Write into the sweep.yaml of a sweep that has ended what it is asked by now: question, claims and the like."""
    if not records.folder.sweep_file.exists():
        return
    old = read(records.folder.sweep_file).sweep
    said = {key: getattr(plan.sweep, key) for key in STATEMENTS}
    if any(getattr(old, key) != value for key, value in said.items()):
        write_text(records.folder.sweep_file, dump(old.model_copy(update=said)))
        records.push(records.folder.sweep_file)


def changes(old: Plan, new: Plan) -> list[str]:
    """What keeps trials of `old` from being trials of `new`.

    Numbers of trials and arms, resources, seeds and what is asked of the sweep (STATEMENTS) do not.
    """
    out, common = [], [name for name in old.names if name in new.names]
    for name in common:
        a, b = (plan.arm(name).trial.model_dump(mode="json") for plan in (old, new))
        out += [f"arms.{name} {path}: {quoted(x)} there, {quoted(y)} here" for path, x, y in _differences(a, b)]
    for key in ("space", "metric", "mode", "sampler", "seed", "asha"):
        a, b = (getattr(plan.sweep.search, key, None) for plan in (old, new))
        if a != b:
            out.append(f"search.{key}: {quoted(a)} there, {quoted(b)} here")
    if (old.metric, old.mode) != (new.metric, new.mode) and not (old.sweep.search and new.sweep.search):
        out.append(f"rank: {old.mode} {old.metric} there, {new.mode} {new.metric} here")
    for name in common:
        a, b = (plan.sweep.arms[name].get("search") for plan in (old, new))
        if a != b:
            out.append(f"arms.{name}.search: {quoted(a)} there, {quoted(b)} here")
    return list(dict.fromkeys(out))


def _differences(a: Any, b: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {**a, **b}:
            yield from _differences(a.get(key), b.get(key), f"{path}.{key}" if path else key)
    elif a != b:
        yield path, a, b
