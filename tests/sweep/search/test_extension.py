"""Equal chances for every arm, and a record that proves it: without Ray's processes, on a made-up folder."""

import pytest

from attnlab.config import sweep_file
from attnlab.plan.extension import extension, leaderboard, planned_trials
from attnlab.ranking.search_coverage import tuning_summary
from attnlab.records.paths import SweepDir
from attnlab.util.errors import UserError
from tests.sweep.search.test_searcher import end, run_out, start, sweep_of


@pytest.fixture
def folder(tmp_path):
    return SweepDir(tmp_path / "study")


def play(folder, plan, value, limit=200):
    """Run a sweep out, one trial at a time, each with the value that `value(job)` gives."""
    search = start(plan, folder)
    for i in range(limit):
        config = search.suggest(str(i))
        if not isinstance(config, dict):
            break
        end(folder, search, str(i), config, value=value(config["job"]))
    return search


def board_of(plan, search):
    return leaderboard(plan, [r for arm in search.arms.values() for r in arm.ended.values()])


def lrs(search, arm, phase="search"):
    jobs = sorted(search.arms[arm].jobs.values(), key=lambda job: job.number)
    return [job.settings["optim.lr"] for job in jobs if job.phase == phase]


def test_the_certificate_counts_everything_and_places_the_best(folder):
    plan = sweep_of(search={"trials": 4, "sampler": "random"}, confirm={"seeds": [1, 2]})
    search = play(folder, plan, lambda job: job["settings"]["optim.lr"])  # the smallest rate wins
    row = board_of(plan, search)["arms"]["a"]["certificate"]
    assert (row["asked"], row["ended"], row["completed"], row["searched"]) == (6, 6, 6, 1)
    rates = lrs(search, "a")
    assert row["best_by_trials"] == pytest.approx([min(rates[: n + 1]) + 0.25 for n in range(4)])
    found = row["settings"]["optim.lr"]
    assert found["value"] == min(rates) and (found["low"], found["high"]) == (1e-4, 1e-1)


@pytest.mark.parametrize(("factor", "edge"), [(1.0, "lower"), (-1.0, "upper")])
def test_an_optimum_at_the_end_of_its_range_is_told(folder, factor, edge):
    plan = sweep_of(search={"space": {"optim.lr": {"choice": [0.001, 0.01, 0.1]}}, "trials": 3})
    board = board_of(plan, play(folder, plan, lambda job: factor * job["settings"]["optim.lr"]))
    assert [line.partition(":")[0] for line in board["edges"]] == ["a", "b"]
    assert f"its best optim.lr, {0.001 if edge == 'lower' else 0.1}, lies at the {edge} edge" in board["edges"][0]
    assert "of the range [0.001, 0.1]" in board["edges"][0]
    inside = sweep_of(name="inside", search={"space": {"optim.lr": {"choice": [0.001, 0.01, 0.1]}}, "trials": 3})
    middle = play(SweepDir(folder.path.parent / "inside"), inside, lambda job: abs(job["settings"]["optim.lr"] - 0.01))
    assert board_of(inside, middle)["edges"] == []


def test_the_first_value_that_is_tried_lies_at_no_edge(folder):
    plan = sweep_of(search={"space": {"optim.lr": {"choice": [0.001, 0.01, 0.1]}}, "trials": 3, "sampler": "grid"})
    search = play(folder, plan, lambda job: job["settings"]["optim.lr"], limit=2)  # one trial of either arm
    assert lrs(search, "a") == [0.001] and board_of(plan, search)["edges"] == []


def test_where_all_settings_tie_nothing_lies_at_an_edge(folder):
    plan = sweep_of(search={"space": {"optim.lr": {"choice": [0.001, 0.01, 0.1]}}, "trials": 3, "extend": 2})
    board = board_of(plan, play(folder, plan, lambda job: 0.5))
    assert board["edges"] == [] and board["arms"]["a"]["certificate"]["extended"] == 0


