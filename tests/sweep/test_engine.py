"""Whole sweeps on a real Ray: fair, cooperative, isolated, crash-safe."""

import os
import signal
from collections import Counter

import pytest

from attnlab.records.paths import SweepDir
from tests.contract import check_folder
from tests.sweep.conftest import as_if_alone, finish, free_again, nothing_left, wait_until

pytestmark = pytest.mark.timeout(3600)


def by_process(suite):
    """The trials that each process trained, in their order."""
    seen = {}
    for result in sorted(suite, key=lambda r: r["environment"]["first_step_at"]):
        seen.setdefault(result["environment"]["pid"], []).append(result)
    return list(seen.values())


def no_trial_knows_what_ran_before_it(folder, suite, tmp_path):
    """A process's first trial, and those after another arm's, have the losses of a run by itself."""
    trained = by_process(suite)
    pairs = [pair for seen in trained for pair in zip(seen, seen[1:], strict=False)]
    after_another_arm = [b for a, b in pairs if a["arm"] != b["arm"]]  # none, if each slot had an arm of its own
    later = after_another_arm or [b for _, b in pairs]
    for result in {r["trial_id"]: r for r in (trained[0][0], later[0], later[-1])}.values():
        as_if_alone(folder, result, tmp_path)


@pytest.mark.slow
def test_many_stops_leave_nothing_and_no_trial_knows_what_ran_before_it(write_sweep, launch, folder, tmp_path):
    asha = {"grace_steps": 2, "reduction_factor": 4}
    space = {"optim.lr": {"loguniform": [1e-5, 1e-1]}}
    path = write_sweep(search={"space": space, "trials": 16, "asha": asha, "sampler": "random"})
    done = launch(path, ATTNLAB_TEST=str(tmp_path))
    assert done.returncode == 0, done.stderr
    suite = check_folder(folder)
    states = Counter(r["state"] for r in suite)
    assert len(suite) == 32
    assert states["pruned"] >= 20, "ten times as many stops as slots"
    assert (folder / "analysis" / "report.html").exists()
    assert all(trial.job().hashes.corpus for trial in SweepDir(folder).trials())
    nothing_left(str(tmp_path))

    assert len(by_process(suite)) <= 2, "a slot's workers train one trial after another"
    no_trial_knows_what_ran_before_it(folder, suite, tmp_path)


def test_a_killed_launcher_is_resumed_with_every_trial_once_also_of_a_sweep_that_has_grown(
    write_sweep, launch, launch_here, folder, tmp_path
):
    asha = {"grace_steps": 4, "reduction_factor": 2}
    search = {"space": {"optim.lr": {"loguniform": [1e-3, 1e-1]}}, "trials": 4, "asha": asha}
    path = write_sweep(search=search, confirm={"seeds": [7]}, resources={"max_concurrent": 1})
    first = launch(path, wait=False, ATTNLAB_TEST=str(tmp_path))
    wait_until(lambda: len(list(folder.glob("*/*/results.json"))) >= 3)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    nothing_left(str(tmp_path))
    ended = {p: p.read_bytes() for p in folder.glob("*/*/results.json")}
    begun = {p.parent.name for p in folder.glob("*/*/experiment_config.json")}

    refused = launch_here(path)
    assert refused.returncode == 2 and "--resume" in refused.stderr
    arms = {"gla": {}, "standard": {"model.mixer": "standard"}, "retnet": {"model.mixer": "retnet"}}
    resources = {"max_concurrent": 1, "max_failures": 0, "hang_s": 60}
    path = write_sweep(search={**search, "trials": 5}, confirm={"seeds": [7]}, arms=arms, resources=resources)
    # what was begun goes on beside the arm that is asked for
    done = launch_here(path, "--resume", "--only", "retnet")
    assert done.returncode == 0, done.stderr
    suite = check_folder(folder)
    assert Counter(r["arm"] for r in suite) == {"gla": 6, "standard": 6, "retnet": 6}
    assert Counter(r["phase"] for r in suite) == {"search": 15, "confirm": 3}
    assert all(p.read_bytes() == before for p, before in ended.items()), "a finished trial ran again"
    assert begun <= {r["trial_id"] for r in suite}, "an unfinished trial was not taken up under its own id"

    assert (folder / "analysis" / "report.html").exists()
    assert all(trial.job().hashes.corpus for trial in SweepDir(folder).trials())
    trained_here = [r for r in suite if r["trial_id"] not in begun]
    assert sum(r["state"] == "pruned" for r in trained_here) >= 4, "four times as many stops as slots"
    assert len(by_process(trained_here)) == 1, "the slot's worker trains one trial after another"
    no_trial_knows_what_ran_before_it(folder, trained_here, tmp_path)
    free_again()

    before = {p: p.read_bytes() for p in folder.glob("*/*/*.json*")}
    again = launch_here(path, "--resume")
    assert again.returncode == 0
    assert check_folder(folder) == suite
    assert {p: p.read_bytes() for p in folder.glob("*/*/*.json*")} == before, "a finished sweep is left as it is"


