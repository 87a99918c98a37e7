"""A sweep small enough for a test, run by the real engine on the real Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

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
def launch(tmp_path):
    """Start launch.py as a user does; `launch(...)` waits and returns the finished process."""
    started = []

    def start(*arguments, wait=True, **environment):
        command = [*LAUNCH, *map(str, arguments), "--results", str(tmp_path / "results")]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}, cwd=tmp_path
        )
        started.append(process)
        if not wait:
            return process
        out, err = process.communicate(timeout=280)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


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
