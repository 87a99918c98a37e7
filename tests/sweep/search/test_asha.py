"""The rule of successive halving, without ray."""

import math

from hypothesis import given
from hypothesis import strategies as st

from attnlab.config.sweep import AshaConfig
from attnlab.sweep.search.asha import Bracket


def bracket(max_steps=90, mode="min", factor=3.0):
    return Bracket(AshaConfig(grace_steps=10, reduction_factor=factor), max_steps, mode)


def test_rungs_stand_below_the_last_step():
    assert list(bracket().rungs) == [10, 30]
    assert list(bracket(max_steps=91).rungs) == [10, 30, 90]


def test_the_first_to_arrive_goes_on_and_a_worse_second_stops():
    b = bracket()
    assert not b.judge("a", 10, 1.0)
    assert b.judge("b", 10, 2.0)
    assert not b.judge("c", 10, 0.5)


def test_a_trial_is_judged_once_per_rung():
    b = bracket()
    assert not b.judge("a", 10, 1.0)
    assert not b.judge("a", 20, 9.0)
    b.judge("b", 10, 0.1)
    assert not b.judge("a", 10, 9.0)


def test_a_trial_that_passes_several_rungs_is_judged_at_the_highest_alone():
    late = bracket(max_steps=270)  # rungs at 10, 30 and 90
    for trial, value in enumerate((1.0, 0.5, 0.6)):
        late.judge(str(trial), 10, value)
    assert not late.judge("late", 95, 0.8), "the first of its rung, though not among the best of those below"
    assert late.rungs == {10: {"0": 1.0, "1": 0.5, "2": 0.6, "late": 0.8}, 30: {"late": 0.8}, 90: {"late": 0.8}}
    early = bracket()
    early.judge("ahead", 10, 2.0)
    early.judge("ahead", 30, 0.1)
    assert early.judge("best below", 35, 1.0), "the second of its rung, though the best of those below"


def test_larger_is_better_where_the_sweep_says_so():
    b = bracket(mode="max")
    b.judge("a", 10, 0.9)
    assert b.judge("b", 10, 0.1)


def test_a_value_that_is_not_finite_stops_even_the_first():
    for value in (math.nan, math.inf, None):
        assert bracket().judge("a", 10, value)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=60, unique=True), st.sampled_from([2.0, 2.5, 3.0, 4.0]))
def test_the_best_so_far_always_goes_on_and_few_others_do(values, factor):
    b = bracket(factor=factor)
    stopped = [b.judge(str(i), 10, v) for i, v in enumerate(values)]
    for i, value in enumerate(values):
        rank = sum(v < value for v in values[:i])
        assert stopped[i] == (rank >= max(1, math.floor((i + 1) / factor)))
    assert not stopped[values.index(min(values))]


@given(st.permutations(range(12)))
def test_replaying_the_records_rebuilds_the_bracket(order):
    values = {str(i): float(i) for i in range(12)}
    live, again = bracket(), bracket()
    for i in order:
        for step in (10, 20, 30):
            live.judge(str(i), step, values[str(i)] / step)
    for i in order:
        for step in (10, 20, 30):
            again.judge(str(i), step, values[str(i)] / step)
    assert live.rungs == again.rungs
