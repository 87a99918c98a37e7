"""A study that knows less than the trials' folders do gets what it lacks from them.

The journal is published now and then, trials' records with their reports: after the loss of the launcher's machine the
storage may hold trials that the journal there does not know yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from attnlab.config.space import Dimension
from attnlab.records.results import Job


def mend(study: optuna.Study, jobs: Iterable[Job], space: Mapping[str, Dimension]) -> None:
    """Add the search's jobs that `study` lacks, as running under their own numbers; a number of which there is no
    record (the same settings asked for again, or a trial that was never begun) is a failed one without settings."""
    by_number = {job.number: job for job in jobs if job.phase == "search"}
    for number in range(len(study.get_trials(deepcopy=False)), max(by_number, default=-1) + 1):
        if (job := by_number.get(number)) is None:
            study.add_trial(create_trial(state=TrialState.FAIL))
            continue
        distributions = {key: _holding(space[key].distribution(), value) for key, value in job.settings.items()}
        study.add_trial(create_trial(state=TrialState.RUNNING, params=job.settings, distributions=distributions))


def _holding(distribution: BaseDistribution, value: float) -> BaseDistribution:
    """The distribution, widened where a search's extension went beyond it."""
    if isinstance(distribution, FloatDistribution):
        low, high = min(distribution.low, value), max(distribution.high, value)
        return FloatDistribution(low, high, log=distribution.log, step=distribution.step)
    if isinstance(distribution, IntDistribution):
        low, high = min(distribution.low, int(value)), max(distribution.high, int(value))
        return IntDistribution(low, high, log=distribution.log, step=distribution.step)
    return distribution
