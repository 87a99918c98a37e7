"""Intervals and tests against scipy, statsmodels and simulated data whose truth is known."""

import gc
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.power import TTestIndPower, TTestPower
from statsmodels.stats.proportion import proportion_confint

from attnlab.ranking import pairs, tests
from attnlab.ranking.power import POWER

DRAWS = 2000


def all_over_seeds(values):
    """Every pair of arms over seeds, corrected together; arms without values stay out."""
    arms = [arm for arm, by_seed in values.items() if by_seed]
    return pairs.holm([tests.over_seeds(a, b, values[a], values[b]) for a, b in combinations(arms, 2)])


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


# the truth is some 4.7 %: 10,000 draws tell it from 5, a few hundred from the 8 to 22 % without Holm's correction
FEW = 600, 0.07


@pytest.mark.parametrize(("draws", "most"), [FEW, pytest.param(5 * DRAWS, 0.05, marks=pytest.mark.slow)])
@pytest.mark.parametrize("same_seeds", [True, False])
def test_a_true_null_over_all_pairs_is_called_a_difference_at_most_as_often_as_said(same_seeds, draws, most, quick):
    rng, wrong = np.random.default_rng(7), 0
    for _ in range(draws):
        runs = rng.normal(3.0, 0.02, (4, 5))
        seeds = [range(5 * (0 if same_seeds else arm), 5 * (0 if same_seeds else arm) + 5) for arm in range(4)]
        values = {f"arm{i}": dict(zip(seeds[i], row, strict=True)) for i, row in enumerate(runs)}
        wrong += any(pair.decided for pair in all_over_seeds(values))
    assert wrong / draws <= most


