"""What the engine costs per trial as trials grow many: the real searcher, ASHA, records and Ray Tune, no training.

    python -m bench.scale 102 1002 [--minutes 10] [--without-tune] [--profile FILE]

Each number of trials is a sweep of its own: 3 arms, 64 slots, TPE over two settings, ASHA over 4 reports. The relay is
replaced by a function that writes the records of a trial at once; nothing else of the driver is. `--without-tune` calls
searcher, scheduler and callback as Tune would, in a bare loop: what is ours alone, quick enough for 10,000 trials.
Printed per window of ended trials: driver's milliseconds per trial, wall and CPU, those spent in our own calls, and the
driver's memory; then how long a resume takes to rebuild everything from the records.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import psutil

from attnlab.config.resolved import Plan
from attnlab.plan.load import resolve
from attnlab.records.metrics import best_row
from attnlab.records.mirror import Mirror
from attnlab.records.paths import SweepDir, TrialDir
from attnlab.records.results import Job
from attnlab.sweep import engine
from attnlab.sweep.cluster.session import ENVIRONMENT
from attnlab.util.files import write_json

SLOTS = 64
SWEEP: dict[str, Any] = {
    "name": "scale",
    "trial": {
        "task": {"name": "mqar", "seq_len": 16, "vocab_size": 16, "n_pairs": 2, "n_eval": 4},
        "train": {"max_steps": 4, "eval_every": 1},
    },
    "arms": {f"arm{i}": {"model": {"d_model": 64 + 64 * i}} for i in range(3)},
}
SEARCH = {
    "space": {"optim.lr": {"loguniform": [1e-4, 1e-1]}, "optim.weight_decay": {"uniform": [0.0, 0.3]}},
    "asha": {"grace_steps": 1, "reduction_factor": 2},
}
OURS = {  # what Tune calls of ours: class -> methods
    "search.searcher.ArmSearch": ("suggest", "on_trial_complete", "on_trial_result"),
    "search.asha.ArmAsha": ("on_trial_result",),
    "ui.callback.ProgressCallback": ("on_trial_start", "on_trial_result", "on_trial_complete", "on_step_end"),
}


def pretend(config: dict[str, Any], report: Callable[[dict[str, Any]], Any], stop: Callable[[], bool]) -> None:
    """A trial's records and reports, without its training."""
    job = Job.model_validate(config["job"])
    home = TrialDir(Path(os.environ.get("ATTNLAB_SCALE", "")) / job.arm / job.trial_id)
    lr, decay = job.settings["optim.lr"], job.settings["optim.weight_decay"]
    rows: list[dict[str, Any]] = []
    pruned = False
    for step in range(1, 5):
        loss = 3.0 + abs(lr - 0.01) ** 0.5 + abs(decay - 0.1) + 1 / step
        rows.append({"step": step, "tokens": 64 * step, "val_loss": loss, "tokens_per_s": 1e5, "seconds": 1e-3 * step})
        if step == 4:
            break
        report(rows[-1])
        if pruned := stop():
            break
    home.metrics_file.write_text("".join(f"{row}\n".replace("'", '"') for row in rows), encoding="utf-8")
    state = "pruned" if pruned else "completed"
    best = best_row(rows, job.metric, job.mode)
    known = {"trial_id": job.trial_id, "arm": job.arm, "state": state, "phase": job.phase, "settings": job.settings}
    counts = {"steps": len(rows), "tokens": 64 * len(rows), "seconds": 0.004, "device_seconds": 0.004, "seed": 0}
    sizes = {"n_params": 1, "n_params_non_embedding": 1, "checkpoint": None, "error": None, "environment": {}}
    write_json(home.results_file, {**known, **counts, **sizes, "best": best, "last": rows[-1]})
    report({**rows[-1], "best": best, "state": state})


def relay(config: dict[str, Any], pool: Any = None) -> None:
    """In the relay's place: a mark is a file in the sweep's folder."""
    from ray import tune

    os.environ["ATTNLAB_SCALE"] = pool["folder"]
    mark = Path(pool["folder"]) / "marks" / config["job"]["trial_id"]
    pretend(config, tune.report, mark.exists)


