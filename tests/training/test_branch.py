"""Decays that branch off a trunk at ASHA's rungs: they judge it and leave no trace in it."""

import pytest
import torch
from safetensors.torch import load_file

from attnlab.config.merge import merge
from attnlab.config.trial import Trial
from attnlab.plan.load import resolve
from attnlab.records.metrics import best_row, learning_curve
from attnlab.records.paths import TrialDir
from attnlab.records.results import Job
from attnlab.sweep.search.asha import ArmAsha
from attnlab.training import checkpoint
from attnlab.training.loop import train
from attnlab.util.errors import UserError

BRANCHES = {4: 2, 8: 3}


@pytest.fixture
def trial(tiny):
    wsd = {"schedule": "wsd", "decay": 0.25, "warmup": 2}
    return merge(tiny, {"optim": wsd, "train": {"max_steps": 14}})


def job_of(trial, branches=BRANCHES, **changes):
    for key, value in changes.items():
        trial = merge(trial, {key: value})
    return Job.make("arm", 0, Trial.model_validate(trial), branches=branches)


def without_time(rows):
    return [{k: v for k, v in row.items() if k not in ("seconds", "tokens_per_s")} for row in rows]


def weights(home):
    return load_file(home.final / "model.safetensors")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_trunk_trains_as_if_nothing_branched_off(trial, tmp_path, optimizer):
    plain, branched, told = TrialDir(tmp_path / "plain"), TrialDir(tmp_path / "branched"), []
    change = {"optim": {"name": optimizer}}
    a = train(job_of(trial, {}, **change), plain)
    b = train(job_of(trial, **change), branched, told.append)
    rows = branched.metrics()
    assert without_time(learning_curve(rows)) == without_time(plain.metrics())
    assert all(torch.equal(x, y) for x, y in zip(weights(plain).values(), weights(branched).values(), strict=True))
    assert [(r["step"], r.get("branch_steps")) for r in told if r in rows] == [
        *((2, None), (4, None), (4, 2), (6, None), (8, None), (8, 3), (10, None), (12, None), (14, None))
    ]
    assert b["steps"] == 14 + 5 and b["tokens"] == 19 * 4 * 32, "what a branch takes is counted"
    assert (
        a["steps"] == 14
        and b["last"]["step"] == 14
        and b["best"]
        == best_row(plain.metrics(), "val_loss", "min") | {k: b["best"][k] for k in ("seconds", "tokens_per_s")}
    )


def test_a_branch_is_a_run_that_ends_there(trial, tmp_path):
    """From the rung on, the same as a run of 8 + 4 steps whose own decay takes the last 4."""
    long, short = TrialDir(tmp_path / "long"), TrialDir(tmp_path / "short")
    train(job_of(trial, {8: 4}), long)
    train(job_of(trial, {}, optim={"decay": 1 / 3}, train={"max_steps": 12}), short)
    (judged,) = [row for row in long.metrics() if "branch_steps" in row]
    end = short.metrics()[-1]
    assert judged["val_loss"] == end["val_loss"] and judged["lr"] == end["lr"] and judged["tokens"] == end["tokens"]


