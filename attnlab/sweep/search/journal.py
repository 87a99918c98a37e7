"""Optuna's journal of a sweep: opened, or set aside and made again from the trials' own records."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import optuna

from attnlab.config.resolved import Plan
from attnlab.config.trial import Trial
from attnlab.records.mend import set_aside
from attnlab.records.mirror import Mirror
from attnlab.records.results import Hashes
from attnlab.sweep.search.arm_study import ArmStudy
from attnlab.util.text import one_line


def open_studies(
    plan: Plan, mirror: Mirror, hashes: Callable[[Trial], Hashes | None] = lambda trial: None
) -> dict[str, ArmStudy]:
    """Every arm's study. A journal that cannot be read, or contradicts the records, is set aside, with a line.

    `hashes`: as of `ArmStudy`.
    """
    journal = mirror.folder.journal_file
    repair_journal(journal)
    found = journal.read_bytes() if journal.exists() else None
    try:
        return _open(plan, mirror, hashes)
    except OSError:
        raise
    except Exception as error:  # whatever a changed line leads Optuna to
        if found is None:
            raise
        journal.write_bytes(found)  # without what was added to it meanwhile
        aside = set_aside(journal)
        why = f"{type(error).__name__} {one_line(error)}"[:200]
        rebuilt = f"set aside as {aside.name} and made again from the trials"
        print(f"attnlab: {journal}: {why}; {rebuilt}", file=sys.stderr, flush=True)
        mirror.discard(journal)
        mirror.push(aside)
        return _open(plan, mirror, hashes)


def _open(plan: Plan, mirror: Mirror, hashes: Callable[[Trial], Hashes | None]) -> dict[str, ArmStudy]:
    folder = mirror.folder
    backend = optuna.storages.journal.JournalFileBackend(str(folder.journal_file))
    storage = optuna.storages.JournalStorage(backend)
    for study in storage.get_all_studies():
        if study.study_name not in plan.names and not (folder.path / study.study_name).is_dir():
            raise ValueError(f"a study of no arm: {study.study_name!r}")
    return {arm.name: ArmStudy(arm, plan, folder, storage, hashes) for arm in plan.arms}


def repair_journal(journal: Path) -> None:
    """Cut off the half line that a killed launcher or a full disk left."""
    if journal.exists():
        with journal.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
