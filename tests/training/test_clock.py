"""Trials that end by the clock."""

from functools import partial

import pytest

from attnlab.config.merge import merge
from attnlab.config.trial import TrainConfig, Trial
from attnlab.records.paths import TrialDir
from attnlab.records.results import Job
from attnlab.training.clock import TrainingClock
from attnlab.training.loop import train


class Clock:
    """Time that passes when told to."""

    def __init__(self):
        self.time = 100.0

    def __call__(self):
        return self.time


def test_only_training_counts_and_earlier_sessions_do():
    clock = Clock()
    trial_clock = TrainingClock(TrainConfig(max_steps=100, seconds=10.0), trained=4.0, now=clock)
    clock.time += 2.0
    trial_clock.pause()
    clock.time += 50.0  # a validation
    assert trial_clock.trained == 6.0 and not trial_clock.over()
    trial_clock.resume()
    clock.time += 4.0
    assert trial_clock.trained == 10.0 and trial_clock.over()


def test_the_schedule_follows_the_time_and_never_runs_behind_the_steps():
    clock = Clock()
    trial_clock = TrainingClock(TrainConfig(max_steps=100, seconds=10.0), trained=0.0, now=clock)
    assert trial_clock.schedule_step(1) == 1
    clock.time += 5.0
    assert trial_clock.schedule_step(2) == 50 and trial_clock.schedule_step(70) == 70
    clock.time += 50.0
    assert trial_clock.schedule_step(71) == 100
    assert TrainingClock(TrainConfig(max_steps=100), trained=0.0).schedule_step(7) == 7


@pytest.fixture
def slow_steps(monkeypatch):
    """A clock that moves by half a second whenever the loop looks at it."""
    clock = Clock()

    def now():
        clock.time += 0.5
        return clock.time

    monkeypatch.setattr("attnlab.training.loop.TrainingClock", partial(TrainingClock, now=now))


def test_a_trial_ends_when_its_seconds_are_over_and_its_rate_has_come_down(tiny, tmp_path, slow_steps):
    change = {"train": {"max_steps": 1000, "eval_every": 10, "seconds": 30.0}, "optim": {"schedule": "linear"}}
    home = TrialDir(tmp_path / "t")
    results = train(Job.make("a", 0, Trial.model_validate(merge(tiny, change))), home)
    rates = [row["lr"] for row in home.metrics()]
    assert results["state"] == "completed" and 5 < results["steps"] < 1000
    assert home.metrics()[-1]["step"] == results["steps"]
    assert rates == sorted(rates, reverse=True) and rates[-1] < 0.2 * rates[0]
    assert (home.final / "model.safetensors").exists()
