"""A sweep small enough for a test, run by the real engine on the real Ray.

`launch` starts launch.py as a user does, with a Ray of its own: for what needs a process (kill -9, Ctrl-C).
`launch_here` runs the same command line in this process, on a Ray that all tests of this process share.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import psutil
import pytest
import yaml

import launch as command
from attnlab.config.merge import merge
from attnlab.records.paths import SweepDir, TrialDir
from attnlab.training.loop import train

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
def breaking(tmp_path, monkeypatch):
    """Puts `breaks.py` beside the sweep, and us there; the arms that break as they are called."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])  # before a folder that an earlier test has added
    shutil.copy(ROOT / "tests" / "tools" / "breaks.py", tmp_path)
    yield lambda *hows: {how: {"model.mixer": {"name": "breaks:Breaks", "how": how}} for how in hows}
    sys.modules.pop("breaks", None)  # the next test's is another file


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


@pytest.fixture(scope="session")
def shared_ray(cache, tmp_path_factory):
    """A Ray of two CPUs that this process is connected to; yields the mark that its processes have in ATTNLAB_TEST."""
    from attnlab.sweep.cluster import session

    mark = str(tmp_path_factory.mktemp("ray"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNLAB_TEST", mark)
        session.set_environment()
        import ray

        ray.init("local", num_cpus=2, num_gpus=0, include_dashboard=False, **session.QUIET)
    yield mark
    ray.shutdown()


@pytest.fixture
def launch_here(shared_ray, tmp_path, monkeypatch, capfd):
    """Run launch.py's command line in this process on the shared Ray, as `launch(...)` does in another."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        words = ["--results", str(tmp_path / "results"), *map(str, arguments)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray warns of its own
            code = command.main(words)
        return subprocess.CompletedProcess(words, code, *capfd.readouterr())

    yield run
    for name, module in list(sys.modules.items()):  # mixers of this test's own
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


class Meanwhile(threading.Thread):
    """Do something in another thread while the `with` block runs, and raise here what it raises."""

    def __init__(self, act):
        super().__init__(daemon=True)
        self.act, self.error = act, None

    def run(self):
        try:
            self.act()
        except BaseException as error:
            self.error = error

    def __enter__(self):
        self.start()

    def __exit__(self, *error):
        self.join()
        if self.error:
            raise self.error


def wait_until(condition, timeout_s=1800, every_s=0.1):
    """Wait for a condition; how long is no question, but that it comes."""
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
        wait_until(lambda: not ray_processes_of(marker))
    except AssertionError as error:
        left = [" ".join(p.info["cmdline"] or [])[:150] for p in ray_processes_of(marker)]
        raise AssertionError(f"{error}, and these are left: {left}") from None


def free_again():
    """Nothing of a sweep is left on the Ray that this process is connected to, soon after it."""
    import ray
    from ray._private import state
    from ray.util import placement_group_table

    kept = "_AutoscalingCoordinatorActor"  # Ray's own, one per cluster

    def left():
        groups = [group for group in placement_group_table().values() if group["state"] != "REMOVED"]
        actors = [a["ActorClassName"] for a in state.actors().values() if a["State"] != "DEAD"]
        free = ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]
        return [*groups, *(name for name in actors if name != kept), *([] if free else ["CPUs that are not free"])]

    try:
        wait_until(lambda: not left(), 300)
    except AssertionError as error:
        raise AssertionError(f"{error}, and these are left: {left()}") from None


def as_if_alone(folder, result, tmp_path):
    """The losses that a trial reported are those of a run by itself, in this process, bit for bit."""
    ran = SweepDir(folder).trial(result["arm"], result["trial_id"])
    fresh = TrialDir(tmp_path / "fresh" / result["arm"] / result["trial_id"])
    train(ran.job(), fresh)
    assert rows_of(ran.path) == rows_of(fresh.path)[: len(rows_of(ran.path))]


def finish(process, timeout_s=800):
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
