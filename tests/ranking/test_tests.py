"""Intervals and tests against scipy, statsmodels and simulated data whose truth is known."""

import gc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.power import TTestIndPower, TTestPower
from statsmodels.stats.proportion import proportion_confint

from attnlab.ranking import pairs, tests
from attnlab.ranking.noise_floor import POWER

DRAWS = 2000


def covered(found, truth):
    return np.mean([i.low is not None and i.low <= truth <= i.high for i in found])


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_share_has_wilsons_interval(counts):
    k, n = counts
    ours = tests.proportion(k, n)
    assert (ours.low, ours.high) == pytest.approx(proportion_confint(k, n, method="wilson"), abs=1e-9)
    assert 0 <= ours.low <= ours.value <= ours.high + 1e-12 <= 1 + 2e-12


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_wilson_covers(share):
    draws = np.random.default_rng(1).binomial(400, share, DRAWS)
    assert 0.93 <= covered([tests.proportion(int(k), 400) for k in draws], share) <= 0.97


@pytest.mark.parametrize("n", [3, 5, 20])
def test_students_interval_over_seeds_covers(n):
    draws = np.random.default_rng(2).normal(3.0, 0.02, (DRAWS, n))
    assert 0.93 <= covered([tests.mean_over_seeds(d) for d in draws], 3.0) <= 0.97


@pytest.mark.slow
def test_the_bootstrap_over_items_covers_skewed_values(monkeypatch):
    monkeypatch.setattr(tests, "RESAMPLES", 499)
    draws = np.random.default_rng(3).gamma(2.0, 1.5, (DRAWS, 100))
    assert 0.93 <= covered([tests.mean_over_items(d) for d in draws], 3.0) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "same_seeds", "most"), [(3, True, 0.97), (6, True, 0.97), (5, False, 0.97), (8, False, 0.97), (3, False, 1.0)]
)  # Welch's t with 3 seeds a side is known to be wide
def test_the_interval_of_a_difference_over_seeds_covers(n, same_seeds, most):
    rng, compared = np.random.default_rng(4), []
    for _ in range(DRAWS):
        shared = rng.normal(0, 0.03, n) if same_seeds else np.zeros(n)  # what a seed's data order does to both
        left, right = 3.0 + shared + rng.normal(0, 0.02, n), 3.1 + shared + rng.normal(0, 0.02, n)
        second = range(n) if same_seeds else range(n, 2 * n)
        compared.append(tests.over_seeds("a", "b", dict(enumerate(left)), dict(zip(second, right, strict=True))))
    assert {p.test for p in compared} == {"paired t" if same_seeds else "Welch's t"}
    assert 0.93 <= covered([p.difference for p in compared], -0.1) <= most


@pytest.mark.slow
def test_the_interval_of_a_difference_over_the_same_items_covers():
    rng, found = np.random.default_rng(5), []
    for _ in range(DRAWS):
        kind = rng.choice(4, 300, p=[0.3, 0.18, 0.12, 0.4])  # both right, a alone, b alone, both wrong
        found.append(tests.over_items("a", "b", kind <= 1, (kind == 0) | (kind == 2)).difference)
    assert 0.93 <= covered(found, 0.06) <= 0.97


def test_mcnemar_and_welch_are_statsmodels_and_scipys():
    rng = np.random.default_rng(6)
    x, y = rng.random(250) < 0.6, rng.random(250) < 0.5
    table = [[(x & y).sum(), (x & ~y).sum()], [(~x & y).sum(), (~x & ~y).sum()]]
    assert tests.over_items("a", "b", x, y).p == pytest.approx(mcnemar(table, exact=True).pvalue)
    a, b = rng.normal(size=4), rng.normal(size=7)
    ours = tests.over_seeds("a", "b", dict(enumerate(a)), dict(enumerate(b)))
    reference = scipy_stats.ttest_ind(a, b, equal_var=False)
    assert ours.p == pytest.approx(reference.pvalue)
    assert (ours.difference.low, ours.difference.high) == pytest.approx(tuple(reference.confidence_interval()))


