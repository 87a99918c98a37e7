"""Whole sweeps on a real Ray: fair, cooperative, isolated, crash-safe. Each runs launch.py as a user does."""

import json
import os
import signal
import time
from collections import Counter

import pytest

from attnlab.records.paths import SweepDir, TrialDir
from attnlab.records.results import Job
from attnlab.training.loop import train
from tests.contract import check_folder
from tests.sweep.conftest import finish, ray_processes_of, rows_of

pytestmark = pytest.mark.timeout(400)


def wait_until(condition, timeout_s=180, every_s=0.1):
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(every_s)
    raise AssertionError(f"waited {timeout_s} s in vain")


def nothing_left(marker):
    """Every process the sweep started is gone soon after it: within 3 s, but for a worker of Ray's that was only just
    starting, which was seen to look for its cluster for 26 s; to one that it had found and lost, Ray gives 60."""
    try:
        wait_until(lambda: not ray_processes_of(marker), 90)
    except AssertionError as error:
        left = [" ".join(p.info["cmdline"] or [])[:150] for p in ray_processes_of(marker)]
        raise AssertionError(f"{error}, and these are left: {left}") from None


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
    nothing_left(str(tmp_path))

    by_process = {}
    for result in sorted(suite, key=lambda r: r["environment"]["first_step_at"]):
        by_process.setdefault(result["environment"]["pid"], []).append(result)
    assert len(by_process) <= 2, "a slot's workers train one trial after another"
    pairs = [pair for seen in by_process.values() for pair in zip(seen, seen[1:], strict=False)]
    after_another_arm = [b for a, b in pairs if a["arm"] != b["arm"]]  # none, if each slot had an arm of its own
    later = after_another_arm or [b for _, b in pairs]
    for result in [next(iter(by_process.values()))[0], later[0], later[-1]]:
        ran = SweepDir(folder).trial(result["arm"], result["trial_id"])
        fresh = TrialDir(tmp_path / "fresh" / result["trial_id"])
        train(ran.job(), fresh)
        assert rows_of(ran.path) == rows_of(fresh.path)[: len(rows_of(ran.path))], "bit for bit"


def test_a_killed_launcher_is_resumed_with_every_trial_once_also_of_a_sweep_that_has_grown(
    write_sweep, launch, folder, tmp_path
):
    asha = {"grace_steps": 4, "reduction_factor": 2}
    search = {"space": {"optim.lr": {"loguniform": [1e-3, 1e-1]}}, "trials": 5, "asha": asha}
    path = write_sweep(search=search, confirm={"seeds": [7, 8]})
    first = launch(path, wait=False, ATTNLAB_TEST=str(tmp_path))
    wait_until(lambda: len(list(folder.glob("*/*/results.json"))) >= 4)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    nothing_left(str(tmp_path))
    ended = {p: p.read_bytes() for p in folder.glob("*/*/results.json")}
    begun = {p.parent.name for p in folder.glob("*/*/experiment_config.json")}

    refused = launch(path)
    assert refused.returncode == 2 and "--resume" in refused.stderr
    arms = {"gla": {}, "standard": {"model.mixer": "standard"}, "retnet": {"model.mixer": "retnet"}}
    resources = {"max_concurrent": 1, "max_failures": 0, "hang_s": 60}
    path = write_sweep(search={**search, "trials": 6}, confirm={"seeds": [7, 8]}, arms=arms, resources=resources)
    # what was begun goes on beside the arm that is asked for
    done = launch(path, "--resume", "--only", "retnet", ATTNLAB_TEST=str(tmp_path))
    assert done.returncode == 0, done.stderr
    suite = check_folder(folder)
    assert Counter(r["arm"] for r in suite) == {"gla": 8, "standard": 8, "retnet": 8}
    assert Counter(r["phase"] for r in suite) == {"search": 18, "confirm": 6}
    assert all(p.read_bytes() == before for p, before in ended.items()), "a finished trial ran again"
    assert begun <= {r["trial_id"] for r in suite}, "an unfinished trial was not taken up under its own id"
    nothing_left(str(tmp_path))

    before = {p: p.read_bytes() for p in folder.glob("*/*/*.json*")}
    again = launch(path, "--resume")
    assert again.returncode == 0
    assert check_folder(folder) == suite
    assert {p: p.read_bytes() for p in folder.glob("*/*/*.json*")} == before, "a finished sweep is left as it is"


