"""What a claim's evidence amounts to, at the very ends of its intervals."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from attnlab.ranking.claims import Claim, Evidence, equivalence, judge
from attnlab.ranking.tests import Comparison, Interval, over_seeds


def of_seeds(values):
    return dict(enumerate(values))


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=12, unique=True), st.floats(0.01, 3))
def test_equivalence_is_two_one_sided_tests_at_five_percent(gaps, margin):
    n, error = len(gaps), np.std(gaps, ddof=1) / math.sqrt(len(gaps))
    if error < 1e-6:
        return
    pair = over_seeds("a", "b", of_seeds(gaps), of_seeds([0.0] * n))
    below, above = (
        stats.ttest_1samp(gaps, margin, alternative="less"),
        stats.ttest_1samp(gaps, -margin, alternative="greater"),
    )
    worse = max(below.pvalue, above.pvalue)
    if abs(worse - 0.05) > 1e-9:
        assert (equivalence(pair, margin) == "supported") == (worse < 0.05)
    outside = max(stats.ttest_1samp(gaps, margin, alternative="greater").statistic,
                  stats.ttest_1samp(gaps, -margin, alternative="less").statistic * -1)  # fmt: skip
    critical = stats.t.ppf(0.975, n - 1)
    if abs(outside - critical) > 1e-9:
        assert (equivalence(pair, margin) == "refuted") == (outside > critical)


def pair_of(middle, half, n=5):
    return Comparison("a", "b", Interval(middle, middle - half, middle + half, n), 0.5, "paired t", "seeds")


def test_equivalence_takes_the_ninety_percent_interval():
    # of 5 seeds, a 95 % interval of half width 1: the 90 % one has 2.131847 / 2.776445 (t tables, 4 degrees of freedom)
    ninety = 2.131847 / 2.776445
    assert equivalence(pair_of(0.0, 1.0), ninety + 1e-4) == "supported"
    assert equivalence(pair_of(0.0, 1.0), ninety - 1e-4) == "undecided"
    for sign in (1, -1):
        assert equivalence(pair_of(sign * 0.5, 1.0), 0.5 + ninety + 1e-4) == "supported"
        assert equivalence(pair_of(sign * 0.5, 1.0), 0.5 + ninety - 1e-4) == "undecided"
        assert equivalence(pair_of(sign * 3.0, 1.0), 1.99) == "refuted"
        assert equivalence(pair_of(sign * 3.0, 1.0), 2.01) == "undecided"
    assert equivalence(Comparison("a", "b", Interval(0.0, None, None, 1), None, "none", "seeds"), 9.0) == "undecided"


def verdict(claim, left, right, mode="min"):
    values = {"a": of_seeds(left), "b": of_seeds(right)}
    return judge(claim, Evidence("val_loss", mode, "seeds", values))


BASE, NOISE = [3.00, 3.01, 2.99, 3.02], [0.0, 0.01, -0.01, 0.005]


@pytest.mark.parametrize(
    ("relation", "mode", "gap", "wanted"),
    [
        ("<", "min", -0.5, "supported"), ("<", "min", 0.5, "refuted"), ("<", "max", -0.5, "supported"),
        (">", "min", 0.5, "supported"), (">", "min", -0.5, "refuted"), (">", "max", 0.5, "supported"),
        ("beats", "min", -0.5, "supported"), ("beats", "min", 0.5, "refuted"),
        ("beats", "max", 0.5, "supported"), ("beats", "max", -0.5, "refuted"),
        ("<", "min", 0.0, "undecided"),
    ],
)  # fmt: skip
def test_each_relation_in_its_direction(relation, mode, gap, wanted):
    left = [b + gap + e for b, e in zip(BASE, NOISE, strict=True)]
    assert verdict(Claim("a", relation, "b"), left, BASE, mode).verdict == wanted


@pytest.mark.parametrize(
    ("claim", "gap", "edge"),
    [  # the gap to the right side's mean of 3, and where the margin's edge lies
        (Claim("a", "<", "b", margin=0.4), -0.5, -0.4),
        (Claim("a", ">", "b", margin=0.4), 0.5, 0.4),
        (Claim("a", "<", "b", margin=10.0, percent=True), -0.5, -0.3005),
        (Claim("a", ">", "b", margin=10.0, percent=True), 0.5, 0.3005),
        (Claim("a", "<", 3.005, margin=10.0, percent=True), -0.5, -0.3005),
        (Claim("a", ">", 3.005, margin=0.2), 0.5, 0.2),
    ],
    ids=str,
)
def test_a_margin_moves_the_edge_by_itself_or_by_its_share_of_the_right_side(claim, gap, edge):
    left = [b + gap + e for b, e in zip(BASE, NOISE, strict=True)]
    found = verdict(claim, left, BASE)
    middle = np.mean(left) - np.mean(BASE)
    assert found.verdict == "supported" and found.pair.difference.value == pytest.approx(middle - edge)
    beyond = replace(claim, margin=20.0 if claim.percent else 0.7)
    assert verdict(beyond, left, BASE).verdict == "refuted"


@pytest.mark.parametrize(
    ("claim", "wanted"),
    [
        (Claim("a", "~", "b", margin=0.05), "supported"),
        (Claim("a", "~", "b", margin=2.0, percent=True), "supported"),
        (Claim("a", "~", "b", margin=0.1, percent=True), "undecided"),
        (Claim("a", "~", 3.005, margin=0.05), "supported"),
        (Claim("a", "~", 4.0, margin=0.05), "refuted"),
        (Claim("a", "~", 4.0, margin=26.0, percent=True), "supported"),
        (Claim("a", "~", 4.0, margin=24.0, percent=True), "refuted"),
    ],
    ids=str,
)
def test_alike_within_a_margin(claim, wanted):
    left = [b + e for b, e in zip(BASE, NOISE, strict=True)]
    assert verdict(claim, left, BASE).verdict == wanted


def test_what_would_decide_is_a_number_of_seeds_at_the_edge_of_the_margin():
    left = [b - 0.01 + e for b, e in zip(BASE, [0.02, -0.02, 0.01, -0.03], strict=True)]
    found = verdict(Claim("a", "<", "b"), left, BASE)
    assert found.verdict == "undecided" and "would decide it with probability 0.8" in found.text
    alike = verdict(Claim("a", "~", "b", margin=0.02), left, BASE)
    assert alike.verdict == "undecided" and "seeds per arm would decide it" in alike.text
    same = verdict(Claim("a", "<", "b"), [b + e for b, e in zip(BASE, [0.01, -0.01, 0.01, -0.01], strict=True)], BASE)
    assert same.verdict == "undecided" and "No number of seeds within reach would decide it" in same.text


@pytest.mark.parametrize(("unit", "said"), [("seeds", "no completed confirm run"), ("items", "no scored items")])
@pytest.mark.parametrize("missing", ["a", "b"])
def test_without_values_nothing_is_decided(unit, said, missing):
    values = {"a": of_seeds(BASE), "b": of_seeds(BASE), missing: {}}
    found = judge(Claim("a", "<", "b"), Evidence("val_loss", "min", unit, values))
    assert found.verdict == "undecided" and f"{missing} has {said}" in found.text
    assert (found.pair.p, found.pair.unit, found.pair.difference.n) == (None, unit, 0)


def test_one_seed_is_a_difference_without_an_interval():
    found = verdict(Claim("a", "<", "b"), [2.0], [3.0])
    assert found.verdict == "undecided" and "at least 2 confirm seeds per arm" in found.text


def test_items_are_compared_where_both_arms_have_them():
    values = {"a": {i: 1.0 for i in range(40)}, "b": {i: 0.0 for i in range(10, 60)}}
    found = judge(Claim("a", ">", "b"), Evidence("hellaswag", "max", "items", values))
    assert (found.verdict, found.pair.difference.n, found.pair.test) == ("supported", 30, "exact McNemar")
