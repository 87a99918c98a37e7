"""What a trial costs beside its training: slots, a TorchTrainer per trial, and a plain Ray task, in one run.

    python -m bench.turnaround [--trials 24] [--share 0.25 --steps 200]

The same tiny trial every time: a real model on real text, a few steps. Printed per way: the time from one trial's last
report to the next one's first step on the same worker (slots only: the others end their process), wall seconds and
CPU-seconds per trial; for slots the start of the first trial stands apart. CPU-seconds are the operating system's, of
every process of the run. With `--share` each trial takes that part of a GPU, as many run at once in every way, and the
part of the time in which a kernel ran on the GPU is printed too (NVML's, asked for ten times a second; for slots from
the first trial's start on).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, quantiles
from typing import Any

import psutil
import torch

from attnlab.config.merge import merge
from attnlab.plan.load import resolve
from attnlab.records.paths import SweepDir
from attnlab.records.results import Job
from attnlab.sweep import engine
from attnlab.sweep.cluster import session
from attnlab.training import kernel_cache

SWEEP: dict[str, Any] = {
    "name": "turnaround",
    "trial": {
        "model": {"d_model": 32, "n_layers": 1, "n_heads": 2},
        "task": {"name": "text", "seq_len": 64, "tokenizer": "bytes", "eval_tokens": 1024},
        "train": {"max_steps": 8, "batch_size": 4, "eval_every": 4},
    },
    "arms": {"standard": {"model": {"mixer": "standard"}}, "gla": {"model": {"mixer": "gla"}}},
    "search": {"space": {"optim.lr": {"loguniform": [1e-3, 1e-2]}}},
}
KEPT = Path(tempfile.gettempdir()) / "results"  # beside it, as for any sweep, the kernels of all ways


class Busy:
    """The part of the time in which the first GPU ran a kernel, while it is open; nothing where there is no GPU."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []
        self._opened = time.time()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]  # NVML counts them all
        by_name = first.startswith("GPU-")
        handle = self._nvml.nvmlDeviceGetHandleByUUID if by_name else self._nvml.nvmlDeviceGetHandleByIndex
        device = handle(first if by_name else int(first or 0))
        while not self._stop.wait(0.1):
            self._seen.append((time.time() - self._opened, self._nvml.nvmlDeviceGetUtilizationRates(device).gpu))

    def __enter__(self) -> Busy:
        if torch.cuda.is_available():
            from ray._private.thirdparty import pynvml

            self._nvml = pynvml
            self._nvml.nvmlInit()
            self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stop.set()

    def figures(self, start: float) -> dict[str, float]:
        """From `start` seconds after the opening on."""
        seen = [busy for at, busy in self._seen if at >= start]
        return {"GPU busy %": mean(seen)} if seen else {}