@pytest.mark.parametrize(
    ("values", "edge"),
    [
        ({0.0001: 1.0, 0.01: 2.0, 0.09: 2.0}, "lower"),
        ({0.0001: 1.0, 0.00011: 1.0, 0.01: 2.0}, "lower"),
        ({0.0001: 1.0, 0.01: 1.0, 0.09: 2.0}, None),  # as good inside the range
        ({0.0001: 1.0, 0.01: 2.0, 0.1: 1.0}, None),  # and at the other end
        ({0.0001: 1.0, 0.00011: 1.0}, None),  # nothing tells them apart
        ({0.0001: 1.0}, "lower"),
        ({0.0001: 1.0, 0.01: None}, "lower"),  # one that diverged has no value to tie with
    ],
)
def test_settings_as_good_as_the_best_must_lie_at_the_same_edge(values, edge):
    plan = sweep_of(search={"space": {"optim.lr": {"loguniform": [1e-4, 1e-1]}}, "trials": len(values)})
    ended = [result("a", i, value, **{"optim.lr": lr}) for i, (lr, value) in enumerate(values.items())]
    ended = [{**r, "state": "completed" if r["best"]["val_loss"] else "diverged"} for r in ended]
    assert tuning_summary(plan, "a", ended)["settings"]["optim.lr"]["edge"] == edge


def at_the_end(job):
    return job["settings"]["optim.lr"] if job["arm"] == "a" else abs(job["settings"]["optim.lr"] - 0.003)


def test_a_search_is_extended_for_all_arms_alike_and_then_confirmed(folder):
    search = {"space": {"optim.lr": {"loguniform": [1e-3, 1e-1]}}, "trials": 12, "extend": 4, "sampler": "random"}
    plan = sweep_of(search=search, confirm={"seeds": [7]})
    found = play(folder, plan, at_the_end)
    assert min(lrs(found, "a")[:12]) < 1e-3 * 100**0.05, "by chance no trial lay at the end: choose another seed"
    assert all(len(lrs(found, arm)) == 16 and len(lrs(found, arm, "confirm")) == 1 for arm in "ab")
    assert all(1e-3 <= rate <= 1e-1 for rate in lrs(found, "a")[:12] + lrs(found, "b"))
    assert all(1e-4 <= rate <= 1e-1 for rate in lrs(found, "a")[12:]) and found.extended == 8
    assert lrs(found, "a", "confirm") == [min(lrs(found, "a"))]
    again = start(plan, folder)
    assert again.suggest("x") == "FINISHED" and again.extended == 8
    row = board_of(plan, again)["arms"]["b"]["certificate"]
    assert row["asked"] == 12 + 4 + 1 == row["ended"]


def test_of_a_metric_that_rises_the_greatest_value_is_searched_confirmed_and_ranked_first(folder):
    search = {"trials": 4, "sampler": "random", "metric": "val_accuracy", "mode": "max", "extend": 2}
    trial = {"task": {"name": "mqar", "seq_len": 32}, "train": {"max_steps": 8, "eval_every": 2}}
    plan = sweep_of(trial=trial, search=search, confirm={"seeds": [7]})
    found = play(folder, plan, lambda job: job["settings"]["optim.lr"] * (1.0 if job["arm"] == "b" else 0.5))
    rates, board = lrs(found, "a"), board_of(plan, found)
    assert lrs(found, "a", "confirm") == [max(rates)] and board["ranking"] == ["b", "a"]
    row = board["arms"]["a"]
    assert row["certificate"]["best_by_trials"] == pytest.approx(
        [0.5 * max(rates[: n + 1]) - 0.25 for n in range(len(rates))]
    )
    assert row["best"]["value"] == pytest.approx(0.5 * max(rates) - 0.25)
    again = start(plan, folder)
    assert again.suggest("x") == "FINISHED" and again.arms["a"].study.best_params == {"optim.lr": max(rates)}
    ended = [result(arm, n, None, **{"optim.lr": lr}) for arm in "ab" for n, lr in enumerate((1e-4, 1e-1, 1e-2, 1e-3))]
    ended = [{**r, "last": {"val_accuracy": r["settings"]["optim.lr"]}} for r in ended]
    wide = extension(plan, ended).spaces["a"]["optim.lr"]
    assert (wide.low, wide.high) == pytest.approx((1e-4, 1e-1 * 1000**0.5)), "widened where the greatest value lies"


def results_of(search):
    return [r for arm in search.arms.values() for r in arm.ended.values()]


