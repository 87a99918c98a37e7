"""Ray of our own: what is told if it does not start, and that nothing of it is left. One is started, at the end."""

import os
import signal
import subprocess
import sys
import threading
import types

import pytest
import ray

from attnlab.plan import gpu_packing
from attnlab.plan.load import resolve
from attnlab.sweep.cluster.session import cluster, start_ray
from attnlab.util.errors import SweepStopped
from tests.sweep.conftest import ROOT, nothing_left

SWEEP = resolve({"name": "s", "trial": {}, "arms": {"a": {}}})


@pytest.fixture(autouse=True)
def not_connected(monkeypatch):
    """Whatever Ray other tests have left up."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)


def test_a_ray_that_does_not_start_is_tried_again_and_then_one_line_that_is_no_mistake(monkeypatch, capsys):
    calls = []

    def refuse(*args, **kwargs):
        calls.append(threading.get_ident())
        raise RuntimeError("no room\nin /dev/shm")

    monkeypatch.setattr(ray, "init", refuse)
    told = pytest.raises(
        SweepStopped, match="^Ray does not start on this machine, tried 3 times: no room in /dev/shm; "
    )
    with told, start_ray(None) as local, cluster(None, SWEEP, gpu_packing.Need(1.0, 1.0), local):
        pass
    assert len(calls) == 3
    assert capsys.readouterr().err.count("Ray does not come up, trying again: no room in /dev/shm\n") == 2


def test_a_ray_that_misses_its_time_limit_once_is_up_at_the_second_attempt(monkeypatch):
    calls = []

    def late(*args, **kwargs):
        calls.append(threading.get_ident())
        if len(calls) == 1:
            raise Exception("The current node timed out during startup")

    monkeypatch.setattr(ray, "init", late)
    before = signal.getsignal(signal.SIGTERM)
    with start_ray(None) as local:
        local.wait()
    assert len(calls) == 2 and signal.getsignal(signal.SIGTERM) == before


def test_a_ray_that_is_not_needed_any_more_is_not_tried_again(monkeypatch):
    gone, calls = threading.Event(), []

    def refuse(*args, **kwargs):
        calls.append(gone.wait(60))
        raise RuntimeError("no room")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(KeyError), start_ray(None):
        threading.Timer(0.2, gone.set).start()
        raise KeyError("found by a check")
    assert calls == [True]


def test_a_mistake_found_meanwhile_ends_the_ray_that_was_starting(monkeypatch):
    calls = []
    monkeypatch.setattr(ray, "init", lambda *args, **kwargs: calls.append("init"))
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
    with pytest.raises(KeyError), start_ray(None):
        raise KeyError("found by a check")
    assert calls == ["init", "shutdown"]


@pytest.mark.parametrize("home", [None, "/proc/nobody"])
def test_a_ray_without_a_home_folder_for_its_token_is_given_one(monkeypatch, home):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.delenv("HOME") if home is None else monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(ray, "init", lambda *args, **kwargs: None)
    with start_ray(None):
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_no_ray_is_started_where_an_address_is_given(monkeypatch):
    monkeypatch.setattr(ray, "init", lambda *args, **kwargs: pytest.fail("started"))
    with start_ray("auto") as local:
        assert local is None


def test_a_ray_that_another_thread_is_importing_is_not_up_yet(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    assert start_ray(None) is not None
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(is_initialized=lambda: True))
    with start_ray(None) as local:
        assert local is None


OWN = """
from attnlab.sweep.cluster.session import start_ray
with start_ray(None) as local:
    local.wait()
    import ray
    print(sum(node["Alive"] for node in ray.nodes()))
"""


@pytest.mark.timeout(3600)
def test_a_ray_of_our_own_ends_with_its_context_and_leaves_no_process(tmp_path):
    marked = {**os.environ, "ATTNLAB_TEST": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", OWN], env=marked, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    nothing_left(str(tmp_path))
