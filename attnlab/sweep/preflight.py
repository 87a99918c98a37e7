"""Prepare a sweep's data and judge it before it runs, and leave nothing of one that is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from attnlab.config.resolved import Plan
from attnlab.plan import gpu_packing, memory
from attnlab.plan.guards.run import run_guards
from attnlab.plan.prepare import prepare_tasks
from attnlab.plan.provenance import Provenance
from attnlab.records.mirror import Mirror
from attnlab.util.errors import StorageError, UserError
from attnlab.util.files import remove, write_text


@dataclass(frozen=True)
class Preflight:
    """What is known of a sweep before it runs."""

    need: gpu_packing.Need  # of the largest trial
    baselines: dict[str, float]
    guards: dict[str, Any]  # their findings
    provenance: Provenance
    vocab_sizes: dict[str, int]  # by arm

    @classmethod
    def of(cls, plan: Plan, room: memory.Room) -> Preflight:
        """Prepare a plan's tasks and run its guards. Raises UserError, also for what cannot fit into `room`."""
        tasks = prepare_tasks(plan)
        vocab_sizes = {name: task.vocab_size for name, task in tasks.items()}
        memory.check(plan, room, vocab_sizes)
        baselines = next(iter(tasks.values())).baselines()
        provenance = Provenance((arm.trial, tasks[arm.name]) for arm in plan.arms)
        return cls(gpu_packing.largest(plan, tasks), baselines, run_guards(plan, tasks), provenance, vocab_sizes)


@contextmanager
def undone_for_mistakes(mirror: Mirror) -> Iterator[None]:
    """Leave a sweep's folder as it was found when a UserError ends it, so that a corrected one can begin there.

    Within, no trial may have begun by then. Files of others stay.
    """
    folder = mirror.folder
    before = folder.sweep_file.read_text(encoding="utf-8") if folder.sweep_file.exists() else None
    registered = folder.preregistration_file.exists()
    try:
        yield
    except StorageError:
        raise
    except UserError:
        if not registered:
            mirror.remove(folder.preregistration_file)
        if before is not None:
            write_text(folder.sweep_file, before)
            mirror.push(folder.sweep_file)
            raise
        records = folder.leaderboard_file, folder.verdicts_file, folder.suite_file
        mirror.remove(folder.sweep_file, folder.journal_file, *records)
        remove(folder.ray)
        for left in (folder.analysis, folder.path):
            with suppress(OSError):  # it holds something else, or is not there
                left.rmdir()
        raise