def test_an_extension_cut_short_goes_on_even_if_the_best_has_come_inside(folder):
    search = {"space": {"optim.lr": {"loguniform": [1e-3, 1e-1]}}, "trials": 12, "extend": 4, "sampler": "random"}
    plan = sweep_of(search=search)

    def value(job):  # the widened range goes down to 1e-4
        return abs(job["settings"]["optim.lr"] - 0.0005)

    found = play(folder, plan, value, limit=24 + 3)
    more = extension(plan, results_of(found))
    assert more.trials == 4 and planned_trials(plan, results_of(found)) == 32 > len(results_of(found)) == 27
    assert more.spaces["a"]["optim.lr"].low == pytest.approx(1e-4)
    found = play(folder, plan, value)
    assert len(results_of(found)) == 32 and planned_trials(plan, results_of(found)) == 32
    for row in board_of(plan, found)["arms"].values():
        place = row["certificate"]["settings"]["optim.lr"]
        assert place["low"] == pytest.approx(1e-4), "judged in the range searched last"
        assert row["certificate"]["extended"] == 4 and 0 <= place["place"] <= 1


def result(arm, number, value, **settings):
    """As much of a results.json as the rules read."""
    counts = {"steps": 1, "tokens": 1, "device_seconds": 1.0}
    known = {"trial_id": f"t{number:03d}-0", "arm": arm, "phase": "search", "state": "completed", "settings": settings}
    return {**known, **counts, "best": {"val_loss": value}, "last": {"val_loss": value}}


@pytest.mark.parametrize(
    ("form", "best", "low", "high"),
    [
        ({"uniform": [0.0, 0.9]}, 0.89, 0.0, 0.95625),  # below 1 an eighth of the way is valid
        ({"uniform": [0.0, 0.3]}, 0.001, 0.0, 0.3),  # and nothing below 0
        ({"uniform": [0.1, 0.3]}, 0.101, 0.0, 0.3),
        ({"uniform": [0.1, 0.3]}, 0.2, 0.1, 0.3),
    ],
)
def test_a_range_is_widened_as_far_as_the_trial_is_valid(form, best, low, high):
    plan = sweep_of(search={"space": {"model.dropout": form}, "trials": 1, "extend": 2})
    found = extension(plan, [result(arm, 0, 1.0, **{"model.dropout": best}) for arm in "ab"])
    widened = found.spaces["a"]["model.dropout"]
    assert (widened.low, widened.high) == (pytest.approx(low), pytest.approx(high))
    assert found.trials == (2 if (low, high) != tuple(form["uniform"]) else 0)
    ended = [result("a", 0, 1.0, **{"model.dropout": best})]
    assert extension(plan, ended) is None and planned_trials(plan, ended) == plan.total_trials, "arm b has not ended"


@pytest.mark.parametrize(("extend", "points", "trials"), [(3, 9, 3), (9, 9, 7), (3, 2, 0)])
def test_all_arms_get_as_many_trials_as_the_smallest_space_has_left(extend, points, trials):
    own = {"model": {"mixer": "gla"}, "search": {"space": {"model.n_layers": {"int": [1, 4]}}}}
    space = {"optim.lr": {"choice": [0.01 * i for i in range(1, points + 1)]}}
    plan = sweep_of(arms={"a": own, "b": {}}, search={"space": space, "trials": 2, "extend": extend})
    ended = [result("a", i, float(i), **{"optim.lr": 0.02, "model.n_layers": 4 - i}) for i in range(2)]
    ended += [result("b", i, 1.0, **{"optim.lr": 0.02}) for i in range(2)]
    found = extension(plan, ended)
    assert found.trials == trials, "what b's choices leave"
    assert found.spaces["a"]["model.n_layers"].high == (6 if trials else 4), "widened only where it is searched"
    assert found.spaces["b"] == plan.arm("b").space and planned_trials(plan, ended) == plan.total_trials + 2 * trials


@pytest.mark.parametrize(("best", "low", "high"), [(2, 1, 8), (8, 2, 11), (5, 2, 8)])
def test_a_lower_end_that_no_trial_can_have_is_moved_half_as_far(best, low, high):
    plan = sweep_of(search={"space": {"model.n_layers": {"int": [2, 8]}}, "trials": 1, "extend": 2})
    found = extension(plan, [result(arm, 0, 1.0, **{"model.n_layers": best}) for arm in "ab"])
    widened = found.spaces["a"]["model.n_layers"]
    assert (widened.low, widened.high) == (low, high)


