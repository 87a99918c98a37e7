"""Which models are rehearsed before a sweep."""

from attnlab.plan.load import load
from attnlab.sweep.rehearsals import find_rehearsals


def names(plan, **known):
    return [(each.arms, each.job.trial.train.batch_size) for each in find_rehearsals(plan, **known)]


def test_each_different_model_once_and_of_equal_ones_the_largest(write_sweep):
    arms = {"gla": {}, "again": {}, "standard": {"model.mixer": "standard"}, "adamw": {"optim.name": "adamw"}}
    space = {"optim.lr": {"loguniform": [1e-4, 1e-1]}, "train.batch_size": {"choice": [4, 16, 8]}}
    plan = load(write_sweep(arms=arms, search={"space": space, "trials": 2}))
    assert names(plan) == [(["adamw"], 16), (["again", "gla"], 16), (["standard"], 16)]


def test_every_corner_that_makes_another_model(write_sweep):
    space = {"model.n_layers": {"int": [1, 3]}, "model.dropout": {"uniform": [0.0, 0.5]}}
    plan = load(write_sweep(arms={"gla": {}}, search={"space": space, "trials": 2}))
    found = [(r.job.trial.model.n_layers, r.job.trial.model.dropout > 0) for r in find_rehearsals(plan)]
    assert sorted(found) == [(1, False), (1, True), (3, False), (3, True)]


def test_arms_that_have_trials_were_rehearsed_before_them(write_sweep):
    plan = load(write_sweep())
    assert names(plan, begun={"gla"}) == [(["standard"], 4)]
    assert names(plan, begun={"gla", "standard"}) == []
