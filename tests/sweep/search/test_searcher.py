"""What runs next, and what the studies are told: without Ray's processes, on a made-up folder."""

import json

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from attnlab.plan.extension import leaderboard
from attnlab.plan.load import resolve
from attnlab.records.mirror import Mirror
from attnlab.records.paths import SweepDir
from attnlab.records.results import Hashes, Job
from attnlab.sweep.search.asha import ArmAsha
from attnlab.sweep.search.searcher import ArmSearch, close_records
from attnlab.sweep.search.tpe import WindowedTPE
from attnlab.util.files import write_json


def sweep_of(**changes):
    return resolve(
        {
            "name": "study",
            "trial": {"train": {"max_steps": 8, "eval_every": 2}},
            "arms": {"a": {"model": {"mixer": "gla"}}, "b": {"model": {"mixer": "standard"}}},
            "search": {"space": {"optim.lr": {"loguniform": [1e-4, 1e-1]}}, "trials": 3, **changes.pop("search", {})},
            **changes,
        }
    )


def end(folder, search, tune_id, config, state="completed", value=1.0):
    """Write what training would have left, and tell the searcher."""
    job = Job.model_validate(config["job"])
    home = folder.trial(job.arm, job.trial_id)
    sign = 1 if job.mode == "min" else -1
    rows = [
        {"step": s, "tokens": s, "seconds": s, job.metric: None if state == "diverged" else value + sign / s}
        for s in (2, 4)
    ]
    home.metrics_file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    results = {
        **dict.fromkeys(("steps", "tokens", "seconds", "device_seconds"), 1),
        "seed": job.trial.train.seed,
        **{"trial_id": job.trial_id, "arm": job.arm, "state": state, "phase": job.phase, "settings": job.settings},
        **{"best": None if state == "diverged" else rows[-1], "last": rows[-1], "error": None, "environment": {}},
        **{"n_params": 1, "n_params_non_embedding": 1, "checkpoint": None},
    }
    if state != "dead":
        write_json(home.results_file, results)
    search.on_trial_complete(tune_id, {}, error=state == "dead")


@pytest.fixture
def folder(tmp_path):
    return SweepDir(tmp_path / "study")


def test_a_new_trial_records_the_hashes_it_is_given_and_a_resumed_one_keeps_its_own(folder):
    hashes = [Hashes(corpus="first"), Hashes(corpus="second")]
    first = start(sweep_of(), folder, hashes=lambda trial: hashes[0]).suggest("0")
    again = start(sweep_of(), folder, hashes=lambda trial: hashes[1])
    assert again.suggest("0") == first and first["job"]["hashes"]["corpus"] == "first"
    assert again.suggest("1")["job"]["hashes"]["corpus"] == "second"
    recorded = [trial.job().hashes for trial in folder.trials()]
    assert all(recorded.count(each) == 1 for each in hashes) and len(recorded) == 2


def start(sweep, folder, **options):
    folder.path.mkdir(parents=True, exist_ok=True)
    return ArmSearch(sweep, Mirror(folder), **options)


def run_out(folder, search, state="completed", limit=50):
    """Run whatever it suggests, one at a time; the arms and phases in order."""
    seen = []
    for i in range(limit):
        config = search.suggest(str(i))
        if config == Searcher.FINISHED:
            return seen
        assert config is not None, "it waits for nothing"
        seen.append((config["job"]["arm"], config["job"]["phase"]))
        end(folder, search, str(i), config, state, value=float(i))
    raise AssertionError("it never ends")


def test_arms_are_admitted_in_turn_with_equal_quotas_and_then_confirmed(folder):
    seen = run_out(folder, start(sweep_of(confirm={"seeds": [5, 6]}), folder))
    assert seen[:6] == [("a", "search"), ("b", "search")] * 3
    assert sorted(seen[6:]) == [("a", "confirm")] * 2 + [("b", "confirm")] * 2


@pytest.mark.parametrize("state", ["diverged", "dead"])
def test_a_sweep_whose_trials_all_fail_ends_and_says_so(folder, state):
    search = start(sweep_of(confirm={"seeds": [5]}), folder)
    assert len(run_out(folder, search, state)) == 6, "there is nothing to confirm"
    for arm in search.arms.values():
        assert {t.state for t in arm.study.get_trials()} == {TrialState.FAIL}


