"""The noise floor: its runs are beside the search, and its arithmetic is that of the t-test it names."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestIndPower

from attnlab.config.sweep import NOISE_SEED
from attnlab.plan.extension import leaderboard, planned_trials
from attnlab.plan.load import resolve
from attnlab.ranking import noise_floor
from attnlab.ranking.leaderboard import notes
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
    assert found["n"] == 3 and found["detects"]["difference"] == pytest.approx(3.0709 * found["std"], rel=1e-3)
    low, high = found["std_interval"]
    assert (low / found["std"], high / found["std"]) == pytest.approx((0.5991, 2.8736), abs=1e-4)
    assert [each["seeds"] for each in found["needed"]] == [3, 6, 17, 64]
    (line,) = [line for line in notes(board) if line.startswith("noise:")]
    assert "5 runs of a" in line and "With 3 seeds per arm" in line
    unfinished = leaderboard(plan, [r for r in results if r["seed"] != NOISE_SEED])
    assert not [line for line in notes(unfinished) if line.startswith("noise:")]


@pytest.mark.parametrize("k", [3, 4, 10, 100])
@pytest.mark.parametrize("n", [1, 2, 3, 30])
def test_it_is_known_for_every_number_of_seeds(n, k):
    assert noise_floor.power(noise_floor.detectable(n, k - 1), n, k - 1) == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize("d", [0.0, 0.5, 2.0, -2.0])
@pytest.mark.parametrize("freedom", [2, 4, 99])
def test_the_power_of_single_runs_is_that_of_both_tails(d, freedom):
    edge, centre = stats.t.ppf(0.975, freedom), d / np.sqrt(2)
    wanted = stats.nct.sf(edge, freedom, centre) + stats.nct.cdf(-edge, freedom, centre)  # 5 % where nothing differs
    assert noise_floor.power(d, 1, freedom) == pytest.approx(wanted, abs=1e-4)


def test_without_scatter_nothing_is_claimed(folder):
    plan = sweep_of(noise={"arm": "a", "seeds": 3})
    _, results = play(folder, plan, lambda job: 1.0)
    found = leaderboard(plan, results)["noise"]
    assert found["std"] is None and found["detects"] is None and found["needed"] == []


@settings(max_examples=20)
@given(st.integers(2, 40))
def test_the_smallest_difference_is_that_of_the_test(n):
    assert noise_floor.detectable(n, 4) == pytest.approx(
        TTestIndPower().solve_power(nobs1=n, alpha=0.05, power=0.8), rel=1e-5
    )


@settings(max_examples=20)
@given(st.floats(0.15, 6.0))
def test_the_needed_seeds_are_the_fewest_that_do(d):
    n = noise_floor.seeds_for(d)
    assert noise_floor.power(d, n) >= 0.8 and (n == 2 or noise_floor.power(d, n - 1) < 0.8)


def test_the_promise_holds_in_simulation():
    rng = np.random.default_rng(0)
    for n in (3, 8):
        a = rng.normal(size=(4000, n))
        b = rng.normal(size=(4000, n)) + noise_floor.detectable(n, 4)
        assert np.mean(stats.ttest_ind(a, b, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.03)
    k = 5  # single runs of two arms, the scatter known from five others
    s = rng.normal(size=(20000, k)).std(axis=1, ddof=1)
    gap = rng.normal(size=20000) - rng.normal(size=20000) + noise_floor.detectable(1, k - 1)
    found = np.abs(gap) / (s * np.sqrt(2)) > stats.t.ppf(0.975, k - 1)
    assert found.mean() == pytest.approx(0.8, abs=0.02)


def runs_of(values, seeds=5, arm="a"):
    """A plan's noise runs as they ended, and others that are none of its."""
    plan = sweep_of(noise={"arm": arm, "seeds": seeds})
    runs = [result(v - 0.5, arm=arm, phase="noise", seed=NOISE_SEED + i) for i, v in enumerate(values)]
    others = [result(9.0, arm="b", phase="noise", seed=NOISE_SEED), result(9.0, phase="noise", seed=7), result(9.0)]
    return plan, [*others, *reversed(runs)]


def test_single_runs_are_told_apart_by_the_noise_runs_own_scatter():
    values = [1.0, 1.02, 0.99, 1.03, 0.96]
    found = noise_floor.noise_floor(*runs_of(values))
    assert found["values"] == pytest.approx(values) and found["mean"] == pytest.approx(1.0)
    assert (found["n"], found["asked"], found["arm"], found["counts"]["completed"]) == (1, 5, "a", 5)
    assert (found["steps"], found["tokens"], found["seconds"], found["device_seconds"]) == (40, 320, 10.0, 20.0)
    d, s = found["detects"]["difference"] / found["std"], found["std"]
    edge, centre = stats.t.ppf(0.975, 4), d / np.sqrt(2)  # the noncentral t of 4 degrees of freedom
    assert stats.nct.sf(edge, 4, centre) + stats.nct.cdf(-edge, 4, centre) == pytest.approx(0.8, abs=1e-3)
    assert found["detects"]["low"] == pytest.approx(d * found["std_interval"][0])
    assert found["detects"]["high"] == pytest.approx(d * found["std_interval"][1])
    assert [each["difference"] / s for each in found["needed"]] == pytest.approx([4, 2, 1, 0.5])
    (line,) = noise_floor.sentences(found, "val_loss")
    assert "With one run per arm" in line and "val_loss" in line
    (line,) = noise_floor.sentences({**found, "n": 2}, "val_loss")
    assert "With 2 seeds per arm" in line


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


def test_fewest_is_the_first_that_suffices_up_to_the_most():
    for wanted in (2, 3, 4, 5, 7, 8, 9, 31, 32, 33):
        assert noise_floor.fewest(lambda n, wanted=wanted: 0.8 if n >= wanted else 0.79, 33) == wanted
    assert noise_floor.fewest(lambda n: 0.79, 33) is None
    assert noise_floor.fewest(lambda n: 0.8 if n >= 34 else 0.0, 33) is None
    assert noise_floor.seeds_for(0.01) is None and noise_floor.seeds_for(4.0) == 3
