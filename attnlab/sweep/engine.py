"""A sweep from its first check of the machine to its report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from attnlab.config.resolved import Plan
from attnlab.config.sweep_file import dump
from attnlab.plan import memory
from attnlab.plan.extension import leaderboard, planned_trials
from attnlab.plan.prepare import check_device
from attnlab.plan.preregistration import preregister
from attnlab.ranking.leaderboard import Leaderboard, notes
from attnlab.ranking.noise_floor import planned_for
from attnlab.records.lock import Lock
from attnlab.records.mirror import Mirror
from attnlab.records.paths import SweepDir
from attnlab.records.reading import Damaged, read_board
from attnlab.records.results import Results
from attnlab.sweep.cluster import warmup
from attnlab.sweep.cluster.gcs import gcs_watched
from attnlab.sweep.cluster.room import SlotShape
from attnlab.sweep.cluster.session import check_nodes, cluster, room_of_cluster, runs_alone, start_ray
from attnlab.sweep.folder import hold, open_sweep_folder, restate, sweep_mirror
from attnlab.sweep.mend import mend_sweep
from attnlab.sweep.preflight import Preflight, undone_for_mistakes
from attnlab.sweep.ui.interrupt import Interrupts
from attnlab.sweep.ui.progress import print_notes
from attnlab.training.kernel_folder import directory, refusal
from attnlab.util.errors import StorageError, SweepStopped, UserError
from attnlab.util.files import write_text


def run(
    plan: Plan,
    results: str | Path,
    *,
    address: str | None = None,
    resume: bool = False,
    kernel_cache: str | Path | None = None,
    own_process: bool = False,
) -> Leaderboard:
    """Run a sweep to its end, write its records and return its `leaderboard.json`.

    Args:
        results: path or URI of the folder that holds sweeps' folders; on a cluster, one that every node sees.
        address: `auto` or the URL of a cluster; None: this process's Ray, which is left up, else one started here.
        resume: go on with what the sweep's folder holds.
        kernel_cache: the cluster's tuned kernels; see `attnlab.training.kernel_cache.directory`.
        own_process: this process only runs sweeps: a second Ctrl-C ends it at once. In another's, SIGTERM and SIGHUP
            do what they would have done, once the sweep has ended in order.

    Raises:
        UserError: another launcher runs it; folder, cluster or resources do not fit, data are missing, guards or
            devices (a precision, a captured step) refuse the sweep, or a model fails its rehearsal; nothing stays
            written.
        SweepStopped: Ray does not start, workers are missing or records cannot be written; `resume` goes on.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; what runs is saved, everything finished is kept, and `resume` goes on.
    """
    cache = directory(kernel_cache, results)
    with ExitStack() as held:
        mirror = sweep_mirror(plan, results)
        lock, refused = hold(mirror, held)
        open_sweep_folder(plan, mirror, resume)
        _mend(plan, mirror, lock)
        ended = mirror.folder.results()
        plan = plan.rejoined(r["arm"] for r in ended)
        if final := _finished(plan, mirror.folder, ended):
            if lock:
                restate(plan, mirror)
            return final
        if lock is None:
            raise UserError(f"--results {refused}")
        room = _begin(plan, address)
        with Interrupts(own_process) as interrupts, start_ray(address) as local:
            preflight = Preflight.of(plan, room)
            up = cluster(address, plan, preflight.need, local)
            with up as (shape, count), gcs_watched(own_process, local is not None):
                interrupts.handle()
                room = memory.Room.here(shape.gpus) if local else room_of_cluster(shape)
                memory.check(plan, room, preflight.vocab_sizes, at_once=count)
                _check_devices(plan, mirror, shape, cache, address)
                # not before Ray is up: it imports ray (2 CPU-seconds), which LocalRay's thread does first
                from attnlab.sweep.trials import run_trials

                try:
                    with undone_for_mistakes(mirror):
                        write_text(mirror.folder.sweep_file, dump(plan.sweep))
                        mirror.push(mirror.folder.sweep_file)
                        preregister(plan, mirror)
                        return run_trials(plan, mirror, shape, count, preflight, cache, interrupts, lock)
                except StorageError as error:
                    raise SweepStopped(f"{error}; what was published is kept, and --resume goes on") from error


def _mend(plan: Plan, mirror: Mirror, lock: Lock | None) -> None:
    """Set aside what the folder holds that cannot be used, and say so, if this launcher may write there."""
    for line in mend_sweep(plan, mirror) if lock else ():
        print(f"attnlab: {line}", file=sys.stderr, flush=True)


def _begin(plan: Plan, address: str | None) -> memory.Room:
    """Say what the plan does otherwise than its file. Returns what there is for a trial, as far as known without Ray.

    Raises UserError: trials that cannot fit there.
    """
    print("".join(f"{note}\n" for note in plan.notes), end="", flush=True)
    room = memory.Room.here(plan.sweep.resources.gpus_per_worker) if runs_alone(address) else memory.Room()
    memory.check(plan, room)
    return room


def _check_devices(plan: Plan, mirror: Mirror, shape: SlotShape, cache: Path, address: str | None) -> None:
    """Check what nodes see and devices can, and tune the kernels. Raises UserError."""
    foreign = refusal(cache) if shape.gpus else None
    shared = cache if shape.gpus and not foreign else None
    check_nodes(plan, mirror, shape, shared, address is None)
    check_device(plan, "cuda" if shape.gpus else "cpu")  # with `auto` it is only known now
    if shared:
        warmup.warm_cluster(plan, cache)
    elif foreign:
        print(f"{foreign}; every worker tunes its own kernels", flush=True)


def _finished(plan: Plan, folder: SweepDir, results: Sequence[Results]) -> Leaderboard | None:
    """The leaderboard of a sweep that has nothing left to run."""
    ended = [r for r in results if r["arm"] in plan.names and planned_for(plan, r)]
    if len(ended) < planned_trials(plan, ended):
        return None
    try:
        old = read_board(folder.leaderboard_file)
    except Damaged:  # of a folder that cannot be written to
        old = None
    if old is None:
        return None
    final = leaderboard(plan, ended, old["baselines"], old.get("guards"))
    print_notes(notes(final))
    return final
