"""The noise floor: its runs are beside the search, and its promise is that of the report's own test."""

import numpy as np
import pytest

from attnlab.config.sweep import NOISE_SEED
from attnlab.plan.extension import leaderboard, planned_trials
from attnlab.plan.load import resolve
from attnlab.ranking import noise_floor
from attnlab.ranking.leaderboard import notes
from attnlab.ranking.power import detectable, seeds_for
from attnlab.records.paths import SweepDir
from tests.ranking.test_leaderboard import result
from tests.sweep.search.test_searcher import end, start, sweep_of


def play(folder, plan, value, limit=100):
    """Run a sweep out, one trial at a time; the jobs in order, and all results."""
    search, jobs = start(plan, folder), []
    for i in range(limit):
        config = search.suggest(str(i))
        if not isinstance(config, dict):
            break
        jobs.append(config["job"])
        end(folder, search, str(i), config, value=value(config["job"]))
    return jobs, [r for arm in search.arms.values() for r in arm.ended.values()]


def by_seed(job):
    return 1.0 + 0.01 * (job["trial"]["train"]["seed"] % 7)


@pytest.fixture
def folder(tmp_path):
    return SweepDir(tmp_path / "study")


def test_it_runs_first_under_seeds_of_its_own_and_changes_nothing_else(folder, tmp_path):
    plain = sweep_of(confirm={"seeds": [1, 2]})
    plan = sweep_of(confirm={"seeds": [1, 2]}, noise={"arm": "b", "seeds": 4})
    jobs, results = play(folder, plan, by_seed)
    first = jobs[:4]
    assert [(j["arm"], j["phase"], j["settings"]) for j in first] == [("b", "noise", {})] * 4
    assert [j["trial"]["train"]["seed"] for j in first] == [NOISE_SEED + i for i in range(4)]
    without, others = play(SweepDir(tmp_path / "plain"), plain, by_seed)
    assert [j["trial_id"] for j in jobs[4:]] == [j["trial_id"] for j in without]
    assert plan.total_trials == plain.total_trials + 4 == len(results) == planned_trials(plan, results)
    board, bare = leaderboard(plan, results), leaderboard(plain, others)
    assert board["arms"] == bare["arms"] and board["ranking"] == bare["ranking"] and bare["noise"] is None
    assert board["noise"]["counts"]["completed"] == 4 and len(board["noise"]["values"]) == 4


def test_it_goes_on_where_it_was_and_with_more_seeds(folder):
    play(folder, sweep_of(noise={"arm": "a", "seeds": 4}), by_seed, limit=2)
    more = sweep_of(noise={"arm": "a", "seeds": 5})
    jobs, results = play(folder, more, by_seed)
    assert [j["trial"]["train"]["seed"] - NOISE_SEED for j in jobs if j["phase"] == "noise"] == [2, 3, 4]
    assert planned_trials(more, results) == len(results)
    other = sweep_of(noise={"arm": "b", "seeds": 3})
    assert not any(noise_floor.planned_for(other, r) for r in results if r["phase"] == "noise")
    assert all(noise_floor.planned_for(other, r) for r in results if r["phase"] == "search")


def test_a_plain_ablation_has_one_too(folder):
    plan = resolve(
        {
            "name": "study",
            "trial": {"train": {"max_steps": 8, "eval_every": 2}},
            "arms": {"a": {"model": {"mixer": "gla"}}, "b": {"model": {"mixer": "standard"}}},
            "noise": {"arm": "a", "seeds": 3},
        }
    )
    jobs, results = play(folder, plan, by_seed)
    assert [(j["arm"], j["phase"]) for j in jobs] == [("a", "noise")] * 3 + [("a", "confirm"), ("b", "confirm")]
    assert leaderboard(plan, results)["arms"]["a"]["counts"]["completed"] == 1


