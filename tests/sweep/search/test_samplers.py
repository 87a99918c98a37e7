"""Each sampler is Optuna's with the settings that its row and the sweep give, seeded by the trial's number."""

import optuna
import pytest
from optuna.distributions import FloatDistribution

from attnlab.config.samplers import SAMPLERS
from attnlab.config.sweep import SearchConfig
from attnlab.sweep.search.samplers import make_sampler
from attnlab.sweep.search.tpe import WindowedTPE

SPACE = {"space": {"optim.lr": {"loguniform": [1e-4, 1e-1]}}}


def search_of(sampler="tpe", **rest):
    return SearchConfig.model_validate({**SPACE, "sampler": sampler, **rest})


def test_what_each_sampler_takes():
    found = {name: (kind.choices, kind.ranges, kind.exhaustive) for name, kind in SAMPLERS.items()}
    assert found == {
        "tpe": (True, True, False),
        "random": (True, True, False),
        "grid": (True, False, True),
        "cmaes": (False, True, False),
    }


@pytest.mark.parametrize(("trials", "startup"), [(3, 3), (9, 3), (12, 4), (29, 9), (30, 10), (300, 10)])
def test_a_third_of_the_trials_is_random_before_tpe_3_to_10(trials, startup):
    sampler = make_sampler(search_of(trials=trials), 0)
    assert type(sampler) is WindowedTPE and sampler._constant_liar is True and sampler._n_startup_trials == startup


def drawn(sampler):
    study = optuna.create_study(sampler=sampler)
    return study.ask({"x": FloatDistribution(0, 1)}).params["x"]


@pytest.mark.parametrize(("seed", "number"), [(0, 0), (0, 7), (3, 7), (50_000, 1)])
@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes"])
def test_a_draw_depends_on_the_searchs_seed_and_the_trials_number_alone(sampler, seed, number):
    expected = optuna.samplers.RandomSampler(seed=(seed * 100_003 + number) % 2**32)
    search = search_of(sampler, seed=seed)
    assert drawn(make_sampler(search, number)) == drawn(make_sampler(search, number))
    assert drawn(make_sampler(search, number)) != drawn(make_sampler(search, number + 1))
    if sampler == "random":
        assert drawn(make_sampler(search, number)) == drawn(expected)


@pytest.mark.parametrize("asha", [None, {"grace_steps": 2}])
def test_cma_es_counts_pruned_trials_where_trials_are_pruned(asha):
    sampler = make_sampler(search_of("cmaes", asha=asha), 0)
    assert isinstance(sampler, optuna.samplers.CmaEsSampler) and sampler._warn_independent_sampling is False
    assert sampler._consider_pruned_trials is (asha is not None)
