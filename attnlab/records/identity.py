"""Whether a trial's experiment_config.json is the one its sweep gave it, and what it was where it cannot be read.

A trial's folder is named by the digest of its trial, and its sweep says which trials there can be. So a changed value
shows, and a lost file can be made again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import product
from typing import Any

from attnlab.config.resolved import Arm, Plan
from attnlab.config.trial import Trial
from attnlab.records.paths import TrialDir
from attnlab.records.reading import Damaged
from attnlab.records.results import Job, Phase, Results

TRIAL_ID = re.compile(r"t(\d{3,})-([0-9a-f]{10})")


def job_of(plan: Plan, trial: TrialDir) -> Job:
    """A trial's job, as its sweep gave it. Raises Damaged: it cannot be read, or is another's."""
    job = trial.job()
    if why := _foreign(plan, trial, job):
        raise Damaged(f"{trial.config_file}: {why}")
    return job


def derived(plan: Plan, trial: TrialDir, settings: Iterable[Mapping[str, Any]]) -> Job | None:
    """The job whose digest the folder's name has, made from the plan. None if none of `settings` gives it.

    Args:
        settings: sampled settings that the trial may have, such as those of the arm's other trials.
    """
    named = TRIAL_ID.fullmatch(trial.trial_id)
    if named is None or trial.arm not in plan.names:
        return None
    results, arm = _results(trial), plan.arm(trial.arm)
    noise = plan.sweep.noise if plan.sweep.noise and plan.sweep.noise.arm == arm.name else None
    seeds = dict.fromkeys((arm.trial.train.seed, *plan.seeds, *(noise.values if noise else ())))
    if results:
        seeds |= {results["seed"]: None}
    named_noise = noise is not None and int(named[1]) in noise.values
    candidates = [*([results["settings"]] if results else []), *([] if named_noise else map(dict, settings)), {}]
    for found, chosen in _trials(arm, candidates, seeds):
        if found.digest == named[2]:
            number, seed = int(named[1]), found.train.seed
            if results:
                phase = results["phase"]
            elif named_noise and number == seed:
                phase = "noise"
            else:
                phase = _phase(plan, arm, number, seed)
            return _job(plan, arm, number, found, phase, chosen)
    return None


def _results(trial: TrialDir) -> Results | None:
    with suppress(Damaged):
        return trial.results()
    return None


def _trials(
    arm: Arm, settings: Iterable[dict[str, Any]], seeds: Iterable[int]
) -> Iterator[tuple[Trial, dict[str, Any]]]:
    for chosen, seed in product(settings, list(seeds)):
        with suppress(ValueError, TypeError):  # of another arm's settings, or damaged ones
            yield arm.with_settings(chosen, seed), chosen


def _phase(plan: Plan, arm: Arm, number: int, seed: int) -> Phase:
    """What a trial's number and seed say. The search gives the arm's own seed and the lowest numbers."""
    own = plan.sweep.search is not None and seed == arm.trial.train.seed
    return "search" if own and (seed not in plan.seeds or number < plan.quota(arm.name)) else "confirm"


def _job(plan: Plan, arm: Arm, number: int, trial: Trial, phase: Phase, settings: dict[str, Any]) -> Job:
    how = {"metric": plan.metric, "mode": plan.mode, "branches": _branches(plan, trial, phase)}
    return Job.make(arm.name, number, trial, phase=phase, settings=settings, **how)


def _branches(plan: Plan, trial: Trial, phase: Phase) -> dict[int, int]:
    asha = plan.sweep.search.asha if plan.sweep.search else None
    return asha.branches(trial) if asha and phase == "search" else {}


def _foreign(plan: Plan, trial: TrialDir, job: Job) -> str | None:
    """What in a job is not as the sweep gave it, if anything is."""
    if (job.arm, job.trial_id) != (trial.arm, trial.trial_id):
        return f"it is of {job.arm}/{job.trial_id}"
    if job.trial_id != f"t{job.number:03d}-{job.trial.digest}":
        return f"its trial or number is not that of {job.trial_id}"
    if job.arm not in plan.names:
        return None
    arm, seed = plan.arm(job.arm), job.trial.train.seed
    if not any(found.digest == job.trial.digest for found, _ in _trials(arm, [job.settings], [seed])):
        return "its settings do not make its trial"
    if (job.metric, job.mode) != (plan.metric, plan.mode):
        return f"{job.mode} {job.metric}, where the sweep has {plan.mode} {plan.metric}"
    if job.branches != _branches(plan, job.trial, job.phase):
        return "branches: not those of the sweep"
    if job.phase == "search" and (plan.sweep.search is None or seed != arm.trial.train.seed):
        return "phase: 'search', which its seed is not of"
    noise = plan.sweep.noise is not None and plan.sweep.noise.arm == job.arm
    if job.phase == "noise" and not (noise and not job.settings and seed == job.number):
        return "phase: 'noise', which its seed or settings are not of"
    return None
