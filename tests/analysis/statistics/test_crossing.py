"""At which length two arms are equally fast."""

import numpy as np
import pytest

from analysis.statistics.crossing import crossing, every


def runs(speed, noise=0.0, lengths=(128, 256, 512, 1024)):
    rng = np.random.default_rng(1)
    return {n: [speed(n) * (1 + noise * rng.standard_normal()) for _ in range(5)] for n in lengths}


FLAT = runs(lambda n: 1000.0)


def falling(at):
    """As fast as FLAT at that length, half as fast at twice of it."""
    return runs(lambda n: 1000.0 * at / n)


@pytest.mark.parametrize("at", [130.0, 200.0, 362.0, 1000.0])
def test_it_is_where_the_speeds_are_equal(at):
    found = crossing("flat", "falling", FLAT, falling(at))
    assert found.length == pytest.approx(at) and (found.low, found.high) == pytest.approx((at, at))
    assert (found.a, found.b, found.share, found.faster) == ("flat", "falling", 1.0, "flat")
    assert crossing("falling", "flat", falling(at), FLAT).faster == "flat"


@pytest.mark.parametrize(("other", "faster"), [(900.0, "flat"), (1100.0, "other"), (1000.0, None)])
def test_without_a_crossing_one_is_faster_everywhere(other, faster):
    found = crossing("flat", "other", FLAT, runs(lambda n: other))
    assert (found.length, found.low, found.high, found.share, found.faster) == (None, None, None, 0.0, faster)


def test_of_several_crossings_it_is_the_last():
    zigzag = {128: [900.0], 256: [1100.0], 512: [900.0], 1024: [1100.0]}
    found = crossing("flat", "zigzag", {n: [1000.0] for n in zigzag}, zigzag)
    # on log-log axes between 512 and 1024: ln(10/9) : ln(11/10)
    share = np.log(10 / 9) / (np.log(10 / 9) + np.log(1.1))
    assert found.length == pytest.approx(512 * 2**share) and found.faster == "zigzag"


def test_the_interval_is_that_of_the_resampled_medians():
    left, right = runs(lambda n: 1000.0, 0.05), runs(lambda n: 1000.0 * 400 / n, 0.05)
    found = crossing("a", "b", left, {n: [v * 1.01 for v in values] for n, values in right.items()})
    assert found.low < found.length < found.high and found.share == 1.0
    assert found.low > 300 and found.high < 550
    again = crossing("a", "b", left, {n: [v * 1.01 for v in values] for n, values in right.items()})
    assert found == again, "seeded"


def test_where_fewer_than_half_of_the_resamples_cross_there_is_no_interval():
    sure, torn = {128: [1.0] * 3, 256: [1.0] * 3}, {128: [0.5] * 3, 256: [0.9, 0.95, 1.1]}
    found = crossing("a", "b", sure, torn)
    assert 0 < found.share < 0.5 and (found.length, found.low, found.high) == (None, None, None)


def test_only_common_lengths_count_and_two_are_needed():
    few = {128: [900.0], 4096: [1.0]}
    assert crossing("a", "b", FLAT, few) is None
    assert crossing("a", "b", FLAT, {**few, 256: [1100.0]}).length is not None
    found = every({"a": FLAT, "b": falling(200.0), "c": few})
    assert [(each.a, each.b, n) for each, n in found] == [("a", "b", 4)]
