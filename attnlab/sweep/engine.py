"""A sweep from its first check of the machine to its report: Tune on top, slots below, the results folder the truth."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attnlab import __version__, guards, runs
from attnlab.check import precision_problems, prepared
from attnlab.config import Sweep, SweepError
from attnlab.extension import planned
from attnlab.noise import planned_for
from attnlab.runs import SweepDir
from attnlab.standings import Leaderboard, notes, standings
from attnlab.sweep import sharing
from attnlab.sweep.board import say
from attnlab.sweepfile import dump, normal, parse

# Set before ray is imported. Ray's own out-of-memory killer judges the whole node, not us; reports are seen at once;
# Tune keeps to itself: no CSV, TensorBoard or snapshots of its own, and Ctrl-C is ours.
ENVIRONMENT = {
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_worker_maximum_startup_concurrency": "16",  # its warnings count actors that only wait
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # the last word of a failed trial has no metric
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
PROBE_S = 5.0
AHEAD = 1  # trials that are drawn, and wait, while all slots train: the next one begins without asking the searcher


class EngineError(RuntimeError):
    """The sweep cannot be run here; one line says why and what would help. Nothing has been written."""


class SlotError(RuntimeError):
    """A slot's workers cannot be had any more, which ended the sweep; what had ended is kept."""


def run(
    sweep: Sweep,
    results: Path,
    *,
    address: str | None = None,
    resume: bool = False,
    kernel_cache: str | Path | None = None,
) -> Leaderboard:
    """Run a sweep to its end and write its report.

    Args:
        sweep: what to run.
        results: the folder that holds sweeps' folders; on a cluster, one that every node sees.
        address: None: the Ray that this process is connected to, which is left up, else one of our own on this machine;
            `auto` or an URL: a cluster that is up.
        resume: go on with what the sweep's folder holds.
        kernel_cache: the cluster's tuned kernels; see `attnlab.kernels.warm.directory`.

    Returns:
        `leaderboard.json`.

    Raises:
        EngineError: the folder, the cluster or the resources do not fit; nothing was written.
        SweepError: data that cannot be had, what `guards.examine` refuses, or a precision that the cluster's GPUs
            refuse; nothing was written.
        SlotError: workers that cannot be started; everything finished is kept, and `resume` goes on.
        KeyboardInterrupt: Ctrl-C; everything finished is kept, and `resume` goes on.
    """
    folder = SweepDir(Path(results).resolve() / sweep.name)
    check_folder(sweep, folder, resume)
    ended = [r for r in folder.results() if r["arm"] in sweep.arms and planned_for(sweep, r)]
    if len(ended) >= planned(sweep, ended) and folder.leaderboard_file.exists():  # finished work is a no-op
        old = runs.read_json(folder.leaderboard_file)
        final = standings(sweep, ended, old["baselines"], old.get("guards"))
        say(notes(final))
        return final
    tasks = prepared(sweep)
    guarded = guards.examine(sweep, tasks)
    need, baselines = sharing.largest(sweep, tasks), next(iter(tasks.values())).baselines()
    with cluster(address, sweep, need) as (shape, slots):
        from attnlab.kernels import warm
        from attnlab.sweep import warmup

        cache = warm.directory(kernel_cache, results)
        if shape.gpus:  # with `auto` it is only known now
            if problems := [p for arm in sweep.arms for p in precision_problems(sweep.trial_of(arm), arm)]:
                raise SweepError(problems)
            warmup.before_slots(sweep, cache)
        folder.path.mkdir(parents=True, exist_ok=True)
        runs.write_text(folder.sweep_file, dump(sweep))
        board = _search(sweep, folder, shape, slots, baselines, need, cache, guarded)
    return board


def check_folder(sweep: Sweep, folder: SweepDir, resume: bool) -> None:
    """A folder of another sweep, or one to be resumed, is never written over. Raises EngineError."""
    if not folder.sweep_file.exists():
        return
    try:
        old = Sweep.model_validate(normal(parse(folder.sweep_file.read_text(), str(folder.sweep_file))))
    except ValueError as error:
        raise EngineError(
            f"{folder.sweep_file}: not a sweep of this version ({error}); use another --results"
        ) from None
    if differs := changes(old, sweep):
        raise EngineError(
            f"{folder.path} holds another sweep of this name: {'; '.join(differs[:4])}. "
            f"Give this one a name of its own (name=...), or another folder (--results DIR)"
        )
    if not resume:
        ended = len(folder.results())
        raise EngineError(
            f"{folder.path} already holds this sweep, {ended} trials ended: go on with --resume, or keep it and start "
            f"afresh under another folder (--results DIR) or name (name=...)"
        )


def changes(old: Sweep, new: Sweep) -> list[str]:
    """What differs so that trials of `old` would not be trials of `new`. More trials, more or fewer arms,
    other resources, seeds or words do not."""
    out = []
    for arm in old.arms:
        if arm in new.arms:
            a, b = (s.trial_of(arm).model_dump(mode="json") for s in (old, new))
            out += [f"arms.{arm} {path}: {x!r} there, {y!r} here" for path, x, y in _differences(a, b)]
    for key in ("space", "metric", "mode", "sampler", "seed", "asha"):
        a, b = (getattr(s.search, key, None) for s in (old, new))
        if a != b:
            out.append(f"search.{key}: {a!r} there, {b!r} here")
    if (old.metric, old.mode) != (new.metric, new.mode) and not (old.search and new.search):
        out.append(f"rank: {old.mode} {old.metric} there, {new.mode} {new.metric} here")
    for arm in old.arms.keys() & new.arms.keys():
        a, b = (s.arms[arm].get("search") for s in (old, new))
        if a != b:
            out.append(f"arms.{arm}.search: {a!r} there, {b!r} here")
    return list(dict.fromkeys(out))