def test_the_board_keeps_baselines_and_guards():
    board = leaderboard(sweep_of(), [], {"uniform_loss": 1.0}, {"mode": "warn"})
    assert (board["baselines"], board["guards"]) == ({"uniform_loss": 1.0}, {"mode": "warn"})


def test_trials_are_ordered_by_number_beyond_a_thousand(folder):
    plan = sweep_of(search={"trials": 2000})
    results = [result("a", number, value) for number, value in ((1000, 1.0), (101, 3.0), (999, 2.0))]
    assert tuning_summary(plan, "a", results)["best_by_trials"] == [3.0, 2.0, 1.0]


def test_a_search_that_ends_inside_its_ranges_is_not_extended(folder):
    search = {"space": {"optim.lr": {"choice": [0.001, 0.01, 0.1]}}, "trials": 3, "extend": 4}
    found = play(folder, sweep_of(search=search), lambda job: abs(job["settings"]["optim.lr"] - 0.01))
    assert found.extended == 0 and all(len(lrs(found, arm)) == 3 for arm in "ab")


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_settings_are_never_trained_twice_and_a_finite_space_ends(folder, sampler):
    space = {"optim.lr": {"choice": [0.001, 0.01]}, "optim.weight_decay": {"choice": [0.0, 0.1, 0.2]}}
    plan = sweep_of(search={"space": space, "trials": 50, "sampler": sampler})
    search = play(folder, plan, lambda job: job["settings"]["optim.lr"])
    for arm in search.arms.values():
        tried = [tuple(sorted(job.settings.items())) for job in arm.jobs.values()]
        assert len(tried) == len(set(tried)) == 6
        told = arm.study.get_trials()
        assert not [t for t in told if t.state.name == "RUNNING"]
        assert all(t.value == pytest.approx(t.params["optim.lr"] + 0.25) for t in told if t.state.name == "COMPLETE")
        row = board_of(plan, search)["arms"][arm.name]["certificate"]
        assert row["repeated"] == len(told) - 6 and (row["repeated"] == 0 or sampler != "grid")
    assert plan.total_trials == 12


def test_a_repeat_that_a_crash_left_untold_is_not_trained(folder):
    plan = sweep_of(search={"space": {"optim.lr": {"choice": [0.001, 0.01, 0.1]}}, "trials": 3})
    search = play(folder, plan, lambda job: 1.0, limit=4)
    arm = search.arms["a"]
    arm.study.enqueue_trial({"optim.lr": lrs(search, "a")[0]})
    arm.study.ask({"optim.lr": plan.arm("a").space["optim.lr"].distribution()})  # and the launcher dies
    again = play(folder, plan, lambda job: 1.0)
    assert sorted(lrs(again, "a")) == [0.001, 0.01, 0.1]
    assert not [t for t in again.arms["a"].study.get_trials() if t.state.name == "RUNNING"]


def test_failed_settings_are_not_suggested_again(folder):
    space = {"optim.lr": {"choice": [0.001, 0.01, 0.1]}}
    search = start(sweep_of(search={"space": space, "trials": 9}), folder)
    run_out(folder, search, "diverged")
    assert all(sorted(lrs(search, arm)) == [0.001, 0.01, 0.1] for arm in "ab")


def test_cma_es_goes_on_after_a_resume_as_it_would_have(folder, tmp_path):
    search = {"sampler": "cmaes", "trials": 14, "space": {"optim.lr": {"loguniform": [1e-4, 1e-1]},
              "optim.weight_decay": {"uniform": [0.0, 0.3]}}}  # fmt: skip
    plan = sweep_of(search=search)

    def value(job):
        return abs(job["settings"]["optim.lr"] - 0.02)

    whole = play(SweepDir(tmp_path / "whole"), plan, value)
    play(folder, plan, value, limit=17)
    assert lrs(play(folder, plan, value), "a") == lrs(whole, "a")
    with pytest.raises(UserError, match="sampler cmaes takes ranges only"):
        sweep_of(search={"sampler": "cmaes", "space": {"optim.lr": {"choice": [0.1, 0.2]}}})


