"""Which trial is an arm's best, what its confirm runs came to, and the order of the arms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnlab.ranking.candidates import best_result, best_settings, confirmed_values, final_value
from attnlab.ranking.leaderboard import notes, rank_arms
from attnlab.ranking.search_coverage import Extension, tuning_summary
from tests.sweep.search.test_searcher import sweep_of


def result(value, state="completed", phase="search", arm="a", number=0, seed=0, **settings):
    """A trial as its results.json has it; its best value is reached at step 4, its last one is 0.5 more."""
    row = None if value is None else {"step": 4, "val_loss": value}
    return {
        "trial_id": f"t{number:03d}-x", "arm": arm, "state": state, "phase": phase, "settings": settings, "seed": seed,
        "best": row, "last": row and {**row, "step": 8, "val_loss": value + 0.5, "tokens_per_s": 100 + number},
        "steps": 8, "tokens": 64, "seconds": 2.0, "device_seconds": 4.0, "n_params": 10 + number,
        "n_params_non_embedding": 5, "checkpoint": None, "error": None, "environment": {},
    }  # fmt: skip


@pytest.mark.parametrize("state", ["diverged", "failed", "pruned"])
@pytest.mark.parametrize(("mode", "far"), [("min", 0.0), ("max", 9.0)])
def test_a_trial_that_did_not_complete_is_never_the_best_result(state, mode, far):
    good = result(2.0, number=1)
    assert best_result([result(far, state), good], "val_loss", mode) is good
    assert best_result([good, result(far, state)], "val_loss", mode) is good
    assert best_result([result(far, state)], "val_loss", mode) is None
    assert best_settings([result(far, state, lr=1)], "val_loss", mode, 2) == []


def test_one_criterion_the_last_report_and_not_an_earlier_better_one():
    early, late = result(1.0), result(1.2, number=1)
    late["last"]["val_loss"] = 1.3  # `early` was at 1.0 and ended at 1.5
    assert best_result([early, late], "val_loss", "min") is late
    assert final_value(early, "val_loss") == 1.5 and final_value(early, "other") is None
    assert final_value(result(None), "val_loss") is None and final_value(result(1.0, "pruned"), "val_loss") is None


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8), st.sampled_from(["min", "max"]))
def test_the_best_is_the_earliest_of_the_best_values(values, mode):
    results = [result(float(v)) for v in values]
    pick = min if mode == "min" else max
    assert best_result(results, "val_loss", mode) is results[values.index(pick(values))]


def test_the_best_settings_come_once_each_and_the_best_first():
    results = [result(v, lr=lr) for v, lr in ((3.0, 1), (1.0, 2), (2.0, 1), (1.5, 2), (9.0, 3))]
    for count, wanted in ((0, []), (1, [2]), (2, [2, 1]), (3, [2, 1, 3]), (9, [2, 1, 3])):
        assert [s["lr"] for s in best_settings(results, "val_loss", "min", count)] == wanted


def board_of(plan, *results):
    return rank_arms(plan, results, None)


def test_arms_are_ranked_by_the_search_until_all_are_confirmed():
    plan = sweep_of(confirm={"seeds": [1, 2]})
    search = [result(1.0, arm="a", **{"optim.lr": 0.1}), result(2.0, arm="b", **{"optim.lr": 0.2})]
    runs = [result(5.0 + s, phase="confirm", arm="a", seed=s, number=3 + s, **{"optim.lr": 0.1}) for s in (1, 2)]
    other = [result(3.0 + s, phase="confirm", arm="b", seed=s, number=3 + s, **{"optim.lr": 0.2}) for s in (1, 2)]
    board = board_of(plan, *search, *runs)
    assert (board["ranked_by"], board["ranking"]) == ("best of search", ["a", "b"])
    board = board_of(plan, *search, *runs, *other)
    assert (board["ranked_by"], board["ranking"]) == ("confirm mean", ["b", "a"])
    assert board["arms"]["a"]["confirm"] == {
        "n": 2, "mean": 7.0, "std": pytest.approx(0.5**0.5), "values": [6.5, 7.5], "settings": {"optim.lr": 0.1}
    }  # fmt: skip
    assert board_of(plan, *search, runs[0])["arms"]["a"]["confirm"]["std"] is None


@pytest.mark.parametrize(("metric", "mode", "wanted"), [("val_loss", "min", "ba"), ("val_accuracy", "max", "ab")])
def test_arms_stand_in_the_metrics_direction_and_those_without_a_value_last(metric, mode, wanted):
    tree = {"task": {"name": "mqar", "seq_len": 32}, "train": {"max_steps": 8, "eval_every": 2}}
    plan = sweep_of(trial=tree, search={"metric": metric, "mode": mode})
    rows = [result(v, arm=arm) for arm, v in (("a", 2.0), ("b", 1.0))]
    for row in rows:
        row["last"] = {"step": 8, metric: row["best"]["val_loss"]}
    assert "".join(board_of(plan, *rows)["ranking"]) == wanted
    assert board_of(plan, rows[1])["ranking"] == ["b", "a"]
    assert board_of(plan, rows[0])["ranking"] == ["a", "b"]


def test_an_arm_has_a_rank_and_an_interval_where_they_are_decided():
    plan = sweep_of(confirm={"seeds": [1, 2, 3]})
    noise = {"a": (0.0, 0.02, 0.01), "b": (0.01, 0.0, 0.03)}

    def board(gap, count=3):
        base = {"a": 1.0, "b": 1.0 + gap}
        return board_of(plan, *(
            result(base[arm] + noise[arm][s] - 0.5, phase="confirm", arm=arm, seed=s, number=s)
            for arm in "ab" for s in range(count)
        ))  # fmt: skip

    apart = board(1.0)
    assert (apart["answer"], apart["not_worse"]) == ("a is best: better than the other arm.", ["a"])
    assert [apart["arms"][arm]["rank"] for arm in "ab"] == [1, 2]
    for row in apart["arms"].values():
        assert row["interval"][0] < row["confirm"]["mean"] < row["interval"][1]
    near = board(0.001)
    assert near["answer"].startswith("Undecided between a and b") and near["not_worse"] == ["a", "b"]
    assert [near["arms"][arm]["rank"] for arm in "ab"] == [None, None] and near["arms"]["a"]["interval"]
    single = board(1.0, count=1)
    assert single["answer"] == "Undecided: a and b have one run each, and a test needs two seeds."
    assert [(row["rank"], row["interval"]) for row in single["arms"].values()] == [(None, None)] * 2


def test_a_row_sums_over_the_arms_trials_and_tells_of_its_best_one():
    plan = sweep_of()
    trials = [result(2.0, number=0), result(0.5, "pruned", number=1), result(1.0, number=2), result(None, "diverged")]
    confirmed = result(0.1, phase="confirm", number=3)
    row = board_of(plan, *trials, confirmed)["arms"]["a"]
    assert row["counts"]["completed"] == 3 and row["steps"] == 40, "all of them count, the search's alone may be best"
    row = board_of(plan, *trials)["arms"]["a"]
    assert board_of(plan, *trials, confirmed)["arms"]["a"]["best"] == row["best"]
    assert row["best"] == {"trial_id": "t002-x", "value": 1.5, "step": 8, "settings": {}, "state": "completed"}
    assert {state: n for state, n in row["counts"].items() if n} == {"completed": 2, "pruned": 1, "diverged": 1}
    assert (row["steps"], row["tokens"], row["seconds"], row["device_seconds"]) == (32, 256, 8.0, 16.0)
    assert (row["n_params"], row["tokens_per_s"], row["peak_mem_gib"]) == (12, 101, None), "all trials' median"
    empty = board_of(plan, *trials)["arms"]["b"]
    assert (empty["best"], empty["confirm"], empty["n_params"], empty["steps"]) == (None, None, None, 0)


def test_without_a_search_the_best_run_is_an_arms_best():
    runs = [result(v, phase="confirm", number=n, seed=n) for n, v in enumerate((2.0, 1.0))]
    board = board_of(sweep_of(), *runs)
    assert board["arms"]["a"]["best"]["value"] == 1.5 and board["arms"]["a"]["confirm"]["n"] == 2


def test_a_board_tells_of_the_sweep_and_keeps_what_it_is_given():
    plan = sweep_of()
    more = Extension(2, {arm.name: arm.space for arm in plan.arms})
    board = rank_arms(plan, [result(1.0, **{"optim.lr": 1e-4}), result(1.0, phase="noise")], more, {"x": 1.0}, {"g": 2})
    assert (board["sweep"], board["metric"], board["mode"]) == ("study", "val_loss", "min")
    assert (board["baselines"], board["guards"], board["noise"]) == ({"x": 1.0}, {"g": 2}, None)
    assert board["arms"]["a"]["certificate"]["extended"] == 2 and board["arms"]["a"]["counts"]["completed"] == 1
    assert [line.partition(":")[0] for line in board["edges"]] == ["a"]
    bare = board_of(plan)
    assert (bare["baselines"], bare["guards"], bare["ranked_by"]) == ({}, {}, "best of search")


def test_what_counts_are_the_best_settings_with_most_runs():
    plan = sweep_of(confirm={"seeds": [1, 2], "top": 2})
    search = [result(1.0, **{"optim.lr": 0.1}), result(2.0, **{"optim.lr": 0.2}), result(3.0, **{"optim.lr": 0.3})]

    def confirmed(*runs):
        made = [result(v, phase="confirm", seed=n, **{"optim.lr": lr}) for n, (lr, v) in enumerate(runs)]
        found = board_of(plan, *search, *made)["arms"]["a"]["confirm"]
        return found and (found["settings"]["optim.lr"], found["values"])

    assert confirmed((0.1, 4.0), (0.2, 3.0)) == (0.2, [3.5]), "as many runs of either: the better mean"
    assert confirmed((0.1, 4.0), (0.1, 4.0), (0.2, 3.0)) == (0.1, [4.5, 4.5]), "more runs count first"
    assert confirmed((0.3, 1.0), (0.2, 3.0)) == (0.2, [3.5]), "a former best counts no more"
    assert confirmed((0.3, 1.0), (0.3, 2.0)) == (0.3, [1.5, 2.5]), "unless none of the best has run"
    assert confirmed() is None


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_of_settings_confirmed_as_often_the_better_mean_counts(mode, sign):
    tree = {"task": {"name": "mqar", "seq_len": 32}, "train": {"max_steps": 8, "eval_every": 2}}
    metric = {"min": "val_loss", "max": "val_accuracy"}[mode]
    plan = sweep_of(trial=tree, search={"metric": metric, "mode": mode}, confirm={"seeds": [1], "top": 2})
    rows = [result(sign * v, phase=phase, number=n, **{"optim.lr": lr}) for n, (phase, lr, v) in enumerate(
        [("search", 0.1, 1.0), ("search", 0.2, 2.0), ("confirm", 0.1, 5.0), ("confirm", 0.2, 4.0)])]  # fmt: skip
    for row in rows:
        row["best"], row["last"] = ({"step": 4, metric: row[each]["val_loss"]} for each in ("best", "last"))
    row = board_of(plan, *rows)["arms"]["a"]
    assert row["best"]["settings"] == {"optim.lr": 0.1} and row["confirm"]["settings"] == {"optim.lr": 0.2}
    assert tuning_summary(plan, "a", rows)["best_by_trials"] == [sign * 1.0 + 0.5] * 2


def test_an_arms_values_are_by_seed():
    plan = sweep_of(confirm={"seeds": [1, 2]})
    runs = [result(float(seed), phase="confirm", seed=seed, **{"optim.lr": 0.1}) for seed in (1, 2)]
    lost = result(9.0, "failed", phase="confirm", seed=3, **{"optim.lr": 0.1})
    assert confirmed_values(plan, [result(1.0, **{"optim.lr": 0.1}), *runs, lost]) == (
        {"optim.lr": 0.1}, {1: 1.5, 2: 2.5}
    )  # fmt: skip


def test_notes_tell_the_guards_findings_then_the_edges():
    board = {"guards": {"warnings": ["x"], "no_op": {"unsure": ["y"]}}, "edges": ["z"], "noise": None, "metric": "m"}
    assert notes(board) == ["warning: x", "unsure: y", "z"]
    assert notes({"guards": None, "edges": [], "metric": "m"}) == []
