"""Claims: the whole grammar, and what evidence amounts to at the very ends of its intervals."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from attnlab.ranking.claims import RELATIONS, Claim, Evidence, equivalence, judge, parse
from attnlab.ranking.tests import Comparison, Interval, over_seeds
from attnlab.util.errors import UserError


def test_every_sentence_of_the_grammar_is_read_as_it_is_written():
    sides, metrics = ("standard", 4.2, 1e-3), (None, "val_loss", "hellaswag")
    margins = ((0.0, False), (0.1, False), (2.0, True))
    for relation, right, metric, (margin, percent) in itertools.product(RELATIONS, sides, metrics, margins):
        claim = Claim("gla", relation, right, metric, margin, percent)
        if relation == "~" and not margin:
            with pytest.raises(UserError, match="needs a margin"):
                parse(str(claim))
        else:
            assert parse(str(claim)) == claim
    assert parse("a < b by 2 %") == parse("a   <  b by 2%") and parse("a < -1.5").right == -1.5
    assert parse("a < b") == Claim("a", "<", "b", None, 0.0, False) and isinstance(parse("a < 4").right, float)
    assert parse("a < b on m by 1e-3") == Claim("a", "<", "b", "m", 0.001, False)
    assert parse("a ~ .5 by +2.%") == Claim("a", "~", 0.5, None, 2.0, True)


@pytest.mark.parametrize(
    "text",
    ["", "gla", "gla <", "gla less standard", "gla < standard on", "gla < standard by", "gla < standard by x",
     "gla < standard by -1", "gla < standard by nan", "gla < standard by 1e999", "gla < standard by 2% on val_loss",
     "gla < standard please", "gla<standard"],
)  # fmt: skip
def test_what_is_no_claim_is_one_line(text):
    with pytest.raises(UserError) as error:
        parse(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "arm", ["gla wide", "1e-3", "-4", "it's", 'say "gla"', "'", '"', "a'b'", "'gla'", "on", "by", "~"]
)
def test_an_arm_whose_name_has_blanks_quotes_or_is_a_number_is_written_in_quotes(arm):
    for claim in (Claim(arm, "<", "b", "val_loss", 2.0, True), Claim("b", ">", arm), Claim(arm, "~", arm, None, 1.0)):
        assert parse(str(claim)) == claim
    assert parse("'gla wide' < \"1e-3\" on 'val loss'") == Claim("gla wide", "<", "1e-3", "val loss")


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
    assert found.claim is claim and (found.pair.a, found.pair.b, found.pair.unit) == ("a", str(claim.right), "seeds")
    assert found.pair.test == ("one-sample t" if isinstance(claim.right, float) else "paired t")
    assert f"supported: {claim}. distance from the margin {found.pair.difference.value:.4f}, 95 % in" in found.text
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
@pytest.mark.parametrize("known", [True, False])  # an arm without values, or one that a benchmark has not scored
def test_without_values_nothing_is_decided(unit, said, missing, known):
    values = {"a": of_seeds(BASE), "b": of_seeds(BASE), missing: {}}
    if not known:
        del values[missing]
    found = judge(Claim("a", "<", "b"), Evidence("val_loss", "min", unit, values))
    assert found.verdict == "undecided" and f"{missing} has {said}" in found.text
    assert (found.pair.p, found.pair.unit, found.pair.difference.n) == (None, unit, 0)
    assert (found.pair.a, found.pair.b, found.pair.difference.low) == ("a", "b", None)


def test_one_seed_is_a_difference_without_an_interval():
    found = verdict(Claim("a", "<", "b"), [2.0], [3.0])
    assert found.text == (
        "undecided: a < b. difference -1.0000 over 1 seeds, without an interval (none: one value or no scatter); "
        "at least 2 confirm seeds per arm that differ would give one."
    )
    assert found.claim == Claim("a", "<", "b") and found.pair.difference.value == -1.0


def test_items_are_compared_where_both_arms_have_them():
    values = {"a": {i: 1.0 for i in range(40)}, "b": {i: 0.0 for i in range(10, 60)}}
    found = judge(Claim("a", ">", "b"), Evidence("hellaswag", "max", "items", values))
    assert (found.verdict, found.pair.difference.n, found.pair.test) == ("supported", 30, "exact McNemar")
    assert (found.pair.a, found.pair.b, found.pair.unit) == ("a", "b", "items")
    values["b"] = {99: 1.0}
    assert judge(Claim("a", ">", "b"), Evidence("hellaswag", "max", "items", values)).verdict == "undecided"
