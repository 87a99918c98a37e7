"""Optuna's samplers, named by the rows of `attnlab.config.samplers`."""

from __future__ import annotations

import pkgutil
import warnings

import optuna

from attnlab.config.samplers import SAMPLERS
from attnlab.config.sweep import SearchConfig
from attnlab.sweep.search.cmaes import CheckedCmaEs
from attnlab.sweep.search.tpe import WindowedTPE


def make_sampler(search: SearchConfig, number: int) -> optuna.samplers.BaseSampler:
    """The sampler of an arm's trial `number`, seeded by (seed, number).

    So a resumed study goes on as it would have, and arms with the same space begin with the same settings.
    """
    return pkgutil.resolve_name(SAMPLERS[search.sampler].factory)(search, (search.seed * 100_003 + number) % 2**32)


def tpe(search: SearchConfig, seed: int) -> optuna.samplers.BaseSampler:
    """Tree-structured Parzen estimators, random for a third of the trials (3 to 10) first."""
    return WindowedTPE(seed=seed, constant_liar=True, n_startup_trials=min(10, max(3, search.trials // 3)))


def random(search: SearchConfig, seed: int) -> optuna.samplers.BaseSampler:
    """Uniform over the space."""
    return optuna.samplers.RandomSampler(seed=seed)


def cmaes(search: SearchConfig, seed: int) -> optuna.samplers.BaseSampler:
    """CMA-ES, whose state is kept in the study."""
    with warnings.catch_warnings():  # counting pruned trials is an experimental option of Optuna's
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return CheckedCmaEs(seed=seed, warn_independent_sampling=False, consider_pruned_trials=search.asha is not None)
