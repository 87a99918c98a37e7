"""Two launchers on one sweep's folder: the second is refused in a line, and takes over when the first is dead."""

import os
import signal

import pytest

import launch as command
from attnlab.plan.load import resolve
from attnlab.records.lock import Lock
from attnlab.records.lock_file import lock_files
from attnlab.records.mirror import mirror
from attnlab.sweep import engine
from attnlab.util.errors import UserError
from tests.sweep.conftest import finish, nothing_left, wait_until
from tests.sweep.test_faults import SEARCH, undisturbed

pytestmark = pytest.mark.timeout(3600)


def test_a_second_launcher_is_refused_before_anything_is_looked_at(tmp_path, monkeypatch, capsys):
    """Also in a notebook, where both are one process."""
    monkeypatch.setenv("ATTNLAB_CACHE", str(tmp_path / "cache"))
    where = mirror(tmp_path / "results", "study")
    (tmp_path / "study.yaml").write_text("name: study\ntrial: {train: {max_steps: 8, eval_every: 2}}\narms: {a: {}}\n")
    with Lock(where):
        assert command.main([str(tmp_path / "study.yaml"), "--results", str(tmp_path / "results"), "--resume"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {where}: this sweep is being run by process {os.getpid()} on ")
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["folder", "s3"])
def test_of_two_launchers_one_runs_and_a_killed_ones_sweep_is_taken_over_at_once(
    write_sweep, launch, folder, tmp_path, breaking, place, request, monkeypatch
):
    """The trial stands in the middle, however long a launcher takes to start."""
    results = str(tmp_path / "results")
    if place == "s3":
        monkeypatch.setenv("ATTNLAB_CACHE", str(tmp_path / "cache"))
        results = request.getfixturevalue("s3")
    where = mirror(results, "study")
    path, marker = write_sweep(arms=breaking("wait"), search=SEARCH), str(tmp_path)
    first = launch(path, "--results", results, wait=False, ATTNLAB_TEST=marker)
    wait_until((tmp_path / "wait.reached").exists)
    second = launch(path, "--results", results, "--resume")
    assert second.returncode == 2
    (line,) = second.stderr.splitlines()
    assert line.startswith(f"error: {where}: this sweep is being run by process {first.pid} on ")
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    nothing_left(marker)
    assert list(lock_files(where).list()) == [".launcher-000001"]

    both = [launch(path, "--results", results, "--resume", wait=False) for _ in range(2)]
    refused = wait_until(lambda: next((process for process in both if process.poll() is not None), None))
    (tmp_path / "wait.go").touch()
    done = finish(next(process for process in both if process is not refused))
    assert (refused.returncode, done.returncode) == (2, 0), refused.logs[1].read_text() + done.stderr
    assert not lock_files(where).list()
    if place == "folder":
        undisturbed(folder, tmp_path, 1)


def test_run_sweep_takes_the_lock_too(tmp_path):
    plan = resolve({"name": "study", "trial": {"train": {"max_steps": 8, "eval_every": 2}}, "arms": {"a": {}}})
    with Lock(mirror(tmp_path, "study")), pytest.raises(UserError, match="this sweep is being run by process"):
        engine.run(plan, tmp_path)