class Killed(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("cut", ["in the branch", "after the branch", "before the next checkpoint"])
def test_killed_and_resumed_equals_undisturbed_to_the_bit(trial, tmp_path, monkeypatch, optimizer, cut):
    job = job_of(trial, optim={"name": optimizer}, train={"save_every": 4})
    whole, parts = TrialDir(tmp_path / "whole"), TrialDir(tmp_path / "parts")
    ended = train(job, whole)

    def die(row):
        if (cut, row["step"], "branch_steps" in row) in (("after the branch", 8, True), (cut, 10, False)):
            raise Killed

    from attnlab.training.run import Run

    step, seen = Run.step, []

    def die_in_branch(run, n, at):
        seen.append(n)
        if cut == "in the branch" and seen.count(10) == 1 and n == 10:
            raise Killed
        return step(run, n, at)

    monkeypatch.setattr(Run, "step", die_in_branch)
    with pytest.raises(Killed):
        train(job, parts, die)
    monkeypatch.setattr(Run, "step", step)
    assert checkpoint.steps(parts)[-1].name == "step_00000008"
    told = []
    resumed = train(job, parts, told.append)
    assert [(r["step"], "branch_steps" in r) for r in told[:2]] == [(8, False), (8, True)]
    assert without_time(parts.metrics()) == without_time(whole.metrics())
    assert resumed["steps"] == ended["steps"] == 19
    assert all(torch.equal(x, y) for x, y in zip(weights(parts).values(), weights(whole).values(), strict=True))


def test_a_trial_pruned_on_its_branch_keeps_its_trunk(trial, tmp_path):
    home, seen = TrialDir(tmp_path), []
    results = train(job_of(trial), home, seen.append, lambda: "branch_steps" in seen[-1])
    assert (results["state"], results["steps"], results["last"]["step"]) == ("pruned", 6, 4)
    assert results["checkpoint"] == "checkpoints/step_00000004"
    home.results_file.unlink()
    assert train(job_of(trial), home)["state"] == "completed"
    fresh = TrialDir(tmp_path / "fresh")
    train(job_of(trial), fresh)
    assert without_time(home.metrics()) == without_time(fresh.metrics())


def test_a_branch_that_diverges_says_so_and_harms_nobody(trial, tmp_path, monkeypatch):
    home, plain = TrialDir(tmp_path / "diverging"), TrialDir(tmp_path / "plain")
    train(job_of(trial, {}), plain)
    monkeypatch.setattr("attnlab.optim.optimizer.branch_factor", lambda *a: 1e30)
    trunk_only = merge(trial, {"optim": {"schedule": "constant"}})  # the trunk's own decay would take the same factor
    assert train(job_of(trunk_only), home)["state"] == "completed"
    assert [r["val_loss"] is None for r in home.metrics()] == [False, False, True, False, False, True] + 3 * [False]
    assert without_time(learning_curve(home.metrics()))[:5] == without_time(plain.metrics())[:5], (
        "alike until the decay"
    )
    assert "NaN" not in home.metrics_file.read_text()


def sweep_tree(trial, **asha):
    return {
        "name": "study",
        "trial": trial,
        "arms": {"a": {}, "b": {"model": {"mixer": "standard"}}},
        "search": {
            "space": {"optim.lr": {"loguniform": [1e-4, 1e-1]}},
            "trials": 3,
            "asha": {"grace_steps": 4, "reduction_factor": 2, "decay_rungs": True, **asha},
        },
    }


def test_rungs_branch_off_the_stable_trunk_and_are_counted_in_the_plan(trial):
    plan = resolve(sweep_tree(trial))
    assert plan.sweep.search.asha.branches(plan.arm("a").trial) == {4: 1, 8: 2}
    assert plan.total_steps == 2 * 3 * (14 + 3)
    wide = merge(trial, {"train": {"eval_every": 7, "max_steps": 70}})
    between = resolve(
        sweep_tree(wide, grace_steps=14, reduction_factor=1.5)
    )  # rungs 14, 21, 31.5, 47.25: a report each
    assert between.sweep.search.asha.branches(between.arm("a").trial) == {14: 4, 21: 5, 35: 9, 49: 12}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"optim": {"schedule": "cosine"}}, "search.asha.decay_rungs: every arm has optim.schedule cosine; only wsd"),
        ({"optim": {"warmup": 6}}, "search.asha.grace_steps: 4 lies in every arm's warm-up of 6 steps"),
        ({"optim": {"decay": 0.8}}, "search.asha.grace_steps: 4 lies in every arm's final decay, which begins at"),
    ],
)
def test_rungs_that_cannot_be_are_told_before_anything_starts(trial, change, said):
    with pytest.raises(UserError) as error:
        resolve(sweep_tree(merge(trial, change)))
    assert any(line.startswith(said) for line in error.value.problems), error.value.problems


def test_a_searched_schedule_without_a_trunk_is_told(trial):
    tree = sweep_tree(trial)
    tree["search"]["space"]["optim.schedule"] = {"choice": ["wsd", "linear"]}
    with pytest.raises(UserError, match="decay_rungs: every arm has optim.schedule linear"):
        resolve(tree)


def test_asha_judges_by_branches_alone(trial):
    plan, marked = resolve(sweep_tree(trial)), []
    asha = ArmAsha(plan, lambda trial: Job.model_validate(trial.config["job"]), marked.append)
    jobs = [Job.make("a", n, plan.arm("a").trial, branches={4: 1, 8: 2}) for n in range(2)]
    good, bad = (type("T", (), {"config": {"job": job.model_dump(mode="json") | {"trial_id": f"t{n}"}}})
                 for n, job in enumerate(jobs))  # fmt: skip
    asha.on_trial_result(None, good, {"step": 4, "val_loss": 9.0})
    asha.on_trial_result(None, good, {"step": 4, "val_loss": 1.0, "branch_steps": 1})
    asha.on_trial_result(None, bad, {"step": 4, "val_loss": 2.0})
    assert not marked
    asha.on_trial_result(None, bad, {"step": 4, "val_loss": 1.5, "branch_steps": 1})
    assert marked == ["t1"]
    assert Job.model_validate_json(jobs[0].model_dump_json()).branches == {4: 1, 8: 2}