@pytest.fixture
def quick(monkeypatch):
    """Thousands of comparisons: without the n that would decide each, and without the garbage collection of all that
    is in memory for which statsmodels calls at every correction."""
    monkeypatch.setattr(pairs, "needed", lambda *_: None)
    monkeypatch.setattr(gc, "collect", lambda *_: 0)


@pytest.mark.parametrize("same_seeds", [True, False])
def test_a_true_null_over_all_pairs_is_called_a_difference_at_most_as_often_as_said(same_seeds, quick):
    rng, wrong, draws = np.random.default_rng(7), 0, 5 * DRAWS  # the truth is some 4.7 %: 2,000 do not tell it from 5
    for _ in range(draws):
        runs = rng.normal(3.0, 0.02, (4, 5))
        seeds = [range(5 * (0 if same_seeds else arm), 5 * (0 if same_seeds else arm) + 5) for arm in range(4)]
        values = {f"arm{i}": dict(zip(seeds[i], row, strict=True)) for i, row in enumerate(runs)}
        wrong += any(pair.decided for pair in pairs.all_over_seeds(values))
    assert wrong / draws <= 0.05


def test_a_true_null_on_the_same_items_is_called_a_difference_at_most_as_often_as_said(quick):
    rng, wrong = np.random.default_rng(8), 0
    for _ in range(DRAWS):
        rights = rng.random((3, 120)) < 0.5
        compared = [tests.over_items(str(i), str(j), rights[i], rights[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
        wrong += any(pair.decided for pair in pairs.holm(compared))
    assert wrong / DRAWS <= 0.05


@pytest.mark.parametrize("effect", [0.3, 0.8, 2.0])
def test_the_n_that_decides_is_statsmodels(effect):
    for welch, solve in ((False, TTestPower().solve_power), (True, TTestIndPower().solve_power)):
        scale = effect / np.sqrt(2) if welch else effect  # ours is relative to the difference's own scatter
        wanted = solve(effect, power=POWER, alpha=0.05, alternative="two-sided")
        assert pairs.fewest_pairs(scale, 0.05, welch) == pytest.approx(np.ceil(wanted), abs=1)


@pytest.mark.slow
def test_as_many_items_as_said_decide_as_often_as_said():
    rng, shares = np.random.default_rng(9), [0.4, 0.15, 0.1, 0.35]

    def draw(n):
        kind = rng.choice(4, n, p=shares)
        return tests.over_items("a", "b", kind <= 1, (kind == 0) | (kind == 2))

    seen = tests.Comparison("a", "b", tests.Interval(0.05, 0.0, 0.1, 200), 0.2, "exact McNemar", "items", share=0.25)
    n = pairs.needed(seen)
    assert 700 < n < 900
    assert 0.74 < np.mean([draw(n).p < 0.05 for _ in range(400)]) < 0.86


def test_what_cannot_be_tested_is_undecided_and_says_why():
    one = tests.over_seeds("a", "b", {0: 3.0}, {0: 3.1})
    assert (one.p, one.difference.low, one.verdict("min")) == (None, None, "undecided") and "one value" in one.test
    assert tests.over_items("a", "b", [1, 0, 1], [1, 0, 1]).verdict("max") == "undecided"
    same = tests.over_seeds("a", "b", {0: 3.0, 1: 3.1}, {0: 3.0, 1: 3.1})  # the same model twice
    assert same.verdict("min") == "undecided"
    assert tests.mean_over_items([2.0]).low is None and tests.mean_over_seeds([1.0, 1.0]).low is None
    assert [p.needed for p in pairs.holm([one])] == [None]


def test_direction():
    clear = pairs.all_over_seeds({"a": {0: 1.0, 1: 1.01, 2: 1.02}, "b": {0: 2.0, 1: 2.02, 2: 2.01}})[0]
    assert clear.verdict("min") == "a better than b" and clear.verdict("max") == "b better than a"
