"""Trials that break or hang their worker: failed with the reason, or taken up again; all others are unharmed."""

import os
import signal

import psutil
import pytest

from attnlab.records.paths import SweepDir
from tests.contract import check_folder
from tests.sweep.conftest import Meanwhile, as_if_alone, finish, nothing_left, ray_processes_of, wait_until
from tests.sweep.test_faults import begun, victim

pytestmark = pytest.mark.timeout(3600)


SEARCH = {"space": {"optim.lr": {"choice": [0.01]}}, "trials": 1}


TELLING = """
import os, sys, torch

class Telling(torch.nn.Linear):
    def __init__(self, d_model: int):
        super().__init__(d_model, d_model)
        with open({seen!r}, "a") as file:
            print("worker" in sys.argv[0], os.environ.get("ATTNLAB_KERNEL_CACHE"), file=file)

    def forward(self, hidden_states, **extra):
        return super().forward(hidden_states), None, None
"""


def title_of(process):
    """A process's title, as Ray sets it."""
    return " ".join(process.cmdline())


def test_trials_that_break_their_worker_are_failed_and_those_whose_worker_or_relay_is_killed_go_on_to_the_same_losses(
    write_sweep, launch_here, folder, breaking, tmp_path, shared_ray
):
    """Two trials stand in the middle; one loses its worker, both the processes that read their reports.

    The other's worker gets a SIGTERM, as from a scheduler that ends its node: it saves the trial before it goes. Of
    the trials after them one breaks its worker at every try, two make a mistake, and two are as all others."""
    (tmp_path / "telling.py").write_text(TELLING.format(seen=str(tmp_path / "seen")))
    whole = {"gla": {}, "telling": {"model.mixer": "telling:Telling"}}
    arms = {**breaking("wait", "wait_too", "segfault", "limit", "mistake"), **whole}
    path = write_sweep(arms=arms, search=SEARCH, resources={"max_failures": 1, "max_concurrent": 2})
    killed = []

    def kill():
        reached = [tmp_path / f"{how}.reached" for how in ("wait", "wait_too")]
        wait_until(lambda: all(file.exists() for file in reached))
        relays = [p for p in ray_processes_of(shared_ray) if "ImplicitFunc.train" in title_of(p)]
        for process in (psutil.Process(int(reached[0].read_text())), *relays):
            killed.append(title_of(process))
            process.kill()
        psutil.Process(int(reached[1].read_text())).terminate()
        for file in reached:
            file.with_suffix(".go").touch()

    with Meanwhile(kill):
        done = launch_here(path, "--kernel-cache", "kernels", "arms.gla.optim.clip=null")
    assert sum("RayTrainWorker" in title for title in killed) == 1 and len(killed) >= 3, killed
    assert done.returncode == 1, done.stdout + done.stderr
    suite = {r["arm"]: r for r in check_folder(folder)}
    error = {arm: r["error"] for arm, r in suite.items() if r["state"] == "failed"}
    assert error.keys() == {"segfault", "limit", "mistake"}, error
    died = "its worker died 2 times, the last time: Fatal Python error: Segmentation fault"
    assert error["segfault"].startswith(died), error["segfault"]
    assert "breaks.py" in error["segfault"] and "in segfault" in error["segfault"], error["segfault"]
    assert "in limit" in error["limit"] and "memory" in error["limit"], error["limit"]
    assert "ArithmeticError: no such luck" in error["mistake"]
    note = f"note: mistake {suite['mistake']['trial_id']} failed: ArithmeticError: no such luck"
    assert note in done.stdout
    for arm in ("wait", "wait_too", "gla", "telling"):
        assert suite[arm]["state"] == "completed"
        as_if_alone(folder, suite[arm], tmp_path)
    assert SweepDir(folder).trial("gla", suite["gla"]["trial_id"]).job().trial.optim.clip is None
    assert f"True {tmp_path / 'kernels'}" in (tmp_path / "seen").read_text().splitlines(), "it reaches the workers"
    assert not (tmp_path / "kernels").exists(), "on a CPU there is nothing to keep"


@pytest.mark.slow
def test_broken_workers_are_tried_again_and_told_apart(write_sweep, launch, folder, breaking, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))  # for the comparison, here
    arms = {**breaking("hang_once", "segfault", "leave", "memory", "cuda_memory"), "gla": {}}
    path = write_sweep(arms=arms, search=SEARCH, resources={"max_failures": 1, "hang_s": 15, "max_concurrent": 2})
    done = launch(path, PYTHONPATH=str(tmp_path), ATTNLAB_TEST=str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr
    suite = {r["arm"]: r for r in check_folder(folder)}
    error = {arm: r["error"] for arm, r in suite.items() if r["state"] == "failed"}
    assert error.keys() == {"segfault", "leave", "memory", "cuda_memory"}
    assert error["segfault"].startswith(
        "its worker died 2 times, the last time: Fatal Python error: Segmentation fault"
    )
    assert error["leave"].startswith("its worker died 2 times, the last time: its process ended without a word")
    assert error["memory"].endswith("MemoryError: no list is that long\n")
    assert "OutOfMemoryError: CUDA out of memory" in error["cuda_memory"]
    for arm in ("hang_once", "gla"):
        as_if_alone(folder, suite[arm], tmp_path)
    nothing_left(str(tmp_path))


@pytest.mark.slow
def test_a_trial_that_hangs_every_time_is_failed_and_every_rank_of_it_is_ended(
    write_sweep, launch, folder, breaking, tmp_path
):
    path = write_sweep(
        arms={**breaking("hang"), "gla": {}}, search=SEARCH, resources={"workers": 2, "max_failures": 1, "hang_s": 15}
    )
    done = launch(path, PYTHONPATH=str(tmp_path), ATTNLAB_TEST=str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr
    suite = {r["arm"]: r for r in check_folder(folder)}
    said = "its worker died 2 times, the last time: it hung: no step was done in 15 s (resources.hang_s); it stood at "
    assert suite["hang"]["error"].startswith(said)
    assert "breaks.py" in suite["hang"]["error"] and "time.sleep(3600)" in suite["hang"]["error"]
    assert suite["gla"]["state"] == "completed"
    nothing_left(str(tmp_path))


@pytest.mark.slow
def test_a_worker_that_is_frozen_is_ended_and_its_trial_goes_on(write_sweep, launch, folder, tmp_path, tiny):
    trial = {**tiny, "train": {**tiny["train"], "max_steps": 600, "eval_every": 20}}
    path = write_sweep(trial=trial, search=SEARCH, resources={"hang_s": 15})
    process = launch(path, ATTNLAB_TEST=str(tmp_path), wait=False)
    wait_until(lambda: begun(folder))
    os.kill(victim(str(tmp_path), "RayTrainWorker").pid, signal.SIGSTOP)  # it cannot even say that it hangs
    done = finish(process)
    assert done.returncode == 0, done.stdout + done.stderr
    for results in check_folder(folder):
        as_if_alone(folder, results, tmp_path)
    nothing_left(str(tmp_path))