def test_what_it_says(folder):
    plan = sweep_of(confirm={"seeds": [1, 2, 3]}, noise={"arm": "a", "seeds": 5})
    _, results = play(folder, plan, by_seed)
    board = leaderboard(plan, results)
    found = board["noise"]
    values = [1.0 + 0.01 * ((NOISE_SEED + i) % 7) + 0.25 for i in range(5)]
    assert found["values"] == pytest.approx(values) and found["std"] == pytest.approx(np.std(values, ddof=1))
    assert found["n"] == 3
    assert found["detects"]["difference"] == pytest.approx(detectable(2, 3) * found["std"]), "of the plan's two arms"
    low, high = found["std_interval"]
    assert (low / found["std"], high / found["std"]) == pytest.approx((0.5991, 2.8736), abs=1e-4)
    assert [each["seeds"] for each in found["needed"]] == [seeds_for(d, 2) for d in (4.0, 2.0, 1.0, 0.5)]
    (line,) = [line for line in notes(board) if line.startswith("noise:")]
    assert "5 runs of a" in line and "With 3 seeds per arm" in line
    unfinished = leaderboard(plan, [r for r in results if r["seed"] != NOISE_SEED])
    assert not [line for line in notes(unfinished) if line.startswith("noise:")]


def test_without_scatter_nothing_is_claimed(folder):
    plan = sweep_of(noise={"arm": "a", "seeds": 3})
    _, results = play(folder, plan, lambda job: 1.0)
    found = leaderboard(plan, results)["noise"]
    assert found["std"] is None and found["detects"] is None and found["needed"] == []


def runs_of(values, seeds=5, arm="a", **changes):
    """A plan's noise runs as they ended, and others that are none of its."""
    plan = sweep_of(noise={"arm": arm, "seeds": seeds}, **changes)
    runs = [result(v - 0.5, arm=arm, phase="noise", seed=NOISE_SEED + i) for i, v in enumerate(values)]
    others = [result(9.0, arm="b", phase="noise", seed=NOISE_SEED), result(9.0, phase="noise", seed=7), result(9.0)]
    return plan, [*others, *reversed(runs)]


def test_single_runs_detect_nothing_as_no_test_judges_them():
    values = [1.0, 1.02, 0.99, 1.03, 0.96]
    found = noise_floor.noise_floor(*runs_of(values))
    assert found["values"] == pytest.approx(values) and found["mean"] == pytest.approx(1.0)
    assert (found["n"], found["asked"], found["arm"], found["counts"]["completed"]) == (1, 5, "a", 5)
    assert (found["steps"], found["tokens"], found["seconds"], found["device_seconds"]) == (40, 320, 10.0, 20.0)
    assert found["detects"] is None
    assert [each["difference"] / found["std"] for each in found["needed"]] == pytest.approx([4, 2, 1, 0.5])
    (line,) = noise_floor.sentences(found, "val_loss")
    assert "Single runs are judged by no test." in line and "val_loss" in line


def test_more_arms_make_a_larger_difference_of_the_smallest_found():
    seen = []
    for arms in ("ab", "abcdef"):
        trees = {arm: {"model": {"mixer": "gla"}, "optim": {"weight_decay": 0.01 * i}} for i, arm in enumerate(arms)}
        plan, runs = runs_of([1.0, 1.02, 0.99, 1.03, 0.96], confirm={"seeds": list(range(8))}, arms=trees)
        seen.append(noise_floor.noise_floor(plan, runs)["detects"]["difference"])
    assert seen[1] > seen[0]


@pytest.mark.parametrize(
    ("values", "mean", "known"), [((), None, False), ((1.0, 2.0), 1.5, False), ((1, 2, 3), 2, True)]
)
def test_the_scatter_is_known_from_three_runs_on(values, mean, known):
    found = noise_floor.noise_floor(*runs_of(values, seeds=3))
    assert found["mean"] == mean and (found["std"] is not None) == known == bool(found["needed"])
    assert len(noise_floor.sentences(found, "val_loss")) == (len(values) == 3)


def test_runs_that_failed_or_diverged_give_no_value():
    plan, runs = runs_of([1.0, 2.0, 3.0, 4.0, 5.0])
    runs[-1]["state"], runs[-2]["last"] = "diverged", None
    found = noise_floor.noise_floor(plan, runs)
    assert found["values"] == [3.0, 4.0, 5.0] and (found["counts"]["completed"], found["counts"]["diverged"]) == (4, 1)
    for run in runs:
        run["state"] = "failed"
    (line,) = noise_floor.sentences(noise_floor.noise_floor(plan, runs), "val_loss")
    assert line == "noise: 0 runs of a gave a value, so its scatter is not known"
    assert noise_floor.noise_floor(sweep_of(), runs) is None and noise_floor.sentences(None, "x") == []
