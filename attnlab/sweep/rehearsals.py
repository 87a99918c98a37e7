"""Before a sweep's first trial, have each different model rehearsed to its very end, side by side, in its workers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import ray
import ray.exceptions

from attnlab.config import space
from attnlab.config.resolved import Arm, Plan
from attnlab.config.trial import Trial
from attnlab.records.results import Job
from attnlab.sweep.slots.slots import GUARD_S, Slots
from attnlab.sweep.slots.worker import REHEARSAL
from attnlab.util.errors import UserError
from attnlab.util.text import one_line

REACH = ("model", "task", "train", "optim.name")  # prefixes of searched settings that make another model or shape
POLL_S = 0.5
LONGEST = 600  # letters of a line


@dataclass
class Rehearsal:
    """A trial that stands for all of one model, and the arms that have it."""

    job: Job
    arms: list[str] = field(default_factory=list)

    @property
    def tokens(self) -> float:
        """Tokens of a micro-batch, by which the largest of equal models is chosen."""
        return self.job.trial.tokens_per_step / self.job.trial.train.grad_accum


def find_rehearsals(plan: Plan, begun: Collection[str] = ()) -> list[Rehearsal]:
    """Each different model of the arms that have no trial yet, at the corners of their spaces.

    Of trials that differ in batch size, length or data's settings alone the largest is taken. `begun`: arms that have
    trials, which were rehearsed before these.
    """
    found: dict[str, Rehearsal] = {}
    for arm in plan.arms:
        if arm.name in begun:
            continue
        reaching = {key: dimension for key, dimension in arm.space.items() if key.startswith(REACH)}
        for settings in space.corners(reaching):
            trial = arm.with_settings(settings)
            new = Rehearsal(_job(plan, arm, trial, len(found)))
            old = found.setdefault(_key(arm, trial), new)
            if new.tokens > old.tokens:
                old.job = new.job.model_copy(update={"trial_id": old.job.trial_id})
            if arm.name not in old.arms:
                old.arms.append(arm.name)
    return list(found.values())


def _job(plan: Plan, arm: Arm, trial: Trial, number: int) -> Job:
    asha = plan.sweep.search.asha if plan.sweep.search else None
    branches = asha.branches(trial) if asha else {}
    return Job(arm=arm.name, trial_id=f"rehearsal-{number}", number=number, branches=branches, trial=trial)


def _key(arm: Arm, trial: Trial) -> str:
    """What makes a model another one."""
    model = trial.model.model_dump(mode="json") | {"dropout": trial.model.dropout > 0}
    task = {k: v for k, v in trial.task.model_dump(mode="json").items() if f"task.{k}" not in arm.space}
    train = trial.train.model_dump(mode="json", include={"precision", "step"}) | {"parts": trial.train.grad_accum > 1}
    return json.dumps([model, task, train, trial.optim.name], sort_keys=True)


def rehearse(rehearsals: list[Rehearsal], slots: Slots, tick: Callable[[], None], say: Callable[[str], None]) -> None:
    """Run rehearsals in the slots. Raises UserError: what fails, one line per arm.

    Args:
        rehearsals: what to rehearse.
        slots: those that will train, up or coming up.
        tick: called again and again meanwhile. What it raises ends it.
        say: prints a line.
    """
    if not rehearsals:
        return
    models = f"{len(rehearsals)} model{'s' * (len(rehearsals) > 1)}"
    leases = {slots.pool.lease.remote(each.job.trial_id, each.job.arm): (each, {}) for each in rehearsals}
    running: dict[Any, Any] = {}
    problems: dict[str, str] = {}
    start: float | None = None  # once a slot is up
    while leases or running:
        ready, _ = ray.wait([*leases, *running], timeout=POLL_S)
        tick()
        for call in ready:
            try:
                answer = ray.get(call)
                if call in leases:
                    (each, state), (mailbox, lease) = leases.pop(call), answer
                    job = {**each.job.model_dump(mode="json"), REHEARSAL: True}
                    ray.get(mailbox.post.remote(lease, job, state))  # else `read` may overtake it in the mailbox
                    running[mailbox.read.remote(lease, 0)] = each
                    start = start or time.monotonic()
                    continue
            except ray.exceptions.RayActorError:  # pool or mailbox died, which the slots' guard notes as why
                time.sleep(2 * GUARD_S)
                tick()
                raise
            each, row = running.pop(call), answer
            ray.get(slots.pool.release.remote(each.job.trial_id))
            if "moved" in row:  # its slot lost its workers
                leases[slots.pool.lease.remote(each.job.trial_id, each.job.arm)] = (each, row)
            elif row["state"] == "failed":
                problems |= {arm: one_line(row["error"])[:LONGEST] for arm in each.arms if arm not in problems}
    if problems:
        raise UserError([f"arms.{arm}: rehearsed before the sweep, {why}" for arm, why in problems.items()])
    say(f"{models} rehearsed to the end in {time.monotonic() - (start or 0.0):.1f} s")
