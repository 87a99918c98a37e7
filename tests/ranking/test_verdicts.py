"""What is decided between arms: planted truths come out, and nothing is said that cannot be known."""

import json
import re

import numpy as np
import pytest

from attnlab.ranking.common_model import PairDifference
from attnlab.ranking.verdicts import answer, not_shown_worse, verdict_of, verdicts


def values_of(means, sd=0.001, seeds=range(4), draw=0):
    rng = np.random.default_rng(draw)
    return {arm: {seed: mean + sd * rng.standard_normal() for seed in seeds} for arm, mean in means.items()}


def by_arms(board):
    return {pair["arms"]: pair["verdict"] for pair in board["pairs"]}


PLANTED = {"worst": 5.0, "twin": 4.0005, "best": 4.0, "middle": 4.5}


def test_planted_truths_are_found():
    board, _ = verdicts(values_of(PLANTED), "val_loss", "min", sesoi=0.01)
    found = by_arms(board)
    (twins,) = [arms for arms in found if set(arms) == {"best", "twin"}]
    assert found.pop(twins) == "equivalent" and set(found.values()) == {"better"}
    assert {arm["arm"]: arm["rank"] for arm in board["arms"]} == {"best": None, "twin": None, "middle": 3, "worst": 4}
    assert set(not_shown_worse(board)) == {"best", "twin"}
    assert json.loads(json.dumps(board))["arms"][0].keys() == {"arm", "n", "mean", "low", "high", "rank", "bracketed"}


def test_of_an_accuracy_the_largest_is_best():
    board, _ = verdicts(values_of(PLANTED), "val_accuracy", "max", sesoi=0.01)
    assert [arm["arm"] for arm in board["arms"]][0] == "worst" and not_shown_worse(board) == ["worst"]
    assert board["arms"][0]["rank"] == 1


def test_nothing_is_equivalent_without_a_smallest_effect_of_interest():
    board, _ = verdicts(values_of(PLANTED), "val_loss", "min")
    assert "equivalent" not in by_arms(board).values() and board["sesoi"] is None


def test_noise_is_undecided_and_has_no_rank():
    board, _ = verdicts(values_of(dict.fromkeys("abc", 4.0), sd=0.1, draw=1), "val_loss", "min", sesoi=0.001)
    assert set(by_arms(board).values()) == {"undecided"}
    assert [arm["rank"] for arm in board["arms"]] == [None] * 3 and len(not_shown_worse(board)) == 3


def test_one_run_each_is_undecided_without_a_number_that_cannot_be_known():
    board, _ = verdicts({"a": {0: 1.0}, "b": {0: 2.0}, "c": {}}, "val_loss", "min", sesoi=0.1)
    (pair,) = board["pairs"]
    assert pair == {
        "arms": ("a", "b"),
        "difference": -1.0,
        "low": None,
        "high": None,
        "p": None,
        "verdict": "undecided",
    }
    assert [(arm["arm"], arm["n"], arm["mean"], arm["low"]) for arm in board["arms"]] == [
        ("a", 1, 1.0, None), ("b", 1, 2.0, None), ("c", 0, None, None),
    ]  # fmt: skip


def test_no_arm_with_a_value_is_no_verdict():
    board, _ = verdicts({"a": {}, "b": {}}, "val_loss", "min")
    assert board["pairs"] == [] and not_shown_worse(board) == []


def test_the_baseline_is_compared_with_every_other_arm():
    board, _ = verdicts(values_of(PLANTED), "val_loss", "min", sesoi=0.01, baseline="middle")
    against = sorted(pair["arms"] for pair in board["against_baseline"])
    assert against == [("best", "middle"), ("twin", "middle"), ("worst", "middle")]
    assert {pair["verdict"] for pair in board["against_baseline"]} == {"better"}


@pytest.mark.parametrize(
    "low, high, p, verdict",
    [
        (-0.009, 0.009, 0.9, "equivalent"),
        (0.002, 0.009, 0.01, "equivalent"),  # there, and smaller than anybody cares for
        (0.002, 0.011, 0.01, "better"),
        (-0.011, 0.002, 0.2, "undecided"),
        (-0.01, 0.009, 0.2, "undecided"),  # the margin itself is not within
    ],
)
def test_equivalence_goes_by_the_pairs_own_90_percent_interval(low, high, p, verdict):
    pair = PairDifference("a", "b", (low + high) / 2, 0.001, 10, low - 1, high + 1, p, low, high)
    assert verdict_of(pair, 0.01) == verdict


@pytest.mark.parametrize(
    "means, sd, sesoi, said",
    [
        (
            PLANTED,
            0.001,
            0.01,
            r"(best and twin|twin and best) are equivalent, within 0.01\d* of each other, all better ",
        ),
        ({"a": 4.0, "b": 4.1, "c": 4.2}, 0.001, None, "a is best: better than each of the other 2 arms."),
        ({"a": 4.0, "b": 4.2}, 0.001, None, "a is best: better than the other arm."),
        ({"a": 4.0, "b": 4.0, "c": 4.0}, 0.1, 0.001, "Undecided between "),
        ({"a": 4.0}, 0.1, None, "a is the only arm: nothing to compare."),
        ({}, 0.1, None, "Undecided: no run outside the search has completed, and a test needs two seeds per arm."),
        ({"a": 4.0, "b": 4.1}, 0.0, None, "Undecided: seeds change nothing"),
    ],
)
def test_the_answer_leads_with_what_is_decided(means, sd, sesoi, said):
    assert re.match(said, answer(*verdicts(values_of(means, sd=sd, draw=1), "val_loss", "min", sesoi)))


def test_one_run_each_is_no_answer():
    said = answer(*verdicts({"a": {0: 1.0}, "b": {0: 2.0}}, "val_loss", "min"))
    assert said == "Undecided: a and b have one run each, and a test needs two seeds."


def test_arms_without_a_run_to_judge_are_named():
    said = answer(*verdicts({**values_of({"a": 4.0, "b": 4.2}), "c": {}}, "val_loss", "min"))
    assert said == ("a is better than the other arm. Not judged, as no run outside the search has completed: c.")
    said = answer(*verdicts({"a": {0: 1.0, 1: 1.1}, "b": {}}, "val_loss", "min"))
    assert said == "Undecided: no run outside the search has completed but of a."


def test_an_answer_says_how_many_seeds_would_decide():
    values = {"a": {0: 4.00, 1: 4.01, 2: 4.02}, "b": {0: 4.015, 1: 4.027, 2: 4.03}, "c": {0: 5.0, 1: 5.02, 2: 5.01}}
    board, found = verdicts(values, "val_loss", "min")
    said = answer(board, found)
    assert by_arms(board)["a", "b"] == "undecided"
    assert re.search(r"\. \d+ \[\d+, \d+\] seeds each would decide between a and b", said)
    assert said.startswith("Undecided between a and b, all better than the other arm.")
