"""Schedules of the learning rate."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.config.trial import OptimConfig
from attnlab.optim import branch_factor, lr_factor, warmup_steps

SCHEDULES = ("cosine", "linear", "wsd", "constant")


@st.composite
def schedules(draw):
    max_steps = draw(st.integers(2, 400))
    fraction = st.floats(0.0, 0.99)
    steps = st.integers(1, max(1, max_steps - 1)).map(float)
    return max_steps, OptimConfig(
        schedule=draw(st.sampled_from(SCHEDULES)),
        warmup=draw(st.one_of(fraction, steps)),
        decay=draw(st.floats(0.01, 1.0)),
        min_lr_ratio=draw(st.floats(0.0, 1.0)),
    )


@settings(max_examples=150)
@given(schedules())
def test_a_schedule_warms_up_peaks_at_one_and_ends_at_its_floor(case):
    max_steps, optim = case
    factors = [lr_factor(step, max_steps, optim) for step in range(1, max_steps + 1)]
    warmup = warmup_steps(max_steps, optim)
    assert factors[:warmup] == pytest.approx([step / warmup for step in range(1, warmup + 1)])
    assert factors[0] > 0 and factors[warmup - 1] == 1.0 == max(factors)
    assert factors[-1] == (1.0 if optim.schedule == "constant" else optim.min_lr_ratio)
    after = factors[warmup - 1 :]
    assert all(later <= earlier + 1e-12 for earlier, later in zip(after, after[1:], strict=False))

    # Between two steps the factor moves by no more than the steepest slope, or the whole first step of 1 - sqrt.
    decay = min(len(after) - 1, max(1, round(optim.decay * max_steps)))
    steepest = {
        "cosine": math.pi / 2 / max(1, len(after) - 1),
        "linear": 1 / max(1, len(after) - 1),
        "wsd": 1 / math.sqrt(max(1, decay)),
        "constant": 0.0,
    }[optim.schedule]
    jumps = [earlier - later for earlier, later in zip(after, after[1:], strict=False)]
    assert max(jumps, default=0.0) <= steepest * (1 - optim.min_lr_ratio) + 1e-9


@pytest.mark.parametrize(
    ("schedule", "golden"),
    [
        ("cosine", {1: 0.1, 5: 0.5, 10: 1.0, 55: 0.55, 100: 0.1}),
        ("linear", {1: 0.1, 10: 1.0, 55: 0.55, 100: 0.1}),
        ("wsd", {1: 0.1, 10: 1.0, 80: 1.0, 85: 0.55, 100: 0.1}),  # sqrt(5 / 20) = 1 / 2
        ("constant", {1: 0.1, 10: 1.0, 55: 1.0, 100: 1.0}),
    ],
)
def test_golden_factors(schedule, golden):
    optim = OptimConfig(schedule=schedule, warmup=0.1, decay=0.2, min_lr_ratio=0.1)
    assert {step: lr_factor(step, 100, optim) for step in golden} == pytest.approx(golden)
    in_steps = optim.model_copy(update={"warmup": 10.0})
    assert [lr_factor(s, 100, in_steps) for s in range(1, 101)] == [lr_factor(s, 100, optim) for s in range(1, 101)]


@pytest.mark.parametrize("steps", [1, 4, 25])
def test_a_branch_decays_as_a_run_does_that_ends_there(steps):
    optim = OptimConfig(schedule="wsd", warmup=0.1, decay=0.2, min_lr_ratio=0.1)
    factors = [branch_factor(50 + step, 50, steps, optim) for step in range(steps + 1)]
    assert factors[0] == 1.0 and factors[-1] == optim.min_lr_ratio and sorted(factors, reverse=True) == factors
    whole = [lr_factor(80 + step, 100, optim) for step in range(21)]
    assert [branch_factor(50 + step, 50, 20, optim) for step in range(21)] == whole


def test_a_run_of_one_step_is_at_the_full_rate():
    assert all(lr_factor(1, 1, OptimConfig(schedule=name, min_lr_ratio=0.0)) == 1.0 for name in SCHEDULES)


@pytest.mark.parametrize("step", [0, 101])
def test_steps_outside_the_run_are_errors(step):
    with pytest.raises(ValueError, match="steps are 1 to max_steps = 100"):
        lr_factor(step, 100, OptimConfig())


def test_a_warm_up_as_long_as_the_run_is_an_error():
    with pytest.raises(ValueError, match="optim.warmup is 100 steps"):
        lr_factor(1, 100, OptimConfig(warmup=100))


@pytest.mark.parametrize(
    ("warmup", "max_steps", "wanted"),
    [
        (0.0, 100, 1),
        (0.1, 100, 10),
        (0.99, 10, 9),
        (0.999, 2, 1),
        (1.0, 100, 1),
        (1.0, 1, 1),
        (1.4, 100, 1),
        (9.0, 10, 9),
    ],
)
def test_a_warm_up_is_a_share_below_one_and_steps_from_one_on(warmup, max_steps, wanted):
    assert warmup_steps(max_steps, OptimConfig(warmup=warmup)) == wanted


def test_a_warm_up_of_two_steps_leaves_none_of_two():
    with pytest.raises(ValueError, match="optim.warmup is 2 steps, train.max_steps 2"):
        warmup_steps(2, OptimConfig(warmup=2))


def test_a_decay_shorter_than_a_step_is_the_last_step():
    optim = OptimConfig(schedule="wsd", warmup=0.1, decay=0.001, min_lr_ratio=0.1)
    assert [lr_factor(step, 100, optim) for step in (98, 99, 100)] == [1.0, 1.0, 0.1]
