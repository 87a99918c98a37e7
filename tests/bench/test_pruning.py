"""The replay of saved curves, on made-up ones."""

import math

import pytest

from attnlab.config.sweep import AshaConfig
from bench.pruning import Grid, interval, replay, sampled, shuffled

STEPS = range(10, 101, 10)


def grid(**curves):
    """By learning rate 1, 2, ...: a function of the step."""
    made = {float(i): [(s, f(s)) for s in STEPS] for i, f in enumerate(curves.values(), 1)}
    return Grid("made up", made, max_steps=100, mode="min")


def parallel(count=9):
    """Curves that never cross; the first is the best."""
    return grid(**{f"c{i}": lambda step, i=i: 1.0 + i + 10 / step for i in range(count)})


def test_without_pruning_every_step_of_every_curve_is_spent():
    outcome = replay(parallel(), shuffled(parallel(), 0), None)
    assert outcome.steps == 9 * 100 and outcome.loss == 0 and len(outcome.finished) == 9


def test_a_reduction_factor_of_nearly_one_keeps_nearly_all():
    kept = replay(parallel(), shuffled(parallel(), 0), AshaConfig(grace_steps=99, reduction_factor=1.0001))
    assert len(kept.finished) == 9, "no rung is reached before the last step's report"
    gentle = replay(parallel(), shuffled(parallel(), 0), AshaConfig(grace_steps=50, reduction_factor=1.1))
    harsh = replay(parallel(), shuffled(parallel(), 0), AshaConfig(grace_steps=50, reduction_factor=4))
    assert len(gentle.finished) > len(harsh.finished)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("workers", [1, 4])
def test_the_winner_survives_if_curves_never_cross(seed, workers):
    outcome = replay(parallel(), shuffled(parallel(), seed), AshaConfig(grace_steps=10, reduction_factor=3), workers)
    assert 1.0 in outcome.finished and outcome.loss == 0
    assert outcome.near_at <= outcome.steps < 900


def test_a_winner_that_starts_slowly_is_lost_to_a_short_grace_only():
    crossing = grid(fast=lambda step: 2.0, slow=lambda step: 3.0 if step <= 50 else 1.0)
    in_order = [1.0, 2.0]
    for grace, finished in ((20, {1.0}), (60, {1.0, 2.0})):
        order = iter(in_order)
        outcome = replay(crossing, lambda ended: next(order, None), AshaConfig(grace_steps=grace, reduction_factor=2))  # noqa: B023
        assert outcome.finished == finished


def test_steps_are_counted_by_report():
    two = grid(good=lambda step: 1.0, bad=lambda step: 5.0)
    order = iter([2.0, 1.0])
    outcome = replay(two, lambda ended: next(order, None), None)
    assert outcome.near_at == 110, "the bad trial's 100 steps, and the good one's first report"
    order = iter([1.0, 2.0])
    outcome = replay(two, lambda ended: next(order, None), AshaConfig(grace_steps=30, reduction_factor=2))
    assert outcome.steps == 130, "the second stops at the rung of 30"


@pytest.mark.parametrize("kind", ["random", "tpe"])
def test_the_engines_samplers_play_points_of_the_grid(kind):
    made = parallel(6)
    outcome = replay(made, sampled(kind)(made, 0), AshaConfig(grace_steps=10, reduction_factor=3), workers=2)
    assert outcome.finished <= set(made.curves) and math.isfinite(outcome.loss)
    assert 60 <= outcome.steps <= 600


def test_a_diverged_curve_stops_and_is_no_candidate():
    made = grid(good=lambda step: 1.0, bad=lambda step: None)
    outcome = replay(made, shuffled(made, 0), AshaConfig(grace_steps=10, reduction_factor=3))
    assert outcome.finished == {1.0} and outcome.steps == 110


def test_the_interval_is_over_grids():
    import numpy as np

    assert interval(np.ones((5, 3))) == "100% [100%, 100%]"
    assert interval(np.array([[0.0, 0.0], [1.0, 1.0]])) == "50% [0%, 100%]"