@pytest.mark.parametrize(("draws", "most"), [FEW, pytest.param(DRAWS, 0.05, marks=pytest.mark.slow)])
def test_a_true_null_on_the_same_items_is_called_a_difference_at_most_as_often_as_said(draws, most, quick):
    rng, wrong = np.random.default_rng(8), 0
    for _ in range(draws):
        rights = rng.random((3, 120)) < 0.5
        compared = [tests.over_items(str(i), str(j), rights[i], rights[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
        wrong += any(pair.decided for pair in pairs.holm(compared))
    assert wrong / draws <= most


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
    clear = all_over_seeds({"a": {0: 1.0, 1: 1.01, 2: 1.02}, "b": {0: 2.0, 1: 2.02, 2: 2.01}})[0]
    assert clear.verdict("min") == "a better than b" and clear.verdict("max") == "b better than a"


NUMBERS = st.lists(st.floats(-5, 5).map(lambda v: round(v, 3)), min_size=2, max_size=9, unique=True)


@given(NUMBERS, st.integers(0, 9))
def test_paired_and_single_means_are_scipys(values, shift):
    x, y = np.array(values), np.array([(7 * i + shift) % 5 / 3 for i in range(len(values))])
    ours, reference = tests.paired("a", "b", x, y, "seeds"), scipy_stats.ttest_rel(x, y)
    if np.ptp(x - y) > 1e-9:
        assert (ours.p, ours.difference.value) == pytest.approx((reference.pvalue, (x - y).mean()), abs=1e-9)
        ends = reference.confidence_interval()
        assert (ours.difference.low, ours.difference.high) == pytest.approx((ends.low, ends.high))
        assert (ours.a, ours.b, ours.test, ours.unit, ours.difference.n) == ("a", "b", "paired t", "seeds", len(x))
    alone = tests.mean_over_seeds(values)
    ends = scipy_stats.t.interval(0.95, len(x) - 1, x.mean(), scipy_stats.sem(x))
    assert (alone.value, alone.low, alone.high, alone.n) == pytest.approx((x.mean(), *ends, len(x)))


def test_over_the_same_seeds_whatever_their_order_it_is_the_paired_test():
    left, right = {1: 3.0, 2: 3.4, 3: 3.1}, {3: 3.0, 1: 2.8, 2: 3.3}
    found = tests.over_seeds("a", "b", left, right)
    assert (found.test, found.unit) == ("paired t", "seeds")
    assert found.p == pytest.approx(scipy_stats.ttest_rel([3.0, 3.4, 3.1], [2.8, 3.3, 3.0]).pvalue)
    even = tests.over_seeds("a", "b", {1: 3.0, 2: 3.4}, {1: 2.0, 2: 2.4})  # every difference is 1: Welch's
    assert (even.test, even.difference.n, even.difference.value) == ("Welch's t", 2, pytest.approx(1.0))
    other = tests.over_seeds("a", "b", {1: 3.0, 2: 3.4, 3: 3.2}, {4: 2.0, 5: 2.4})
    assert (other.test, other.difference.n, other.a, other.b, other.unit) == ("Welch's t", 2, "a", "b", "seeds")
    one_varies = tests.over_seeds("a", "b", {1: 3.0, 2: 3.4}, {3: 2.0, 4: 2.0})
    assert one_varies.test == "Welch's t" and one_varies.p is not None
    for left, right in (({1: 1.0}, {2: 2.0, 3: 3.0}), ({1: 1.0, 2: 1.0}, {3: 2.0, 4: 2.0}), ({1: 1.0}, {1: 2.0})):
        none = tests.over_seeds("a", "b", left, right)
        assert (none.p, none.difference.low, none.difference.high) == (None, None, None) and "none" in none.test
        assert none.difference.value == np.mean(list(left.values())) - np.mean(list(right.values()))
        assert (none.difference.n, none.unit, none.a, none.b) == (min(len(left), len(right)), "seeds", "a", "b")


def test_tiny_values_have_a_scatter_of_their_own_size():
    found = tests.paired("a", "b", np.array([1e-13, 3e-13, 2e-13]), np.array([2e-13, 1e-13, 2e-13]), "seeds")
    assert found.test == "paired t" and found.p == pytest.approx(scipy_stats.ttest_1samp([-1, 2, 0], 0).pvalue)


def test_values_on_items_that_are_no_rights_and_wrongs_are_compared_by_the_paired_test():
    x, y = [0.0, 1.0, 0.5, 1.0], [1.0, 0.0, 0.0, 0.25]
    for left, right in ((x, y), ([0, 1, 0, 1], y), (x, [0, 1, 0, 0])):
        found = tests.over_items("a", "b", left, right)
        assert (found.test, found.unit, found.share) == ("paired t", "items", None)
        assert found.p == pytest.approx(scipy_stats.ttest_rel(left, right).pvalue)
    same = tests.over_items("a", "b", [0.5, 0.5], [0.5, 0.5])
    assert (same.p, same.test, same.difference.value, same.difference.n) == (None, "none: no scatter", 0.0, 2)


def test_mcnemar_of_small_tables():
    # 6 to 0: a coin that falls six times on one side, 2 / 64. Bonett and Price: 7/12 and 1/12, so 1/2 -+ 1.96 s
    found = tests.over_items("a", "b", [1] * 6 + [0, 0, 1, 1], [0] * 6 + [0, 0, 1, 1])
    assert (found.p, found.share, found.difference.value, found.difference.n) == (2 / 64, 0.6, 0.6, 10)
    half = 1.959964 * np.sqrt((8 / 12 - 0.25) / 12)
    assert (found.difference.low, found.difference.high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)
    assert tests.over_items("a", "b", [0, 1], [0, 1]).p == 1.0
    assert tests.mcnemar_interval(1, 0, 1).high == 1.0 and tests.mcnemar_interval(0, 1, 1).low == -1.0
    few = tests.over_items("a", "b", [1, 0, 0], [0, 1, 1])
    assert few.difference.value == pytest.approx(-1 / 3) and few.share == 1.0


def test_without_an_item_in_common_there_is_no_difference():
    none = tests.over_items("a", "b", [], [])
    assert (none.p, none.difference.low, none.difference.n, none.verdict("max")) == (None, None, 0, "undecided")


def test_a_mean_over_items_has_scipys_bca_interval():
    values = np.random.default_rng(3).gamma(2.0, 1.5, 40)
    found = tests.mean_over_items(values)
    ends = scipy_stats.bootstrap((values,), np.mean, n_resamples=2000, method="BCa", rng=np.random.default_rng(0))
    assert (found.value, found.n) == (values.mean(), 40)
    assert (found.low, found.high) == tuple(ends.confidence_interval)
    for same in ([2.0, 2.0, 2.0], [2.0]):
        assert tests.mean_over_items(same) == tests.Interval(2.0, None, None, len(same))
    assert tests.mean_over_items([1.0, 2.0]).low is not None


def test_of_no_items_there_is_no_share():
    none = tests.proportion(0, 0)
    assert np.isnan(none.value) and (none.low, none.high, none.n) == (None, None, 0)
    assert (tests.proportion(3, 4).value, tests.proportion(3, 4).n) == (0.75, 4)


@pytest.mark.parametrize(
    ("values", "alike"),
    [
        ([1.0, 1.0 + 1e-13], True),
        ([1.0, 1.0 + 1e-11], False),
        ([0.0, 0.0], True),
        ([-1e6, -1e6 - 1e-7], True),
        ([1e-9, 2e-9], False),
    ],
)
def test_values_are_equal_up_to_rounding_of_their_own_size(values, alike):
    assert (tests.mean_over_seeds(values).low is None) == alike


@pytest.mark.parametrize(
    ("p", "difference", "min_verdict", "max_verdict"),
    [
        (0.05, -1.0, "a better than b", "b better than a"),
        (0.05, 1.0, "b better than a", "a better than b"),
        (0.051, -1.0, "undecided", "undecided"),
        (None, -1.0, "undecided", "undecided"),
        (0.01, 0.0, "undecided", "undecided"),
    ],
)
def test_a_pair_is_decided_by_its_corrected_p(p, difference, min_verdict, max_verdict):
    pair = tests.Comparison("a", "b", tests.Interval(difference, -2.0, 2.0, 5), 0.001, "paired t", "seeds", p_holm=p)
    assert (pair.verdict("min"), pair.verdict("max")) == (min_verdict, max_verdict)
    assert pair.decided == (min_verdict != "undecided") and (pair.better("min") is None) == (not pair.decided)


def test_holm_corrects_over_the_pairs_that_have_a_p():
    made = [tests.Comparison("a", c, tests.Interval(0.1, 0.0, 0.2, 5), p, "paired t", "seeds")
            for c, p in (("b", 0.04), ("c", None), ("d", 0.01), ("e", 0.02))]  # fmt: skip
    # Holm 1979: the smallest p times 3, the next times 2, the last as it is, and never below one before
    assert [pair.p_holm for pair in pairs.holm(made)] == [
        pytest.approx(0.04),
        None,
        pytest.approx(0.03),
        pytest.approx(0.04),
    ]
    assert [pair.needed is None for pair in pairs.holm(made)] == [True, True, True, True]
    one = tests.Comparison("a", "b", tests.Interval(0.1, -0.1, 0.3, 5), 0.2, "paired t", "seeds")
    alone, both = pairs.holm([one])[0], pairs.holm([one, one])[0]
    assert alone.needed == pairs.needed(one, 0.05) < both.needed == pairs.needed(one, 0.025)
    assert pairs.holm([]) == []


def test_every_pair_of_arms_that_have_values():
    values = {"a": {0: 1.0, 1: 1.5}, "b": {}, "c": {0: 3.0, 1: 3.1}, "d": {0: 2.0, 1: 2.2}}
    found = all_over_seeds(values)
    assert [(p.a, p.b) for p in found] == [("a", "c"), ("a", "d"), ("c", "d")] and all(p.p_holm for p in found)
    items = pairs.all_over_items({"a": {0: 1.0, 1: 0.0, 2: 1.0}, "b": {2: 0.0, 1: 1.0}, "c": {9: 1.0}})
    assert [(p.a, p.b, p.difference.n, p.difference.value) for p in items] == [("a", "b", 2, 0.0)]


@pytest.mark.parametrize(
    ("share", "gap", "n", "wanted"),
    [  # Connor 1987, equation 3, by hand: ((1.959964 sqrt(share) + 0.841621 sqrt(share - gap^2)) / gap)^2
        (0.25, 0.05, 200, 783),
        (0.25, -0.05, 200, 783),
        (0.25, 0.05, 1000, 1001),  # more than there were, as these did not do
        (0.1, 0.1, 50, 77),
    ],
)
def test_items_that_decide_are_connors(share, gap, n, wanted):
    pair = tests.Comparison("a", "b", tests.Interval(gap, -0.2, 0.2, n), 0.2, "exact McNemar", "items", share=share)
    assert pairs.needed(pair) == wanted


def test_what_cannot_be_said_needs_no_number():
    def pair(value=0.1, low=-0.1, high=0.3, p=0.2, n=5, **rest):
        return tests.Comparison("a", "b", tests.Interval(value, low, high, n), p, "paired t", "seeds", **rest)

    assert pairs.needed(pair()) > 5
    for nothing in (pair(value=0.0), pair(low=None), pair(high=None), pair(p=None), pair(value=1e-6, share=0.5)):
        assert pairs.needed(nothing) is None
    assert pairs.needed(pair(), shift=0.1) is None and pairs.needed(pair(), shift=-0.1) < pairs.needed(pair())
    assert pairs.needed(pair(share=0.5), shift=0.05) == pairs.needed(pair(), shift=0.05), "t, of a margin"


@pytest.mark.parametrize("test", ["paired t", "Welch's t"])
def test_the_scatter_is_that_of_the_interval_seen(test):
    n, sd, freedom = 6, 0.3, 5 if test == "paired t" else 10
    half = scipy_stats.t.ppf(0.975, freedom) * sd / np.sqrt(n)
    pair = tests.Comparison("a", "b", tests.Interval(0.15, 0.15 - half, 0.15 + half, n), 0.2, test, "seeds")
    assert pairs.needed(pair) == pairs.fewest_pairs(0.5, 0.05, test != "paired t")
    assert pairs.fewest_pairs(0.5, 0.05, False) == 34  # Cohen 1988; G*Power: 33.37 pairs