def test_an_arm_may_search_settings_of_its_own(folder):
    arms = {"a": {"model": {"mixer": "gla"}}, "b": {"model": {"mixer": "gla"}, "search": {"space": {
            "model.mixer.expand_k": {"choice": [0.5, 1.0]}}}}}  # fmt: skip
    plan = sweep_of(arms=arms)
    search = play(folder, plan, lambda job: job["settings"]["optim.lr"])
    settings = {arm: {key for job in search.arms[arm].jobs.values() for key in job.settings} for arm in "ab"}
    assert settings == {"a": {"optim.lr"}, "b": {"optim.lr", "model.mixer.expand_k"}}
    assert [len(lrs(search, arm)) for arm in "ab"] == [3, 3], "no more trials for more dimensions"
    jobs = search.arms["b"].jobs.values()
    assert all(job.trial.model.mixer[0].args["expand_k"] == job.settings["model.mixer.expand_k"] for job in jobs)


def test_arms_with_one_space_begin_alike_also_beside_one_with_more(folder):
    own = {"space": {"optim.weight_decay": {"uniform": [0.0, 0.3]}}}
    plan = sweep_of(arms={"a": {}, "b": {"model": {"mixer": "gla"}, "search": own}})
    search = play(folder, plan, lambda job: 1.0)
    assert lrs(search, "a")[0] == lrs(search, "b")[0]
    jobs = {arm: list(search.arms[arm].jobs.values()) for arm in "ab"}
    for key in ("seed", "max_steps", "batch_size"):
        assert len({getattr(job.trial.train, key) for arm in "ab" for job in jobs[arm]}) == 1, "same data, same order"


def test_an_own_space_is_overridden_by_its_dotted_key():
    raw = {"arms": {"b": {"search": {"space": {}}}}}
    sweep_file.override(raw, ["arms.b.search.space.model.mixer.expand_k={choice: [0.5, 1.0]}"])
    assert raw["arms"]["b"]["search"]["space"] == {"model.mixer.expand_k": {"choice": [0.5, 1.0]}}


@pytest.mark.parametrize(
    ("search", "line"),
    [
        (
            {"space": {"optim.lr": {"choice": [0.1, 0.2]}}, "trials": 4},
            "arm a has 2 .* set search.trials to 2",
        ),
        ({"space": {"optim.lr": {"choice": [0.1, 0.2]}}, "sampler": "grid"}, "give all arms as many points"),
        ({"metric": "val_lss"}, "no metric 'val_lss'; did you mean 'val_loss'"),
    ],
)
def test_unequal_budgets_and_unknown_metrics_are_mistakes(search, line):
    own = {"space": {"optim.weight_decay": {"choice": [0.0, 0.1, 0.2]}}}
    with pytest.raises(UserError, match=line):
        sweep_of(arms={"a": {}, "b": {"model": {"mixer": "gla"}, "search": own}}, search=search)


@pytest.mark.parametrize(
    ("own", "line"),
    [
        ({"space": {"optim.lr": {"loguniform": [1, 0]}}}, r"arms\.b\.search\.space\.optim\.lr: loguniform"),
        ({"trials": 5}, r"arms\.b\.search\.trials: all arms share it"),
        ({"space": {"model.mixer.expnd_k": {"choice": [1, 2]}}}, "expnd_k"),
    ],
)
def test_mistakes_in_an_arms_own_space_are_told(own, line):
    with pytest.raises(UserError, match=line):
        sweep_of(arms={"a": {}, "b": {"model": {"mixer": "gla"}, "search": own}})


def test_the_best_of_several_confirmed_settings_counts(folder):
    plan = sweep_of(search={"trials": 4, "sampler": "random"}, confirm={"seeds": [1, 2], "top": 2})
    best = {}

    def value(job):
        rate = job["settings"]["optim.lr"]
        if job["phase"] == "search":
            best.setdefault(job["arm"], []).append(rate)
            return rate
        return -rate  # over the seeds the second best setting wins

    search = play(folder, plan, value)
    assert plan.total_trials == 2 * (4 + 2 * 2) == sum(len(arm.ended) for arm in search.arms.values())
    row = board_of(plan, search)["arms"]["a"]
    second = sorted(best["a"])[1]
    assert row["best"]["settings"]["optim.lr"] == min(best["a"])
    assert row["confirm"]["settings"]["optim.lr"] == second and row["confirm"]["n"] == 2
    assert row["confirm"]["mean"] == pytest.approx(-second + 0.25)
