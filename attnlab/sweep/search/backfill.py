"""Re-create in a study the trials that exist on disk but not in its journal.

The journal is published less often than records, so a lost launcher may leave one that lacks trials.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from attnlab.config.space import Dimension
from attnlab.records.results import Job


def backfill_study(study: optuna.Study, jobs: Iterable[Job], space: Mapping[str, Dimension]) -> None:
    """Add search jobs that `study` lacks as running trials. Numbers without a job become failed ones."""
    by_number = {job.number: job for job in jobs if job.phase == "search"}
    for number in range(len(study.get_trials(deepcopy=False)), max(by_number, default=-1) + 1):
        if (job := by_number.get(number)) is None:  # repeated settings, or a trial that never began
            study.add_trial(create_trial(state=TrialState.FAIL))
            continue
        distributions = {key: _widened_to(space[key].distribution(), value) for key, value in job.settings.items()}
        study.add_trial(create_trial(state=TrialState.RUNNING, params=job.settings, distributions=distributions))


def _widened_to(distribution: BaseDistribution, value: float) -> BaseDistribution:
    """The distribution, widened to hold a value of a search's extension."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution
    number = int(value) if isinstance(distribution, IntDistribution) else value
    low, high = min(distribution.low, number), max(distribution.high, number)
    return type(distribution)(low, high, log=distribution.log, step=distribution.step)
