"""Ray of our own: what is told if it does not start. No Ray is started."""

import sys
import types

import pytest
import ray

from attnlab.plan import gpu_packing
from attnlab.plan.load import resolve
from attnlab.sweep.cluster.session import cluster, start_ray
from attnlab.util.errors import UserError

SWEEP = resolve({"name": "s", "trial": {}, "arms": {"a": {}}})


@pytest.fixture(autouse=True)
def not_connected(monkeypatch):
    """Whatever Ray other tests have left up."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)


def test_a_ray_that_does_not_start_is_one_line(monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("no room\nin /dev/shm")

    monkeypatch.setattr(ray, "init", refuse)
    told = pytest.raises(UserError, match="^Ray does not start on this machine: no room in /dev/shm$")
    with told, start_ray(None) as local, cluster(None, SWEEP, gpu_packing.Need(1.0, 1.0), local):
        pass


def test_a_mistake_found_meanwhile_ends_the_ray_that_was_starting(monkeypatch):
    calls = []
    monkeypatch.setattr(ray, "init", lambda *args, **kwargs: calls.append("init"))
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
    with pytest.raises(KeyError), start_ray(None):
        raise KeyError("found by a check")
    assert calls == ["init", "shutdown"]


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