def test_a_killed_worker_resumes_its_trial_to_the_same_losses(write_sweep, launch, folder, tmp_path, tiny):
    trial = {**tiny, "train": {**tiny["train"], "max_steps": 400, "eval_every": 20}}
    path = write_sweep(trial=trial, search={"space": {"optim.lr": {"choice": [0.01]}}, "trials": 1})
    process = launch(path, wait=False, ATTNLAB_TEST=str(tmp_path))

    def in_the_middle():
        files = [f for f in folder.glob("*/*/metrics.jsonl") if 3 <= len(f.read_text().splitlines()) <= 12]
        return files and not list(folder.glob("*/*/results.json"))

    wait_until(in_the_middle)
    victims = [p for p in ray_processes_of(str(tmp_path)) if "RayTrainWorker" in " ".join(p.info["cmdline"])]
    assert victims
    victims[0].kill()
    assert finish(process).returncode == 0
    suite = check_folder(folder)
    assert [r["state"] for r in suite] == ["completed", "completed"]
    for result in suite:
        ran = SweepDir(folder).trial(result["arm"], result["trial_id"])
        fresh = TrialDir(tmp_path / "fresh" / result["trial_id"])
        train(ran.job(), fresh)
        assert rows_of(ran.path) == rows_of(fresh.path)


def test_a_trial_that_fails_is_recorded_and_the_rest_goes_on(write_sweep, launch, folder, tmp_path):
    (tmp_path / "broken.py").write_text(
        "import torch\n\n\nclass Broken(torch.nn.Module):\n"
        "    def __init__(self, d_model: int):\n        super().__init__()\n"
        "        self.w = torch.nn.Linear(d_model, d_model)\n\n"
        "    def forward(self, hidden_states, **extra):\n"
        "        if hidden_states.shape[1] > 8:  # beyond what it is tried on before the sweep\n"
        "            raise ArithmeticError('no such luck')\n"
        "        return self.w(hidden_states), None, None\n"
    )
    path = write_sweep(
        arms={"broken": {"model.mixer": "broken:Broken"}, "diverging": {"optim.name": "adamw"}, "gla": {}},
        search={"space": {"optim.lr": {"choice": [0.01]}}, "trials": 1},
    )
    lr = "arms.diverging.optim.clip=null"
    done = launch(path, lr, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr
    suite = {r["arm"]: r for r in json.loads((folder / "experiment_suite_results.json").read_text())}
    assert suite["broken"]["state"] == "failed"
    assert "ArithmeticError: no such luck" in suite["broken"]["error"]
    assert f"note: broken {suite['broken']['trial_id']} failed: ArithmeticError: no such luck" in done.stdout
    assert suite["gla"]["state"] == "completed"


def test_what_the_clusters_devices_cannot_do_is_refused_before_anything_is_written(write_sweep, launch, folder):
    """With `auto` the devices are known once Ray is there; trials that fail one by one would be no answer."""
    asked = ("trial.train.step=captured", "resources.gpus_per_worker=auto")
    done = launch(write_sweep(arms={"gla": {}}), *asked, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "error: arms.gla.train.step: captured needs CUDA, and this trial runs on cpu; use auto" in done.stderr
    assert not folder.exists()


def test_two_ddp_ranks_per_trial_give_the_losses_of_one(write_sweep, launch, folder, tmp_path, tiny):
    trial = {**tiny, "model": {**tiny["model"], "dropout": 0.0}}
    path = write_sweep(trial=trial, search={"space": {"optim.lr": {"choice": [0.01]}}, "trials": 1})
    done = launch(path, "resources.workers=2", "--only", "gla")
    assert done.returncode == 0, done.stderr
    (result,) = check_folder(folder)
    assert result["environment"]["workers"] == 2
    ran = SweepDir(folder).trial("gla", result["trial_id"])
    fresh = TrialDir(tmp_path / "fresh")
    train(Job.model_validate_json(ran.config_file.read_text()), fresh)
    for two, one in zip(ran.metrics(), fresh.metrics(), strict=True):
        assert two["train_loss"] == pytest.approx(one["train_loss"], abs=1e-5)
        assert two["val_loss"] == pytest.approx(one["val_loss"], abs=1e-5)


def test_ctrl_c_stops_cleanly_and_says_how_to_resume(write_sweep, launch, folder, tmp_path, tiny):
    trial = {**tiny, "train": {**tiny["train"], "max_steps": 4000, "eval_every": 20}}
    process = launch(write_sweep(trial=trial), wait=False, ATTNLAB_TEST=str(tmp_path))
    wait_until(lambda: list(folder.glob("*/*/metrics.jsonl")))
    process.send_signal(signal.SIGINT)
    done = finish(process, 60)
    assert done.returncode == 130
    assert "--resume" in done.stderr and "Traceback" not in done.stderr
    nothing_left(str(tmp_path))
