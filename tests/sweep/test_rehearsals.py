"""Which models are rehearsed before a sweep, and how."""

from functools import partial
from types import SimpleNamespace

from attnlab.plan.load import load
from attnlab.sweep import rehearsals
from attnlab.sweep.rehearsals import find_rehearsals
from attnlab.sweep.slots.worker import REHEARSAL


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


class Remote:
    """An object whose methods are called as a Ray actor's, done only as somebody waits for them."""

    def __init__(self, **methods):
        for name, method in methods.items():
            setattr(self, name, SimpleNamespace(remote=partial(partial, method)))


def test_a_report_is_asked_for_only_after_the_mailbox_has_the_model(write_sweep, monkeypatch):
    boxes, said = {}, []

    def read(lease, number):
        assert boxes[lease][REHEARSAL]
        return {"state": "completed"}

    mailbox = Remote(post=lambda lease, job, state: boxes.update({lease: job}), read=read)
    pool = Remote(lease=lambda trial_id, arm: (mailbox, trial_id), release=lambda trial_id: None)
    monkeypatch.setattr(rehearsals.ray, "wait", lambda calls, timeout: (calls, []))
    monkeypatch.setattr(rehearsals.ray, "get", lambda call: call())
    found = find_rehearsals(load(write_sweep()))
    rehearsals.rehearse(found, SimpleNamespace(pool=pool), lambda: None, said.append)
    assert said[0].startswith("2 models rehearsed to the end")
