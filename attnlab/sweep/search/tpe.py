"""Optuna's TPE for studies of thousands of trials."""

from __future__ import annotations

import heapq
import math
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

NEWEST, BEST = 1000, 25  # TPE's own limit of trials it calls good is 25 (`optuna.samplers._tpe.sampler.default_gamma`)


class WindowedTPE(optuna.samplers.TPESampler):
    """TPE that looks at an arm's newest `NEWEST` trials and its `BEST` best ones, and so takes as long for the ten
    thousandth trial as for the thousandth; it is TPE itself until then. (Measured: over 3,300 trials TPE takes 57 ms.)
    """

    def infer_relative_search_space(self, study: Any, trial: FrozenTrial) -> dict[str, Any]:
        return super().infer_relative_search_space(_Window(study), trial)  # type: ignore[arg-type]

    def sample_relative(self, study: Any, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        return super().sample_relative(_Window(study), trial, search_space)  # type: ignore[arg-type]

    def sample_independent(self, study: Any, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        return super().sample_independent(_Window(study), trial, param_name, param_distribution)  # type: ignore[arg-type]


class _Window:
    """A study of which a sampler sees a part."""

    def __init__(self, study: optuna.Study):
        self._study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(self, *args: Any, **kwargs: Any) -> list[FrozenTrial]:
        """What samplers of Optuna call; if another version calls something else, nothing is left out."""
        return window(self._study._get_trials(*args, **kwargs), self._study.direction)


def window(trials: list[FrozenTrial], direction: optuna.study.StudyDirection) -> list[FrozenTrial]:
    """The newest of `trials` (by number, ascending) and the best completed ones before them, in their order."""
    if len(trials) <= NEWEST + BEST:
        return trials
    sign = 1 if direction == optuna.study.StudyDirection.MINIMIZE else -1
    older = trials[:-NEWEST]

    def value(trial: FrozenTrial) -> float:
        return sign * trial.values[0] if trial.state is TrialState.COMPLETE else math.inf

    best = heapq.nsmallest(BEST, older, key=value)
    return [*sorted(best, key=lambda trial: trial.number), *trials[-NEWEST:]]
