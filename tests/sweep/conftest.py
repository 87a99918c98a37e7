"""A sweep small enough for a test, run by the real engine on the real Ray."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from attnlab.config.merge import merge

ROOT = Path(__file__).parents[2]
LAUNCH = [sys.executable, str(ROOT / "launch.py")]


@pytest.fixture
def write_sweep(tiny, tmp_path):
    """Write a sweep file around the tiny trial; returns its path."""

    def write(**changes):
        tree = {
            "name": "study",
            "trial": tiny,
            "arms": {"gla": {}, "standard": {"model.mixer": "standard"}},
            "search": {"space": {"optim.lr": {"loguniform": [1e-4, 1e-1]}}, "trials": 2},
            **changes,
        }
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(tree))
        return path

    return write


@pytest.fixture
def slow(tiny):
    """Trials long enough to be hit in the middle, as the raw tree of a sweep file's `trial`."""
    return merge(tiny, {"train": {"max_steps": 600, "eval_every": 20, "save_every": 20}})


@pytest.fixture
def breaking(tmp_path):
    """Puts `breaks.py` beside the sweep; the arms that break as they are called."""
    shutil.copy(ROOT / "tests" / "tools" / "breaks.py", tmp_path)
    return lambda *hows: {how: {"model.mixer": {"name": "breaks:Breaks", "how": how}} for how in hows}


@pytest.fixture
def launch(tmp_path):
    """Start launch.py as a user does; `launch(...)` waits and returns the finished process."""
    started = []

    def start(*arguments, wait=True, **environment):
        if "PYTHONPATH" in environment and "PYTHONPATH" in os.environ:
            environment["PYTHONPATH"] += os.pathsep + os.environ["PYTHONPATH"]
        command = [*LAUNCH, "--results", str(tmp_path / "results"), *map(str, arguments)]
        logs = [tmp_path / f"launch-{len(started)}.{kind}" for kind in ("out", "err")]
        with logs[0].open("w") as out, logs[1].open("w") as err:
            env, alone = {**os.environ, **environment}, {"start_new_session": True}  # signals reach it and its own
            process = subprocess.Popen(command, stdout=out, stderr=err, env=env, cwd=tmp_path, **alone)
        process.logs = logs
        started.append(process)
        return finish(process) if wait else process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def finish(process, timeout_s=380):
    """Wait for a launch; its exit code and what it said."""
    code = process.wait(timeout_s)
    return subprocess.CompletedProcess(process.args, code, *(log.read_text() for log in process.logs))


@pytest.fixture
def no_token(monkeypatch):
    """Whether this home folder has a token or not: `ray start` would ask for one that it finds."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


@pytest.fixture
def folder(tmp_path):
    """Where `launch` puts the study."""
    return tmp_path / "results" / "study"


def ray_processes_of(marker):
    """Live processes that mention `marker` (a path of this test's own) or descend from one that does."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        environment = process.info["environ"] or {}
        if marker in " ".join(process.info["cmdline"] or []) or environment.get("ATTNLAB_TEST") == marker:
            found.append(process)
    return found


def rows_of(trial):
    """Reports without what time makes of them."""
    timed = ("seconds", "tokens_per_s")
    lines = (trial / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in lines]
