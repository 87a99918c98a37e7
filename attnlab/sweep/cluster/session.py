"""The Ray that a sweep runs on, started here or connected to.

It is imported only in functions, after its environment is set, and not before mistakes that need no cluster are found.
"""

from __future__ import annotations

import ctypes
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from attnlab.config.resolved import Plan
from attnlab.plan import gpu_packing, memory
from attnlab.records.mirror import Mirror
from attnlab.sweep.cluster import code_sync, node_probe
from attnlab.sweep.cluster.autoscaler import Autoscaler, find_autoscaler
from attnlab.sweep.cluster.room import SlotShape, room
from attnlab.util.errors import SweepStopped, UserError
from attnlab.util.files import cache_root
from attnlab.util.text import first_line, one_line

# Set before ray is imported: no out-of-memory killer, which judges the whole node; reports seen at once; no CSV,
# TensorBoard, snapshots or handling of Ctrl-C by Tune.
ENVIRONMENT = {
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_worker_maximum_startup_concurrency": "16",  # it warns of actors that only wait
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "86400",  # an autoscaler's machine may be long in coming
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial's last report has no metric
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
PROBE_S = 5.0
STARTS = 3  # attempts to start a Ray, each of which waits for up to 30 s
ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
ctypes.pythonapi.PyOS_getsig.restype = ctypes.c_void_p
ctypes.pythonapi.PyOS_setsig.restype, ctypes.pythonapi.PyOS_setsig.argtypes = (
    ctypes.c_void_p,
    (ctypes.c_int, ctypes.c_void_p),
)


class LocalRay:
    """A Ray of the sweep's own on this machine, ended with the context.

    It starts in a thread while the launcher imports and checks. The thread lasts as long as Ray, whose processes die
    with the thread that started them (PR_SET_PDEATHSIG). On a busy machine Ray may miss its own time limit: another
    thread then tries again.
    """

    def __init__(self) -> None:
        self._error: BaseException | None = None
        self._up, self._over = threading.Event(), threading.Event()
        self._needed = True
        self._thread = threading.Thread(target=self._run, args=(1,), name="ray", daemon=True)

    def _run(self, attempt: int) -> None:
        # Ray's processes and threads start with these signals blocked: where all of a job get them, as from Slurm, the
        # launcher has the trials saved while Ray is still up
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        handler = ctypes.pythonapi.PyOS_getsig(signal.SIGTERM)
        try:
            import ray

            ray.init("local", include_dashboard=False, **QUIET)  # "local": not a cluster that happens to be up here
        except BaseException as error:  # raised by `wait`
            if attempt < STARTS and self._needed and isinstance(error, Exception):
                print(f"Ray does not come up, trying again: {one_line(error)}", file=sys.stderr, flush=True)
                self._thread = threading.Thread(target=self._run, args=(attempt + 1,), name="ray", daemon=True)
                self._thread.start()
                return
            self._error = error
        ctypes.pythonapi.PyOS_setsig(signal.SIGTERM, handler)  # Ray put its own, which prints a stack and ends
        self._up.set()
        self._over.wait()

    def __enter__(self) -> LocalRay:
        self._thread.start()
        return self

    def wait(self) -> None:
        """Wait until it is up. Raises SweepStopped if it did not start in `STARTS` attempts."""
        self._up.wait()
        if self._error:
            why = f"Ray does not start on this machine, tried {STARTS} times: {one_line(self._error)}"
            raise SweepStopped(f"{why}; nothing was written, and the same command tries again") from self._error

    def __exit__(self, *error: Any) -> None:
        self._needed = False
        self._up.wait()
        if shutdown := getattr(sys.modules.get("ray"), "shutdown", None):
            shutdown()
        self._over.set()
        self._thread.join()


def set_environment() -> None:
    """Set what ray reads as it is imported."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    logging.getLogger("ray.widgets.util").setLevel(logging.ERROR)  # it asks notebooks for widgets


def start_ray(address: str | None) -> AbstractContextManager[LocalRay | None]:
    """A LocalRay to start. None if the sweep runs on the address's or the user's own Ray."""
    set_environment()
    if not runs_alone(address):
        return nullcontext()
    _give_token()
    return LocalRay()


def _give_token() -> None:
    """Give this user's own Ray a token of its own where it cannot keep one, which it does in the home folder."""
    kept = Path(os.environ.get("HOME", "/proc/none"), ".ray")
    if not os.access(kept if kept.exists() else kept.parent, os.W_OK) and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def runs_alone(address: str | None) -> bool:
    """Whether the sweep gets a Ray of its own on this machine."""
    return not (address or _connected())


@contextmanager
def cluster(
    address: str | None, plan: Plan, need: gpu_packing.Need, local: LocalRay | None = None
) -> Iterator[tuple[SlotShape, int]]:
    """Have Ray up; yields the shape and number of slots, for the largest trial's `need`.

    Raises UserError if nobody answers or no slot fits, SweepStopped if Ray does not start.
    """
    with nullcontext(local) if local else start_ray(address) as local:
        if local:
            local.wait()
        else:
            _connect(address)
        import ray

        log, level = logging.getLogger("ray"), logging.getLogger("ray").level
        try:
            log.setLevel(logging.ERROR)
            autoscaler = Autoscaler() if local else find_autoscaler()
            if address and (env := code_sync.runtime_env(plan, ray.nodes(), autoscaler.active)):
                ray.shutdown()
                ray.init(address=address, runtime_env=env, **QUIET)
            have = autoscaler.largest(ray.nodes()) if autoscaler.node_types else ray.cluster_resources()
            yield room(plan, need, have, autoscaler)
        finally:
            log.setLevel(level)
            if address:
                ray.shutdown()


def _connected() -> bool:
    """Whether this process has a Ray of its user's."""
    is_initialized = getattr(sys.modules.get("ray"), "is_initialized", None)  # another thread may be importing it
    return is_initialized is not None and is_initialized()


def _connect(address: str | None) -> None:
    """Connect to the cluster at the address; without one, this process is connected already."""
    if address and _connected():
        raise UserError(f"--address {address}: this process is connected to Ray already; leave the address out")
    if address and address != "auto":
        _check_listening(address)
    import ray

    try:
        if address:
            ray.init(address=address, **QUIET)
    except (ConnectionError, RuntimeError, ValueError) as error:
        hint = "" if "RAY_AUTH_MODE" in os.environ else "; if the cluster asks for a token, set RAY_AUTH_MODE=token"
        raise UserError(f"--address {address}: {first_line(error)}{hint}") from None


def _check_listening(address: str) -> None:
    """Raise UserError if nobody listens at the address, for which ray would wait a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), PROBE_S).close()
    except (OSError, ValueError) as error:
        hint = "is the cluster up, the port right?"
        raise UserError(f"--address {address}: nobody answers there ({error}); {hint}") from None


def room_of_cluster(shape: SlotShape) -> memory.Room:
    """What the cluster that is up has for a worker, as far as Ray names it."""
    import ray

    return memory.Room.of_cluster(shape.gpus, ray.cluster_resources())


def check_nodes(plan: Plan, mirror: Mirror, shape: SlotShape, kernel_cache: Path | None, local: bool) -> None:
    """Raise UserError if a node that fits a worker does not see what trials need."""
    import ray

    nodes = ray.nodes()
    if local and sum(node["Alive"] for node in nodes) < 2:
        return
    shared = node_probe.shared_folders(mirror, kernel_cache, cache_root())
    nodes = node_probe.nodes_that_fit(nodes, shape.cpus, shape.gpus)
    if problems := node_probe.probe(nodes, shared, node_probe.datasets(plan)):
        raise UserError(problems)