class Cpu:
    """CPU-seconds of this process's descendants, dead ones included as far as they were seen."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, float], float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            self._look()

    def _look(self) -> None:
        me = psutil.Process()
        for process in [me, *me.children(recursive=True)]:
            try:
                times = process.cpu_times()
                self._seen[process.pid, process.create_time()] = times.user + times.system
            except psutil.Error:
                continue

    def total(self) -> float:
        self._look()
        return sum(self._seen.values())

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def slots(folder: Path, trials: int, share: float) -> dict[str, float]:
    """Measure attnlab's own engine."""
    plan = resolve(merge(SWEEP, {"search": {"trials": trials // 2}, "resources": {"gpus_per_worker": share}}))
    start = time.time()
    engine.run(plan, folder, kernel_cache=kernel_cache.directory(None, KEPT))
    wall = time.time() - start
    marks = defaultdict(list)
    for result in SweepDir(folder / plan.name).results():
        clock = result["environment"]
        marks[clock["pid"]].append((clock["first_step_at"], clock["last_report_at"]))
    gaps = [b[0] - a[1] for seen in marks.values() for a, b in zip(sorted(seen), sorted(seen)[1:], strict=False)]
    cuts = quantiles(gaps, n=100)
    began = min(first for seen in marks.values() for first, _ in seen) - start
    return {"median gap s": cuts[49], "99 % gap s": cuts[98], "first start s": began, "wall s": (wall - began) / trials}


def trainers(folder: Path, trials: int, share: float) -> dict[str, float]:
    """A TorchTrainer per trial, as many at once as share a GPU."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    def one(i: int) -> None:
        name = f"trial-{i}"
        config = posted(i, folder / name, share)
        TorchTrainer(
            task,
            train_loop_config=config,
            scaling_config=ScalingConfig(
                num_workers=1, use_gpu=share > 0, resources_per_worker={"CPU": 1, **({"GPU": share} if share else {})}
            ),
            run_config=RunConfig(name=name, storage_path=str(folder)),
        ).fit()

    return _together(one, trials, share)


def tasks(folder: Path, trials: int, share: float) -> dict[str, float]:
    """A plain Ray task per trial, each in a process of its own, as many at once as share a GPU."""
    import ray

    remote = ray.remote(num_cpus=1, num_gpus=share, max_calls=1)(task)

    def one(i: int) -> None:
        ray.get(remote.remote(posted(i, folder / f"task-{i}", share)))

    return _together(one, trials, share)


def posted(i: int, home: Path, share: float) -> dict[str, Any]:
    """Trial `i` of the two slow ways, for `task`."""
    job = Job.make("gla", i, resolve(SWEEP).arm("gla").with_settings({"optim.lr": 1e-3 * (i + 1)}))
    kernels, device = str(kernel_cache.directory(None, KEPT)), "cuda" if share else "cpu"
    return {"job": job.model_dump(mode="json"), "home": str(home), "device": device, "kernels": kernels}


def task(config: dict[str, Any]) -> None:
    """Train a trial in a process of Ray's, with the kernels that the slots' trials tuned."""
    from attnlab.records.paths import TrialDir
    from attnlab.training import kernel_cache
    from attnlab.training.loop import train

    cache = kernel_cache.use(Path(config["kernels"]), torch.device(config["device"]))
    train(Job.model_validate(config["job"]), TrialDir(Path(config["home"])), device=config["device"], cache=cache)


def _together(one: Callable[[int], None], trials: int, share: float) -> dict[str, float]:
    """All trials, one after another, or with a share of a GPU as many at once as it holds."""
    import ray

    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    start = time.time()
    with ThreadPoolExecutor(int(1 / share) if share else 1) as pool:
        list(pool.map(one, range(trials)))
    wall = (time.time() - start) / trials
    ray.shutdown()
    return {"wall s": wall}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--few", type=int, default=3, help="trials of the two slow ways")
    parser.add_argument("--steps", type=int, default=8, help="of a trial")
    parser.add_argument("--share", type=float, default=0.0, help="of a GPU, per trial; 0: on the CPU")
    args = parser.parse_args()
    SWEEP["trial"]["train"] |= {"max_steps": args.steps, "eval_every": args.steps // 2}
    for key, value in session.ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    cpu = Cpu()
    columns = ["trials", "median gap s", "99 % gap s", "first start s", "wall s", "CPU s per trial", "GPU busy %"]
    print(f"{'':32}" + "".join(f"{c:>16}" for c in columns))
    for way, count in ((slots, args.trials), (trainers, args.few), (tasks, args.few)):
        with tempfile.TemporaryDirectory() as folder, Busy() as busy:
            before = cpu.total()
            row = way(Path(folder), count, args.share)
            row |= busy.figures(row.get("first start s", 0.0))
            row |= {"CPU s per trial": (cpu.total() - before) / count, "trials": count}
        name = (way.__doc__ or "").split(",")[0].strip(".")
        print(f"{name:32}" + "".join(f"{row[c]:16.3f}" if c in row else f"{'-':>16}" for c in columns), flush=True)
    cpu.stop()


if __name__ == "__main__":
    main()
