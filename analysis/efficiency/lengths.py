"""Speed, memory and state of each arm's model against sequence length, measured here.

A training step (attnlab's own: captured on CUDA), a prefill and decoding are each warmed up, then run several times.
The figure is the runs' median, and all runs are kept so that crossings get an interval. Weights are fresh: what a step
costs does not depend on them. Batches hold the same number of tokens at every length. `efficiency.json`:
{device, dtype, tokens, lengths, memory, arms: {ARM: {error, points: [{length, batch, train, prefill, decode,
cache_bytes}]}}}, each of train, prefill, decode as `analysis.efficiency.measurement.run` gives it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from analysis.efficiency import isolated, kernels, measurement
from analysis.efficiency.results import WORKLOADS
from analysis.records.select import Selection
from analysis.statistics.cost import vocab_size
from attnlab.config.trial import Trial
from attnlab.util.errors import UserError
from attnlab.util.files import write_json

LENGTHS = {"cuda": (512, 1024, 2048, 4096, 8192, 16384, 32768), "cpu": (128, 256, 512, 1024, 2048)}
BUDGET_S = {"cuda": float("inf"), "cpu": 240.0}  # for all arms; what would exceed it is left out
DTYPES = ("auto", "float32", "bfloat16", "float16")
MEMORY = {
    "cpu": "the measuring process's peak resident set, less what Python and the libraries held before",
    "cuda": "what PyTorch's allocator reserved at most in the timed runs",
}


def measure(
    sel: Selection, console: Console, lengths: Sequence[int] = (), device: str = "auto", dtype: str = "auto"
) -> Path:
    """Measure every arm with its best settings and write `analysis/efficiency.json`.

    `lengths`: tokens per sequence (none: LENGTHS of the device). `device` and `dtype` (of the autocast) may be auto.

    Raises:
        UserError: no such device or dtype, or the sweep has no exported model that tells the vocabulary.
    """
    folder = sel.data.folder
    vocab = vocab_size(folder.path)
    if vocab is None:
        raise UserError(f"{folder.path}: no trial has a checkpoints/final/model.safetensors to measure after")
    settings = {arm.arm: arm.best.settings if arm.best else {} for arm in sel.declared}
    trials = {name: sel.plan.arm(name).with_settings(settings[name]) for name in settings}
    root, threads = folder.path.resolve().parent, sel.plan.sweep.resources.cpus_per_worker
    tree = curves(trials, vocab, console, lengths, device, dtype, results=root, threads=threads)
    path = folder.analysis / "efficiency.json"
    write_json(path, tree)
    return path


def curves(
    trials: Mapping[str, Trial],  # by arm
    vocab: int,
    console: Console,
    lengths: Sequence[int] = (),
    device: str = "auto",
    dtype: str = "auto",
    budget_s: float | None = None,  # for all arms; None: BUDGET_S of the device
    results: Path = Path("results"),  # keeps tuned kernels if nothing else says where (`attnlab.training.kernel_cache`)
    threads: int = 1,  # of the CPU; for a sweep's arms as many as its trials had
) -> dict[str, Any]:
    """The tree of `efficiency.json`; an arm that cannot be measured costs a line in it."""
    device, dtype = _device_and_dtype(device, dtype)
    kernels.ready(device, results)
    lengths = sorted(set(lengths or LENGTHS[device]))
    if device == "cpu":
        isolated.start()  # its imports are no arm's time
    run = isolated.measure if device == "cpu" else measurement.run
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("efficiency", total=len(WORKLOADS) * len(lengths) * len(trials))

        def run_one(arm: str, length: int, workload: str) -> dict[str, Any]:
            bar.update(task, description=f"{escape(arm)}: {workload} at {length:,}")
            batch = max(1, max(lengths) // length)
            measured = run(measurement.Case(trials[arm], vocab, batch, length, device, dtype, threads), workload)
            bar.advance(task)
            return {"batch": batch, **measured}

        points = in_turn(list(trials), lengths, run_one, BUDGET_S[device] if budget_s is None else budget_s)
    return {
        "format": 1, "device": torch.cuda.get_device_name() if device == "cuda" else "cpu", "threads": threads,
        "dtype": dtype, "tokens": max(lengths), "lengths": lengths, "memory": MEMORY[device],
        "arms": {arm: {"error": None, "points": p, "left_out": lengths[len(p) :]} for arm, p in points.items()},
    }  # fmt: skip


def _device_and_dtype(device: str, dtype: str) -> tuple[str, str]:
    """What `auto` stands for, or what was given. Raises UserError: it is not here."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if device not in ("auto", *devices):
        raise UserError(f"--device {device}: not here; one of auto, {', '.join(devices)}")
    if dtype not in DTYPES:
        raise UserError(f"--dtype {dtype}: one of {', '.join(DTYPES)}")
    device = devices[-1] if device == "auto" else device
    return device, ("bfloat16" if device == "cuda" else "float32") if dtype == "auto" else dtype


def in_turn(
    arms: Sequence[str],
    lengths: Sequence[int],  # ascending
    run: Callable[[str, int, str], dict[str, Any]],  # (arm, length, workload) -> what was measured, with `took_s`
    budget_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[dict[str, Any]]]:
    """Every arm's points, all arms at one length before any at the next.

    So they compare when the time is up. An arm whose next length would take too long is left out from there on.
    """
    end, points = clock() + budget_s, {arm: list[dict[str, Any]]() for arm in arms}
    expected = dict.fromkeys(arms, 0.0)  # seconds for the next length
    for i, length in enumerate(lengths):
        for arm, measured in points.items():
            if len(measured) < i or clock() + expected[arm] > end:
                continue
            point: dict[str, Any] = {"length": length}
            took_s = 0.0
            for workload in WORKLOADS:
                figures = run(arm, length, workload)
                took_s += figures.pop("took_s", 0.0)
                point["batch"] = figures.pop("batch")
                point["cache_bytes"] = figures.pop("cache_bytes", None)
                point[workload] = figures
            measured.append(point)
            expected[arm] = 2 * took_s  # at least as much again: the tokens are the same; attention takes more
    return points
