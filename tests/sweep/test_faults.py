"""What breaks, and that nothing is waited for in vain."""

import os
import shutil
import signal
import time

import psutil
import pytest

from attnlab.records.paths import SweepDir
from attnlab.sweep.slots.mailbox import STARTS
from tests.contract import check_folder
from tests.sweep.conftest import as_if_alone, finish, nothing_left, ray_processes_of, wait_until

NO_TRAINING = """
import sys


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "attnlab.training.loop":
            raise ImportError("this host lacks a library")


if any("default_worker" in part for part in sys.orig_argv):  # a process of Ray's
    sys.meta_path.insert(0, Finder())
"""


@pytest.mark.slow
def test_workers_that_cannot_start_end_the_sweep_with_the_reason(write_sweep, launch, folder, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(NO_TRAINING)
    done = launch(write_sweep(), ATTNLAB_TEST=str(tmp_path), PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: a slot failed: its workers failed to start")
    assert f"{STARTS} times in a row: ImportError: this host lacks a library" in last and "--resume goes on" in last
    assert (folder / "leaderboard.json").exists()
    nothing_left(str(tmp_path))


def victim(marker, title):
    """A live process of the sweep whose title begins so."""
    found = [p for p in ray_processes_of(marker) if " ".join(p.info["cmdline"] or []).startswith(f"ray::{title}")]
    return found[0] if found else None


def begun(folder):
    """Whether a trial has reported and none has ended."""
    return list(folder.glob("*/*/metrics.jsonl")) and not list(folder.glob("*/*/results.json"))


SEARCH = {"space": {"optim.lr": {"choice": [0.01]}}, "trials": 1}


def undisturbed(folder, tmp_path, trials=2):
    """Every trial once, with the losses of a run by itself."""
    suite = check_folder(folder)
    assert [r["state"] for r in suite] == ["completed"] * trials
    for result in suite:
        as_if_alone(folder, result, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("title", ["Mailbox", "Pool"])
def test_a_killed_mailbox_or_pool_ends_the_sweep_and_it_is_resumed(write_sweep, launch, folder, tmp_path, slow, title):
    path = write_sweep(trial=slow, search=SEARCH)
    process = launch(path, ATTNLAB_TEST=str(tmp_path), wait=False)
    wait_until(lambda: begun(folder) and victim(str(tmp_path), title))
    victim(str(tmp_path), title).kill()
    done = finish(process)
    assert done.returncode == 1 and "died; what ended is kept, and --resume goes on" in done.stderr, done.stderr
    nothing_left(str(tmp_path))
    states = [r["state"] for r in SweepDir(folder).results()]
    assert states in ([], ["completed"]), "the slot that was not hit may have come to its end, and none has failed"
    assert launch(path, "--resume").returncode == 0
    undisturbed(folder, tmp_path)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once_and_the_sweep_is_resumed_with_every_trial_once(
    write_sweep, launch, folder, tmp_path, slow
):
    path = write_sweep(trial=slow, search=SEARCH)
    process = launch(path, ATTNLAB_TEST=str(tmp_path), wait=False)
    wait_until(lambda: begun(folder))
    taken_up = {p.parent.name for p in folder.glob("*/*/experiment_config.json")}
    while process.poll() is None:  # as one does in a terminal, where every process of the launch gets it
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.2)
    done = finish(process)
    assert done.returncode == 130
    assert "interrupted twice" in done.stderr and "--resume" in done.stderr and "Traceback" not in done.stderr
    nothing_left(str(tmp_path))

    done = launch(path, "--resume", ATTNLAB_TEST=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    undisturbed(folder, tmp_path)
    assert taken_up <= {t.trial_id for t in SweepDir(folder).trials()}


@pytest.mark.slow
def test_a_killed_gcs_ends_the_sweep_in_one_line_with_the_command_that_resumes(
    write_sweep, launch, folder, tmp_path, slow
):
    path = write_sweep(trial=slow, search=SEARCH)
    process = launch(path, ATTNLAB_TEST=str(tmp_path), wait=False)
    wait_until(lambda: begun(folder))
    (gcs,) = [p for p in psutil.Process(process.pid).children(recursive=True) if "gcs_server" in p.name()]
    gcs.kill()
    done = finish(process)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith("error: Ray's GCS at ")
    assert line.endswith(f"{path} --resume") and "go on with: " in line
    nothing_left(str(tmp_path))
    assert launch(path, "--resume").returncode == 0
    undisturbed(folder, tmp_path)


@pytest.mark.slow
def test_a_folder_that_is_removed_half_way_ends_the_sweep_in_one_line(write_sweep, launch, folder, tmp_path, slow):
    path = write_sweep(trial=slow, search=SEARCH)
    process = launch(path, ATTNLAB_TEST=str(tmp_path), wait=False)
    wait_until(lambda: begun(folder))
    os.rename(folder, tmp_path / "elsewhere")
    done = finish(process)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith("error: ") and str(folder) in line, done.stderr
    nothing_left(str(tmp_path))
    assert not (folder / "leaderboard.json").exists(), "nothing is written where it was"
    done = launch(path, "--resume")  # on whatever stump its workers have left
    assert done.returncode == 0, done.stdout + done.stderr
    undisturbed(folder, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("left", ["lock", "sweep.yaml", "nothing"])
def test_a_launcher_killed_in_its_first_seconds_leaves_a_folder_in_which_resume_begins(
    write_sweep, launch, folder, tmp_path, left
):
    path = write_sweep(search=SEARCH)
    process = launch(path, ATTNLAB_TEST=str(tmp_path), wait=False)
    wait_until(lambda: list(folder.glob("sweep.yaml" if left == "sweep.yaml" else ".launcher-*")))
    process.kill()
    process.wait()
    nothing_left(str(tmp_path))
    if left == "nothing":
        shutil.rmtree(folder)
    done = launch(path, "--resume")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stdout + done.stderr
    undisturbed(folder, tmp_path)
