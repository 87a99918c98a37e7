"""Run a sweep's trials: Tune on top, slots below, the results folder the truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ray import tune

from attnlab.config.resolved import Plan
from attnlab.ranking.leaderboard import Leaderboard, notes
from attnlab.records.lock import Lock
from attnlab.records.mirror import Mirror
from attnlab.sweep.cluster.room import SlotShape
from attnlab.sweep.preflight import Preflight
from attnlab.sweep.rehearsals import find_rehearsals, rehearse
from attnlab.sweep.search.asha import ArmAsha
from attnlab.sweep.search.searcher import ArmSearch
from attnlab.sweep.slots.relay import RETRIES, relay
from attnlab.sweep.slots.slots import Slots
from attnlab.sweep.ui.callback import ProgressCallback
from attnlab.sweep.ui.interrupt import Interrupts
from attnlab.sweep.ui.progress import Progress, print_notes
from attnlab.util.errors import SweepStopped
from attnlab.util.files import remove
from attnlab.version import __version__

AHEAD = 1  # trials drawn while all slots train, so that the next one begins without asking the searcher


def run_trials(
    plan: Plan,
    mirror: Mirror,
    shape: SlotShape,
    count: int,
    preflight: Preflight,
    cache: Path,
    interrupts: Interrupts,
    lock: Lock,
) -> Leaderboard:
    """Rehearse the models and run what is left of a sweep in `count` slots; see `engine.run`."""
    rehearsals = find_rehearsals(plan, begun={trial.arm for trial in mirror.folder.trials()})
    remove(mirror.folder.ray)  # what Ray keeps there are pickles, and these may be another's
    search = ArmSearch(plan, mirror, at_first=count, hashes=preflight.provenance.of)
    slots = Slots(count, shape, mirror, plan.sweep.resources, cache)
    lock.tell(slots.errors.append)
    asha = ArmAsha(plan, search.job_of, slots.pool.mark.remote, search.reports())
    progress = Progress(plan, count, search.ended, slots.waiting)
    judged = preflight.baselines, preflight.guards
    callback = ProgressCallback(plan, mirror, search, progress, *judged, interrupts, slots.errors)
    progress.print(
        f"attnlab {__version__}: {plan.name}, {len(plan.arms)} arms, {plan.total_trials} trials, {count} at a time"
        + (f", up to {int(1 / shape.gpus)} on a GPU: {preflight.need}" if 0 < shape.gpus < 1 else "")
    )
    progress.note(notes(callback.leaderboard()))
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(relay, pool=slots.pool), {"memory": 1}),
        tune_config=tune.TuneConfig(
            search_alg=search, scheduler=asha, num_samples=-1, max_concurrent_trials=count + AHEAD, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(mirror.folder.ray),
            verbose=0,
            progress_reporter=tune.CLIReporter(),  # silent; a notebook's own would clear the cell's output
            callbacks=[callback],
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )
    with resumable(slots.errors), ExitStack() as ending:  # the last one in ends first
        ending.callback(slots.release)
        ending.callback(callback.write)
        ending.enter_context(slots)
        with progress, interrupts.patient():
            rehearse(rehearsals, slots, lambda: callback.on_step_end(0, []), progress.print)
            tuner.fit()
    final = callback.leaderboard()
    print_notes(notes(final))
    return final


@contextmanager
def resumable(errors: Sequence[str]) -> Iterator[None]:
    """Raise SweepStopped, one line, for what ends a sweep: the slots' `errors`, a full disk."""
    try:
        yield
    except Exception as error:
        if why := errors[0] if errors else _unwritable(error):
            raise SweepStopped(f"{why}; what ended is kept, and --resume goes on") from error
        raise


def _unwritable(error: BaseException | None) -> str | None:
    """The system's refusal to write a file that an exception comes from, if any."""
    while error is not None:
        if isinstance(error, OSError) and error.errno and error.filename:  # filename2: the target of a renaming
            return f"{error.strerror}: {error.filename2 or error.filename}"
        error = error.__cause__ or error.__context__
    return None
