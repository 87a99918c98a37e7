"""A sweep from its first check of the machine to its report: Tune on top, slots below, the results folder the truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnlab.config.resolved import Plan
from attnlab.config.sweep_file import dump
from attnlab.plan import gpu_packing
from attnlab.plan.extension import leaderboard, planned_trials
from attnlab.plan.guards.run import run_guards
from attnlab.plan.prepare import check_device, prepare_tasks
from attnlab.ranking.leaderboard import Leaderboard, notes
from attnlab.ranking.noise_floor import planned_for
from attnlab.records.mirror import Mirror
from attnlab.sweep.cluster.session import cluster, early, probe
from attnlab.sweep.folder import opened
from attnlab.sweep.ui.interrupt import Interrupts
from attnlab.sweep.ui.progress import say
from attnlab.util.errors import StorageError, SweepStopped, UserError
from attnlab.util.files import read_json, write_text
from attnlab.version import __version__

AHEAD = 1  # trials that are drawn, and wait, while all slots train: the next one begins without asking the searcher


@dataclass(frozen=True)
class Facts:
    """Known before it runs: the needs of its largest trial, its tasks' baselines, what its guards found."""

    need: gpu_packing.Need
    baselines: dict[str, float]
    guards: dict[str, Any]


def run(
    plan: Plan,
    results: str | Path,
    *,
    address: str | None = None,
    resume: bool = False,
    kernel_cache: str | Path | None = None,
    own_process: bool = False,
) -> Leaderboard:
    """Run a sweep to its end and write its report.

    Args:
        plan: what to run.
        results: the folder that holds sweeps' folders, as a path or URI; on a cluster, one that every node sees.
        address: None: the Ray that this process is connected to, which is left up, else one of our own on this machine;
            `auto` or an URL: a cluster that is up.
        resume: go on with what the sweep's folder holds.
        kernel_cache: the cluster's tuned kernels; see `attnlab.training.kernel_cache.directory`.
        own_process: this process is there for sweeps alone: a second Ctrl-C ends it at once.

    Returns:
        `leaderboard.json`.

    Raises:
        UserError: the folder, the cluster or the resources do not fit; nothing was written.
        UserError: data that cannot be had, what the guards refuse, or what the cluster's devices do (a
            precision, a captured step); nothing was written.
        SweepStopped: no workers to be had, or records that cannot be written; everything finished is kept, and
            `resume` goes on.
        KeyboardInterrupt: Ctrl-C; everything finished is kept, and `resume` goes on.
    """
    place = opened(plan, results, resume)
    folder = place.folder
    found = folder.results()
    plan = plan.rejoined(r["arm"] for r in found)
    ended = [r for r in found if r["arm"] in plan.names and planned_for(plan, r)]
    if len(ended) >= planned_trials(plan, ended) and folder.leaderboard_file.exists():  # finished work is a no-op
        old = read_json(folder.leaderboard_file)
        final = leaderboard(plan, ended, old["baselines"], old.get("guards"))
        say(notes(final))
        return final
    try:
        place.check()
    except StorageError as error:
        raise UserError(f"--results {error}") from None
    with Interrupts(own_process) as interrupts, early(address) as local:
        facts = _examined(plan)
        with cluster(address, plan, facts.need, local) as (shape, slots):
            from attnlab.sweep.cluster import warmup
            from attnlab.training.kernel_cache import directory

            cache = directory(kernel_cache, results)
            probe(plan, place, shape, cache if shape.gpus else None, address is None)
            check_device(plan, "cuda" if shape.gpus else "cpu")  # with `auto` it is only known now
            if shape.gpus:
                warmup.before_slots(plan, cache)
            folder.path.mkdir(parents=True, exist_ok=True)
            write_text(folder.sweep_file, dump(plan.sweep))
            try:
                place.push(folder.sweep_file)
                return _search(plan, place, shape, slots, facts, cache, interrupts)
            except StorageError as error:
                raise SweepStopped(f"{error}; what was published is kept, and --resume goes on") from error


def _examined(plan: Plan) -> Facts:
    tasks = prepare_tasks(plan)
    baselines = next(iter(tasks.values())).baselines()
    return Facts(gpu_packing.largest(plan, tasks), baselines, run_guards(plan, tasks))


def _search(
    plan: Plan,
    place: Mirror,
    shape: Any,
    count: int,
    facts: Facts,
    kernel_cache: Path,
    interrupts: Interrupts,
) -> Leaderboard:
    """Slots up, Tune through them, slots down."""
    from ray import tune

    from attnlab.sweep.search.asha import ArmAsha
    from attnlab.sweep.search.searcher import ArmSearch
    from attnlab.sweep.slots.mailbox import Pool
    from attnlab.sweep.slots.relay import RETRIES, relay
    from attnlab.sweep.slots.slots import Slots, here
    from attnlab.sweep.ui.callback import Watch
    from attnlab.sweep.ui.progress import Board

    folder = place.folder
    search = ArmSearch(plan, folder, place)
    search.most = count  # until slots train: what is drawn ahead costs a process, and they are what is waited for
    pool = Pool.options(scheduling_strategy=here()).remote(plan.sweep.resources.node_wait_s)  # type: ignore[attr-defined]
    asha = ArmAsha(plan, mark=pool.mark.remote)
    search.replay(asha)
    board = Board(plan, plan.total_trials, plan.total_steps, facts.baselines, count, facts.guards)
    watch = Watch(plan, place, search, board, facts.baselines, facts.guards, interrupts)
    board.say(
        f"attnlab {__version__}: {plan.name}, {len(plan.names)} arms, {plan.total_trials} trials, {count} at a time"
        + (f", up to {int(1 / shape.gpus)} on a GPU: {facts.need}" if 0 < shape.gpus < 1 else "")
    )
    board.note(notes(watch.board()))
    slots = Slots(count, shape, pool, place, plan.sweep.resources, kernel_cache)
    watch.errors = slots.errors
    board.waiting = slots.waiting
    tuner = tune.Tuner(
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
    )
    with resumable(slots.errors):
        try:
            with board, interrupts.patient():
                tuner.fit()
            slots.close()
        except BaseException:
            slots.abandon()
            raise
        finally:
            try:
                watch.write()
            finally:
                slots.release()
    final = watch.board()
    say(notes(final))
    return final


@contextmanager
def resumable(errors: Sequence[str]) -> Iterator[None]:
    """What ends a sweep early becomes one line: a reason of the slots' (`errors`), or a file that cannot be written."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except Exception as error:
        why = errors[0] if errors else _unwritable(error)
        if why is None:
            raise
        raise SweepStopped(f"{why}; what ended is kept, and --resume goes on") from error


def _unwritable(error: BaseException | None) -> str | None:
    """The system's refusal behind an exception, with the file; None if there is none."""
    while error is not None:
        if isinstance(error, OSError) and error.errno and error.filename:  # of a renaming the second is the target
            return f"{error.strerror}: {error.filename2 or error.filename}"
        error = error.__cause__ or error.__context__
    return None