def test_studies_are_told_the_truth(folder):
    search = start(sweep_of(), folder)
    for i, state in enumerate(["completed", "completed", "pruned", "diverged", "dead", "pruned"]):
        end(folder, search, str(i), search.suggest(str(i)), state)
    a, b = (search.arms[name].study.get_trials() for name in "ab")
    assert [t.state.name for t in a] == ["COMPLETE", "PRUNED", "FAIL"]
    assert [t.state.name for t in b] == ["COMPLETE", "FAIL", "PRUNED"]
    assert a[0].value == 1.25 and a[1].intermediate_values == {2: 1.5, 4: 1.25}
    assert all(t.user_attrs["trial_id"].startswith(f"t00{t.number}-") for t in a + b)
    backend = optuna.storages.journal.JournalFileBackend(str(folder.journal_file))
    assert len(optuna.storages.JournalStorage(backend).get_all_studies()) == 2


def test_a_resumed_search_suggests_what_it_would_have(folder, tmp_path):
    def lrs(search, count):
        out = []
        for i in range(count):
            config = search.suggest(str(i))
            out.append(config["job"]["settings"]["optim.lr"])
            end(search._folder, search, str(i), config, value=abs(out[-1] - 0.01))
        return out

    sweep = sweep_of(search={"trials": 6})
    whole = lrs(start(sweep, SweepDir(tmp_path / "whole")), 12)
    parts = lrs(start(sweep, folder), 5)
    assert parts + lrs(start(sweep, folder), 7) == whole
    assert whole[0] == whole[1], "arms with one space begin alike"


def test_unfinished_trials_come_first_and_under_their_own_ids(folder):
    search = start(sweep_of(), folder)
    begun = [search.suggest(str(i))["job"]["trial_id"] for i in range(3)]
    again = start(sweep_of(), folder)
    taken = [again.suggest(str(i))["job"]["trial_id"] for i in range(3)]
    assert sorted(taken) == sorted(begun)
    assert again.suggest("3")["job"]["trial_id"] not in begun


def test_a_trial_asked_for_but_never_written_is_taken_up(folder):
    search = start(sweep_of(), folder)
    job = search.suggest("0")["job"]
    folder.trial(job["arm"], job["trial_id"]).config_file.unlink()
    assert start(sweep_of(), folder).suggest("0")["job"]["trial_id"] == job["trial_id"]


def test_more_trials_may_change_what_is_confirmed(folder):
    confirm = {"seeds": [5, 6]}
    run_out(folder, start(sweep_of(confirm=confirm), folder))
    more = sweep_of(search={"trials": 4}, confirm=confirm)
    search = start(more, folder)
    for i in range(2):  # the fourth trial of each arm is its best
        end(folder, search, str(i), search.suggest(str(i)), value=-1.0)
    assert len(run_out(folder, search)) == 4
    board = leaderboard(more, [r for arm in search.arms.values() for r in arm.ended.values()])
    assert [row["confirm"]["n"] for row in board["arms"].values()] == [2, 2]


def test_brackets_are_rebuilt_from_what_was_reported(folder):
    sweep = sweep_of(search={"asha": {"grace_steps": 2, "reduction_factor": 2}})
    search = start(sweep, folder)
    for i in range(4):
        end(folder, search, str(i), search.suggest(str(i)), value=float(i))
    resumed = start(sweep, folder)
    asha = ArmAsha(sweep, resumed.job_of, print, resumed.reports())
    assert [len(rung) for rung in asha.brackets["a"].rungs.values()] == [2, 2]


def test_nothing_is_drawn_ahead_until_it_may_be(folder):
    search = start(sweep_of(), folder, at_first=2)
    assert [search.suggest(f"tune{i}") is None for i in range(3)] == [False, False, True]
    search.on_trial_result("tune0", {})
    assert search.suggest("tune3")["job"]["arm"] == "a"