def test_what_the_clusters_devices_cannot_do_is_refused_before_anything_is_written(write_sweep, launch_here, folder):
    """With `auto` the devices are known once Ray is there; trials that fail one by one would be no answer."""
    asked = ("trial.train.step=captured", "resources.gpus_per_worker=auto")
    done = launch_here(write_sweep(arms={"gla": {}}), *asked)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "error: trial.train.step: captured needs CUDA, and this trial runs on cpu; use auto" in done.stderr
    assert not folder.exists()


ONLY_AT_THE_END = """
import torch

class Unsaved(torch.nn.Linear):
    def __init__(self, d_model: int):
        super().__init__(d_model, d_model)

    def forward(self, hidden_states, **extra):
        return super().forward(hidden_states), None, None

    def state_dict(self, *args, prefix="", **kwargs):
        if prefix:  # in a model
            raise RuntimeError("no such state")
        return super().state_dict(*args, prefix=prefix, **kwargs)
"""


def test_a_model_that_would_fail_at_its_end_is_refused_in_a_line_per_arm_before_any_trial(
    write_sweep, launch_here, folder, tmp_path
):
    (tmp_path / "unsaved.py").write_text(ONLY_AT_THE_END)
    arm = {"model.mixer": "unsaved:Unsaved"}
    arms = {"one": arm, "gla": {}, "same": {**arm, "optim.weight_decay": 0.2}}
    done = launch_here(write_sweep(arms=arms, resources={"max_concurrent": 1}))
    assert done.returncode == 2, done.stdout + done.stderr
    why = "rehearsed before the sweep, it fails as its model is exported: RuntimeError: no such state"
    told = [line.partition(" (")[0] for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert told == [f"error: arms.{name}: {why}" for name in ("one", "same")], done.stderr
    assert "unsaved.py:13)" in done.stderr, "the line of the user's file is named"
    assert not folder.exists(), "a corrected sweep can begin there"


@pytest.mark.slow
def test_sigterm_to_all_processes_saves_what_runs_and_says_how_to_resume(write_sweep, launch, folder, tmp_path, tiny):
    """As `timeout`, Slurm and Kubernetes send it; Ctrl-C ends a sweep in the same way."""
    trial = {**tiny, "train": {**tiny["train"], "max_steps": 1_000_000, "eval_every": 50, "save_every": 100_000}}
    path = write_sweep(trial=trial, resources={"max_concurrent": 1})
    process = launch(path, wait=False, ATTNLAB_TEST=str(tmp_path))
    wait_until(lambda: list(folder.glob("*/*/metrics.jsonl")) or process.poll() is not None)
    assert process.poll() is None, finish(process)
    for _ in range(2):  # `timeout` sends it to its child and then to the group
        os.killpg(process.pid, signal.SIGTERM)
    done = finish(process)
    assert done.returncode == 143, done.stdout + done.stderr
    assert "--resume" in done.stderr.splitlines()[-1] and "stopped; what ended is kept" in done.stderr
    assert "***" not in done.stderr and "Traceback" not in done.stderr, done.stderr  # a stack, of C++ or Python
    nothing_left(str(tmp_path))
    assert list(folder.glob("*/*/checkpoints/step_*/state.json")), "far from any regular checkpoint"
    assert (folder / "leaderboard.json").exists() and not list((folder / "ray" / "rehearsals").rglob("*.json"))
