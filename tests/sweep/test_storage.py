"""A whole sweep whose results lie in object storage, on a real Ray and a real S3-compatible server."""

import os
import shutil
import signal
from collections import Counter

import pytest

import launch as command
from attnlab.config.merge import merge
from attnlab.records.storage import Store, join
from tests.contract import check_folder
from tests.sweep.conftest import as_if_alone, nothing_left, wait_until

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture
def machine(tmp_path, monkeypatch, cache):
    """A host's cache folder; the tokens of the session's in it. Emptying it makes another host of this one."""
    home = tmp_path / "cache"
    monkeypatch.setenv("ATTNLAB_CACHE", str(home))
    return home


def download(uri, to):
    """Everything that is there, as any S3 client would copy it."""
    where = Store.open(uri)
    for name in where.list():
        where.get(name, to / name)
    return to


@pytest.mark.slow
def test_a_sweep_to_s3_survives_its_launcher_and_its_machine(
    write_sweep, launch, tmp_path, s3, machine, tiny, breaking, capsys
):
    trial = merge(tiny, {"train": {"max_steps": 100, "save_every": 2}})
    search = {"space": {"optim.lr": {"loguniform": [1e-3, 1e-1]}}, "trials": 2}
    arms = {"gla": {}, **breaking("wait")}
    resources = {"max_concurrent": 2}
    path = write_sweep(trial=trial, arms=arms, search=search, confirm={"seeds": [7]}, resources=resources)
    where, marker = Store.open(join(s3, "study")), str(tmp_path)
    first = launch(path, "--results", s3, wait=False, ATTNLAB_TEST=marker)

    def in_the_middle():
        """A trial has ended, and another, which goes on step by step until then, has published a checkpoint."""
        names = where.list()
        if any(n.startswith("wait/") and n.endswith("/.whole") for n in names):
            return any(n.endswith("/results.json") for n in names)
        (tmp_path / "wait.tick").touch()
        return False

    wait_until(in_the_middle)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    nothing_left(marker)
    shutil.rmtree(machine)
    (tmp_path / "wait.go").touch()
    before = where.list()
    ended = {n: where.read(n) for n in before if n.endswith("/results.json")}
    begun = {n.split("/")[1] for n in before if n.endswith("/experiment_config.json")}

    assert command.main([str(path), "--results", s3]) == 2
    assert f"{s3}/study already holds this sweep" in capsys.readouterr().err
    shutil.rmtree(machine)
    done = launch(path, "resources.max_concurrent=1", "--results", s3, "--resume", ATTNLAB_TEST=marker)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"report       {s3}/study/analysis/report.html" in done.stdout
    assert not list(machine.glob("results/*/workers/*/study/*/*")), "a worker's copy of a trial was left"
    nothing_left(marker)

    folder = download(join(s3, "study"), tmp_path / "there")
    suite = check_folder(folder)
    assert Counter((r["arm"], r["phase"]) for r in suite) == Counter(
        {(arm, phase): n for arm in ("gla", "wait") for phase, n in (("search", 2), ("confirm", 1))}
    )
    assert {r["state"] for r in suite} == {"completed"}
    assert all(where.read(name) == content for name, content in ended.items()), "a finished trial ran again"
    assert begun <= {r["trial_id"] for r in suite}, "an unfinished trial was not taken up under its own id"
    resumed = [r for r in suite if r["trial_id"] in begun and f"{r['arm']}/{r['trial_id']}/results.json" not in ended]
    assert resumed
    for result in resumed:
        as_if_alone(folder, result, tmp_path)
    assert not [n for n in where.list() if n.startswith("ray/")]
    assert (folder / "analysis" / "report.html").exists()


@pytest.mark.parametrize("mistake, said", [("s3://nowhere/x", "no such bucket"), ("foo://x/y", "known for foo://")])
def test_storage_that_cannot_be_used_is_told_before_ray_starts(write_sweep, s3, machine, mistake, said, capsys):
    assert command.main([str(write_sweep()), "--results", mistake]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --results {mistake}") and said in line