class _Marking(dict[str, Any]):
    """A dict (it travels to the workers) whose keys are also attributes."""

    __getattr__ = dict.__getitem__


class _Touch:
    def __init__(self, marks: str):
        self._marks = marks

    def __call__(self, trial_id: str) -> None:
        (Path(self._marks) / trial_id).touch()


class Slots:
    """In the slots' place: there are none, and of the pool only the stop marks."""

    folder = ""

    def __init__(self, *args: Any):
        self.errors: list[str] = []
        marks = Path(self.folder) / "marks"
        marks.mkdir(parents=True, exist_ok=True)
        self.pool = _Marking({"folder": self.folder, "mark": SimpleNamespace(remote=_Touch(str(marks)))})

    def __enter__(self) -> None: ...

    def __exit__(self, *error: Any) -> None: ...

    def waiting(self) -> str:
        return ""

    def release(self) -> None: ...


class Meter:
    """Times our calls, and the whole at every trial's end."""

    def __init__(self, end: float):
        self.spent: dict[str, float] = defaultdict(float)
        self.marks = [self._mark()]
        self._end = end
        self.seen: dict[str, Any] = {}

    def _mark(self) -> dict[str, Any]:
        rss = psutil.Process().memory_info().rss / 2**20
        return {"wall": time.perf_counter(), "cpu": time.process_time(), "rss": rss, **self.spent}

    def timed(self, cls: type, name: str) -> Callable[..., Any]:
        plain, key = getattr(cls, name), f"{cls.__name__}.{name}"

        def call(obj: Any, *args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            out = plain(obj, *args, **kwargs)
            self.spent[key] += time.perf_counter() - start
            if key == "ProgressCallback.on_trial_complete":
                self.marks.append(self._mark())
                if time.monotonic() > self._end:
                    raise KeyboardInterrupt
            return out

        return call

    def patches(self) -> Iterator[Any]:
        import importlib

        for where, names in OURS.items():
            module, _, cls = where.rpartition(".")
            kind = getattr(importlib.import_module(f"attnlab.sweep.{module}"), cls)
            yield from (patch.object(kind, name, self.timed(kind, name)) for name in names)

    def table(self, edges: list[int]) -> None:
        """Milliseconds per trial between trials edges[i] and edges[i + 1]."""
        keys = sorted({k for m in self.marks for k in m} - {"wall", "cpu", "rss"})
        print(f"{'trials':>14}{'wall ms':>9}{'cpu ms':>9}{'ours ms':>9}  driver MiB  of ours")
        edges = [e for e in edges if e < len(self.marks) - 1] + [len(self.marks) - 1]
        for a, b in itertools.pairwise(edges):
            each = {k: (self.marks[b].get(k, 0) - self.marks[a].get(k, 0)) / (b - a) * 1e3 for k in [*self.marks[b]]}
            ours = {k: each.get(k, 0.0) for k in keys}
            parts = ", ".join(f"{k} {v:.1f}" for k, v in sorted(ours.items(), key=lambda x: -x[1]) if v > 0.3)
            print(
                f"{a + 1:>7}-{b:<6}{each['wall']:9.1f}{each['cpu']:9.1f}{sum(ours.values()):9.1f}"
                f"{self.marks[b]['rss']:12.0f}  {parts}"
            )


@contextmanager
def stand_ins(folder: SweepDir) -> Iterator[None]:
    """The engine with pretended trials: a Ray of its own, no slots."""
    import ray

    from attnlab.sweep import trials
    from attnlab.sweep.cluster.room import SlotShape

    @contextmanager
    def cluster(*args: Any) -> Iterator[tuple[Any, int]]:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        try:
            yield SlotShape(1, 1, 0.0), SLOTS
        finally:
            ray.shutdown()

    Slots.folder = str(folder.path)
    with (
        patch.object(engine, "start_ray", lambda address: nullcontext()),
        patch.object(engine, "cluster", cluster),
        patch.object(trials, "relay", relay),
        patch.object(trials, "Slots", Slots),
    ):
        yield


def bare_loop(plan: Plan, folder: SweepDir) -> None:
    """Searcher, scheduler and callback called as Tune calls them, by a loop instead of Tune."""
    from attnlab.sweep.search.asha import ArmAsha
    from attnlab.sweep.search.searcher import ArmSearch
    from attnlab.sweep.ui.callback import ProgressCallback
    from attnlab.sweep.ui.interrupt import Interrupts
    from attnlab.sweep.ui.progress import Progress

    folder.path.mkdir(parents=True)
    marked: set[str] = set()
    os.environ["ATTNLAB_SCALE"] = str(folder.path)
    search = ArmSearch(plan, Mirror(folder))
    asha = ArmAsha(plan, search.job_of, marked.add)
    callback = ProgressCallback(plan, Mirror(folder), search, Progress(plan), {}, None, Interrupts(), ())
    live: dict[str, Any] = {}
    for number in itertools.count():
        config = search.suggest(str(number)) if len(live) < SLOTS else None
        if isinstance(config, dict):
            live[str(number)] = trial = SimpleNamespace(config=config)
            callback.on_trial_start(0, [], trial)
        elif not live:
            return
        if len(live) == SLOTS or not isinstance(config, dict):
            tune_id, trial = next(iter(live.items()))

            def report(row: dict[str, Any], tune_id: str = tune_id, trial: Any = trial) -> None:
                search.on_trial_result(tune_id, row)
                asha.on_trial_result(None, trial, row)
                callback.on_trial_result(0, [], trial, row)

            pretend(trial.config, report, lambda trial=trial: trial.config["job"]["trial_id"] in marked)
            search.on_trial_complete(tune_id, {})
            callback.on_trial_complete(0, [], trial)
            callback.on_step_end(0, [])
            del live[tune_id]


def resume_s(plan: Plan, folder: SweepDir) -> float:
    """Seconds to rebuild studies, brackets and the leaderboard from the records."""
    from attnlab.sweep.search.asha import ArmAsha
    from attnlab.sweep.search.searcher import ArmSearch
    from attnlab.sweep.ui.callback import ProgressCallback
    from attnlab.sweep.ui.interrupt import Interrupts
    from attnlab.sweep.ui.progress import Progress

    start = time.perf_counter()
    search = ArmSearch(plan, Mirror(folder))
    ArmAsha(plan, search.job_of, print, search.reports())
    ProgressCallback(plan, Mirror(folder), search, Progress(plan), {}, None, Interrupts(), ()).write()
    return time.perf_counter() - start


def measure(trials: int, args: argparse.Namespace) -> None:
    """One sweep of `trials` trials, and its resume."""
    plan = resolve({**SWEEP, "search": {**SEARCH, "trials": trials // 3, "sampler": args.sampler}})
    with (
        tempfile.TemporaryDirectory() as results,
        ExitStack() as stack,
        open(os.devnull, "w", encoding="utf-8") as nowhere,
    ):
        folder = SweepDir(Path(results) / plan.name)
        meter = Meter(time.monotonic() + 60 * args.minutes)
        profile = cProfile.Profile() if args.profile else None
        start = time.perf_counter()
        with ExitStack() as inner, suppress(KeyboardInterrupt):
            for change in meter.patches():
                inner.enter_context(change)
            inner.enter_context(patch("sys.stdout", nowhere))
            if profile:
                inner.enter_context(profile)
            if args.without_tune:
                bare_loop(plan, folder)
            else:
                inner.enter_context(stand_ins(folder))
                engine.run(plan, Path(results))
        taken = time.perf_counter() - start
        if profile:
            profile.dump_stats(args.profile)
        ended = len(meter.marks) - 1
        print(f"\n{plan.total_trials} trials: {ended} ended in {taken:.0f} s; threads {threading.active_count()}")
        meter.table([0, 99, 300, 999, 3000, 6000])
        print(f"resume of {ended} ended trials: {resume_s(plan, folder):.2f} s", flush=True)
        stack.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("trials", nargs="+", type=int, help="of all 3 arms together")
    parser.add_argument("--minutes", type=float, default=10.0, help="stop a sweep after so long")
    parser.add_argument("--without-tune", action="store_true")
    parser.add_argument("--sampler", default="tpe", choices=("tpe", "random"))
    parser.add_argument("--profile", type=Path, help="write the driver's cProfile here")
    args = parser.parse_args()
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    for trials in args.trials:
        measure(trials, args)


if __name__ == "__main__":
    main()