@pytest.mark.parametrize(
    ("last", "error", "said"),
    [
        ({}, True, "the relay of this trial died"),
        ({}, False, "the trial ended without results"),
        ({"error": "out of memory"}, True, "out of memory"),
    ],
)
def test_what_a_worker_could_not_write_is_written_from_the_reports(folder, last, error, said):
    job = Job.make("a", 3, sweep_of().arm("a").trial, settings={"optim.lr": 0.1})
    home = folder.trial("a", job.trial_id)
    home.path.mkdir(parents=True)
    rows = [
        {"step": s, "tokens": s, "seconds": 2.0 * s, "val_loss": v, "train_loss": v}
        for s, v in ((2, 1.0), (4, 3.0), (6, 2.0))
    ]
    home.metrics_file.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    found = close_records(home, job, last, error)
    assert (found["state"], found["error"], found["phase"], found["arm"]) == ("failed", said, "search", "a")
    assert (found["steps"], found["tokens"], found["seconds"], found["device_seconds"]) == (
        6, 6 * job.trial.tokens_per_step, 12.0, 12.0
    )  # fmt: skip
    assert (found["best"]["step"], found["last"]["step"]) == (2, 6)
    assert (found["trial_id"], found["settings"], found["seed"]) == (job.trial_id, {"optim.lr": 0.1}, 0)
    assert found["checkpoint"] is None and found["environment"] == {} and home.results() == found


def test_without_a_report_all_of_it_is_none(folder):
    job = Job.make("a", 0, sweep_of().arm("a").trial)
    home = folder.trial("a", job.trial_id)
    home.path.mkdir(parents=True)
    found = close_records(home, job, {}, True)
    assert (found["steps"], found["seconds"], found["best"], found["last"]) == (0, 0.0, None, None)
    assert home.metrics_file.read_bytes() == b""


def test_without_a_search_an_arms_runs_are_numbered_from_zero(folder):
    trial = {"train": {"max_steps": 8, "eval_every": 2}}
    arms = {"a": {"model": {"mixer": "gla"}}, "b": {"model": {"mixer": "standard"}}}
    sweep = resolve({"name": "study", "trial": trial, "arms": arms, "confirm": {"seeds": [5, 6]}})
    search = start(sweep, folder)
    assert search.refused is None and len(run_out(folder, search)) == 4
    for arm in search.arms.values():
        assert [(job.number, job.trial.train.seed) for job in arm.jobs.values()] == [(0, 5), (1, 6)]


def test_a_sweep_that_is_over_says_so_and_one_that_waits_does_not(folder):
    search = start(sweep_of(search={"trials": 1}, confirm={"seeds": [5]}), folder)
    first, second = search.suggest("0"), search.suggest("1")
    assert [first["job"]["arm"], second["job"]["arm"]] == ["a", "b"] and search.suggest("2") is None
    end(folder, search, "0", first)
    assert search.ended == 1 and [r["arm"] for r in search.results()] == ["a"] and search.extended == 0
    search.on_trial_complete("0")  # told again: nothing more
    third = search.suggest("2")["job"]
    assert (third["arm"], third["phase"], third["trial"]["train"]["seed"]) == ("a", "confirm", 5)
    assert search.set_search_properties(None, None, {}) and search.save("x") is None
    with pytest.raises(RuntimeError, match="--resume"):
        search.restore("x")


def test_a_study_that_contradicts_the_records_is_told(folder):
    search = start(sweep_of(), folder)
    end(folder, search, "0", search.suggest("0"))
    arm = search.arms["a"]
    ((trial_id, job),) = arm.jobs.items()
    assert arm._check_study() is None
    results = arm.ended[trial_id]
    other = {"val_loss": 7.0}
    for changed in ({"state": "pruned"}, {"state": "failed"}, {"best": other, "last": other}):
        arm.ended[trial_id] = {**results, **changed}
        with pytest.raises(ValueError, match="trial 0 ended otherwise"):
            arm._check_study()
    arm.ended[trial_id] = results
    arm.jobs[trial_id] = job.model_copy(update={"settings": {"optim.lr": 0.5}})
    with pytest.raises(ValueError, match="trial 0 has other settings"):
        arm._check_study()
    arm.jobs.clear()
    assert arm._check_study() is None, "a number without a record is none's"


def test_a_space_without_end_is_searched_by_its_sampler(folder):
    search = start(sweep_of(search={"sampler": "tpe"}), folder)
    search.suggest("0")
    assert type(search.arms["a"].study.sampler) is WindowedTPE


def test_the_first_record_that_could_not_be_written_is_kept_for_the_end(folder, monkeypatch):
    search = start(sweep_of(), folder)
    for i in range(2):
        search.suggest(str(i))
        error = OSError(f"number {i}")
        monkeypatch.setattr(search, "_end", lambda *args, error=error: (_ for _ in ()).throw(error))
        search.on_trial_complete(str(i))
    assert str(search.refused) == "number 0"
