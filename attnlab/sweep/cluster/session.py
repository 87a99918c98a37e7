"""The Ray that a sweep runs on: connected to or started, what fits on it, and whether its nodes see what trials use."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from attnlab.config.resolved import Plan
from attnlab.plan import gpu_packing
from attnlab.records.mirror import Mirror
from attnlab.sweep.cluster.autoscaler import Coming, coming
from attnlab.util.errors import UserError
from attnlab.util.files import cache_root
from attnlab.util.text import first_line, one_line

# Set before ray is imported. Ray's own out-of-memory killer judges the whole node, not us; reports are seen at once;
# Tune keeps to itself: no CSV, TensorBoard or snapshots of its own, and Ctrl-C is ours.
ENVIRONMENT = {
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_worker_maximum_startup_concurrency": "16",  # its warnings count actors that only wait
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "86400",  # an autoscaler's machine may be long in coming
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # the last word of a failed trial has no metric
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
PROBE_S = 5.0


class Local:
    """Ray of our own on this machine, ended with the context. It starts in a thread, on the second core, while the
    launcher imports and checks. The thread stays as long as Ray does, whose processes die with the one that started
    them (PR_SET_PDEATHSIG means the thread)."""

    def __init__(self) -> None:
        self._error: BaseException | None = None
        self._up, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="ray", daemon=True)

    def _run(self) -> None:
        try:
            _imported().init("local", include_dashboard=False, **QUIET)  # not whatever cluster happens to be up here
        except BaseException as error:  # raised where it is waited for
            self._error = error
        self._up.set()
        self._over.wait()

    def __enter__(self) -> Local:
        self._thread.start()
        return self

    def up(self) -> None:
        """Wait for it. Raises UserError if it did not start."""
        self._up.wait()
        if self._error:
            why = one_line(self._error)
            raise UserError(f"Ray does not start on this machine: {why}") from self._error

    def __exit__(self, *error: Any) -> None:
        self._up.wait()
        if shutdown := getattr(sys.modules.get("ray"), "shutdown", None):
            shutdown()
        self._over.set()
        self._thread.join()


def early(address: str | None) -> AbstractContextManager[Local | None]:
    """Ray of our own, coming up, for `cluster`; None where the sweep is to run on another: the address's, or this
    process's, whose user goes on with it."""
    return nullcontext() if address or _connected() else Local()


@contextmanager
def cluster(
    address: str | None, plan: Plan, need: gpu_packing.Need, local: Local | None = None
) -> Iterator[tuple[Any, int]]:
    """Ray, up: the process's, one of our own, or a cluster's. Yields a slot's shape and how many to start.

    `need`: the largest trial's, which says how many of them share a GPU. `local`: what `early` gave, if it was asked.

    Raises:
        UserError: Ray does not start, nobody answers, or not one slot fits.
    """
    with nullcontext(local) if local else early(address) as ours:
        if ours:
            ours.up()
        else:
            _connect(address)
        import ray

        from attnlab.sweep.cluster import code_sync

        log, level = logging.getLogger("ray"), logging.getLogger("ray").level
        try:
            log.setLevel(logging.ERROR)
            to_come = Coming() if ours else coming()
            if address and (env := code_sync.needed(plan, ray.nodes(), to_come.autoscaled)):
                ray.shutdown()
                ray.init(address=address, runtime_env=env, **QUIET)
            have = to_come.most_at_once(ray.nodes()) if to_come.types else ray.cluster_resources()
            yield room(plan, need, have, to_come)
        finally:
            log.setLevel(level)
            if address:
                ray.shutdown()


def _connected() -> bool:
    """Whether this process has a Ray already, of its user's; another thread may be importing it at this moment."""
    is_initialized = getattr(sys.modules.get("ray"), "is_initialized", None)
    return is_initialized is not None and is_initialized()


def _imported() -> Any:
    """The module ray, which reads its environment as it is imported."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    logging.getLogger("ray.widgets.util").setLevel(logging.ERROR)  # it asks notebooks for widgets
    import ray

    return ray


def _connect(address: str | None) -> None:
    """To the cluster at the address; without one, this process is connected already."""
    if address and _connected():
        raise UserError(f"--address {address}: this process is connected to Ray already; leave the address out")
    if address and address != "auto":
        _knock(address)
    ray = _imported()
    try:
        if address:
            ray.init(address=address, **QUIET)
    except (ConnectionError, RuntimeError, ValueError) as error:
        hint = "" if "RAY_AUTH_MODE" in os.environ else "; if the cluster asks for a token, set RAY_AUTH_MODE=token"
        raise UserError(f"--address {address}: {first_line(error)}{hint}") from None


def room(plan: Plan, need: gpu_packing.Need, have: Mapping[str, float], to_come: Coming) -> tuple[Any, int]:
    """A slot's shape and how many there are to be. `have`: the cluster's resources when all of it is up.

    Raises:
        UserError: not one fits.
    """
    from attnlab.sweep.slots.slots import Shape

    r = plan.sweep.resources
    gpus = gpu_packing.gpus_per_worker(r, need, have, plan.total_trials)
    shape = Shape(r.workers, r.cpus_per_worker, gpus)
    fit = shape.fits(have.get("CPU", 0), have.get("GPU", 0))
    if to_come.autoscaled and not to_come.types:  # what may come is not known, so what is asked for may
        if "auto" not in (r.max_concurrent, r.gpus_per_worker):
            fit = int(r.max_concurrent)
        elif not fit:
            raise UserError(
                "resources: nothing fits on the nodes that are up, and what the autoscaler may start is not known "
                "here; give resources.max_concurrent and resources.gpus_per_worker as numbers"
            )
    if not fit:
        raise UserError(
            f"resources: a trial takes {r.workers} x {r.cpus_per_worker} CPUs and {r.workers} x {gpus:g} GPUs, but "
            f"here are {'at most ' if to_come.types else ''}{have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} "
            f"GPUs; lower resources.workers, cpus_per_worker or gpus_per_worker"
            f"{' (0 trains on CPUs)' if gpus else ''}"
        )
    slots = fit if r.max_concurrent == "auto" else min(fit, r.max_concurrent)
    return shape, min(slots, plan.total_trials)


def _knock(address: str) -> None:
    """Whether anybody listens at host:port (or ray://host:port), without ray's minute of patience."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), PROBE_S):
            pass
    except (OSError, ValueError) as error:
        raise UserError(
            f"--address {address}: nobody answers there ({error}); is the cluster up, the port right?"
        ) from None


def probe(plan: Plan, place: Mirror, shape: Any, kernel_cache: Path | None, local: bool) -> None:
    """Every node that can hold a worker sees what its trials need; not asked where Ray is this machine.

    Raises:
        UserError: a line per node and place.
    """
    import ray

    from attnlab.sweep.cluster import node_probe

    if local and sum(node["Alive"] for node in ray.nodes()) < 2:
        return
    shared = node_probe.spots(place, kernel_cache, cache_root())
    asked = node_probe.holding(ray.nodes(), shape.cpus, shape.gpus)
    if problems := node_probe.probe(asked, shared, node_probe.datasets(plan)):
        raise UserError(problems)
