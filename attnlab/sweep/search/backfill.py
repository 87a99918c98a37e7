"""Re-create in a study the trials that exist on disk but not in its journal.

The journal is published now and then, trials' records with their reports. So after the loss of the launcher's machine
the storage may hold trials that the journal there does not know yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from attnlab.config.space import Dimension
from attnlab.records.results import Job


def backfill_study(study: optuna.Study, jobs: Iterable[Job], space: Mapping[str, Dimension]) -> None:
    """Add the search's jobs that `study` lacks, as running under their own numbers.

    A number of which there is no record (the same settings asked for again, or a trial that was never begun) becomes a
    failed trial without settings.
    """
    by_number = {job.number: job for job in jobs if job.phase == "search"}
    for number in range(len(study.get_trials(deepcopy=False)), max(by_number, default=-1) + 1):
        if (job := by_number.get(number)) is None:
            study.add_trial(create_trial(state=TrialState.FAIL))
            continue
        distributions = {key: _widened_to(space[key].distribution(), value) for key, value in job.settings.items()}
        study.add_trial(create_trial(state=TrialState.RUNNING, params=job.settings, distributions=distributions))


def _widened_to(distribution: BaseDistribution, value: float) -> BaseDistribution:
    """The distribution, widened to hold a value of a search's extension."""
    if isinstance(distribution, FloatDistribution):
        low, high = min(distribution.low, value), max(distribution.high, value)
        return FloatDistribution(low, high, log=distribution.log, step=distribution.step)
    if isinstance(distribution, IntDistribution):
        low, high = min(distribution.low, int(value)), max(distribution.high, int(value))
        return IntDistribution(low, high, log=distribution.log, step=distribution.step)
    return distribution