def _differences(a: Any, b: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {**a, **b}:
            yield from _differences(a.get(key), b.get(key), f"{path}.{key}" if path else key)
    elif a != b:
        yield path, a, b


@contextmanager
def cluster(address: str | None, sweep: Sweep, need: sharing.Need) -> Iterator[tuple[Any, int]]:
    """Ray, up: the process's, one of our own, which ends with us, or a cluster's. Yields a slot's shape and how many to
    start.

    `need`: the largest trial's, which says how many of them share a GPU.

    Raises:
        EngineError: nobody answers, or not one slot fits.
    """
    theirs = "ray" in sys.modules and sys.modules["ray"].is_initialized()  # the caller's, who goes on with it
    if theirs and address:
        raise EngineError(f"--address {address}: this process is connected to Ray already; leave the address out")
    if address and address != "auto":
        _knock(address)
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    logging.getLogger("ray.widgets.util").setLevel(logging.ERROR)  # it asks notebooks for widgets
    import ray

    from attnlab.sweep.slots import Shape

    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    log, level = logging.getLogger("ray"), logging.getLogger("ray").level
    try:
        if address:
            ray.init(address=address, **quiet)
        elif not theirs:
            ray.init("local", include_dashboard=False, **quiet)  # not whatever cluster happens to be up here
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise EngineError(f"--address {address}: {str(error).splitlines()[0]}") from None
    try:
        log.setLevel(logging.ERROR)
        have = ray.cluster_resources()
        r = sweep.resources
        gpus = sharing.gpus_per_worker(r, need, have, sweep.total_trials)
        shape = Shape(r.workers, r.cpus_per_worker, gpus)
        fit = shape.fits(have.get("CPU", 0), have.get("GPU", 0))
        if not fit:
            raise EngineError(
                f"resources: a trial takes {r.workers} x {r.cpus_per_worker} CPUs and {r.workers} x {gpus:g} GPUs, but "
                f"here are {have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs; lower resources.workers, "
                f"cpus_per_worker or gpus_per_worker{' (0 trains on CPUs)' if gpus else ''}"
            )
        slots = fit if r.max_concurrent == "auto" else min(fit, r.max_concurrent)
        yield shape, min(slots, sweep.total_trials)
    finally:
        log.setLevel(level)
        if not theirs:
            ray.shutdown()


def _knock(address: str) -> None:
    """Whether anybody listens at host:port (or ray://host:port), without ray's minute of patience."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), PROBE_S):
            pass
    except (OSError, ValueError) as error:
        raise EngineError(
            f"--address {address}: nobody answers there ({error}); is the cluster up, the port right?"
        ) from None


def _search(
    sweep: Sweep,
    folder: SweepDir,
    shape: Any,
    count: int,
    baselines: dict[str, float],
    need: sharing.Need,
    kernel_cache: Path,
    guarded: dict[str, Any],
) -> Leaderboard:
    """Slots up, Tune through them, slots down."""
    from ray import tune

    from attnlab.sweep.board import Board
    from attnlab.sweep.mailbox import Pool
    from attnlab.sweep.relay import RETRIES, relay
    from attnlab.sweep.scheduler import ArmAsha
    from attnlab.sweep.search import ArmSearch
    from attnlab.sweep.slots import Slots
    from attnlab.sweep.watch import Watch

    search = ArmSearch(sweep, folder)
    pool = Pool.remote()  # type: ignore[attr-defined]
    asha = ArmAsha(sweep, mark=pool.mark.remote)
    search.replay(asha)
    board = Board(sweep, sweep.total_trials, sweep.total_steps, baselines, count, guarded)
    watch = Watch(sweep, folder, search, board, baselines, guarded)
    board.say(
        f"attnlab {__version__}: {sweep.name}, {len(sweep.arms)} arms, {sweep.total_trials} trials, {count} at a time"
        + (f", up to {int(1 / shape.gpus)} on a GPU: {need}" if 0 < shape.gpus < 1 else "")
    )
    board.note(notes(watch.board()))
    slots = Slots(count, shape, pool, folder, sweep.resources.max_failures, kernel_cache)
    try:
        with board, watch.listening(slots.errors):
            tune.Tuner(
                tune.with_resources(tune.with_parameters(relay, pool=pool), {"memory": 1}),
                tune_config=tune.TuneConfig(
                    search_alg=search,
                    scheduler=asha,
                    num_samples=-1,
                    max_concurrent_trials=count + AHEAD,
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    name="tune",
                    storage_path=str(folder.ray),
                    verbose=0,
                    progress_reporter=tune.CLIReporter(),  # silent; a notebook's own would clear the cell's output
                    callbacks=[watch],
                    failure_config=tune.FailureConfig(max_failures=RETRIES),
                ),
            ).fit()
        slots.close()
    except BaseException as error:
        slots.abandon()
        if slots.errors and not isinstance(error, KeyboardInterrupt):
            said = " ".join(str(slots.errors[0]).split())
            raise SlotError(f"a slot failed: {said}; what ended is kept, and --resume goes on") from slots.errors[0]
        raise
    finally:
        watch.write()
        slots.release()
    final = watch.board()
    say(notes(final))
    return final
