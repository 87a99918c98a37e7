"""Speed, memory and state of each arm's model against sequence length, on the device at hand.

A training step (attnlab's own: captured on CUDA), a prefill and decoding, each warmed up, then run several times; the
figure is the runs' median, and all runs are kept so that crossings get an interval. Weights are fresh: what a step
costs does not depend on them. Batches hold the same number of tokens at every length. `efficiency.json`:
{device, dtype, tokens, lengths, memory, arms: {ARM: {error, points: [{length, batch, train, prefill, decode,
cache_bytes}]}}}, each of train, prefill, decode as `analysis.efficiency.measurement.run` gives it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.efficiency import kernels, measurement
from analysis.efficiency.isolated import Server
from analysis.records.select import Selection
from analysis.statistics.cost import vocab_size
from attnlab.util.errors import UserError
from attnlab.util.files import write_json

if TYPE_CHECKING:
    from rich.console import Console

    from attnlab.config.trial import Trial

LENGTHS = {"cuda": (512, 1024, 2048, 4096, 8192, 16384, 32768), "cpu": (128, 256, 512, 1024, 2048)}
BUDGET_S = 240.0  # on a CPU, for all arms; what would exceed it is left out
MEMORY = {
    "cpu": "the measuring process's peak resident set, less what Python and the libraries held before",
    "cuda": "what PyTorch's allocator reserved at most in the timed runs",
}


def measure(
    sel: Selection,
    console: Console,
    lengths: Sequence[int] = (),
    device: str = "auto",
    dtype: str = "auto",
) -> Path:
    """Measure every arm with its best settings and write `analysis/efficiency.json`.

    Args:
        lengths: tokens per sequence; empty: LENGTHS of the device.
        device: auto, cpu or cuda.
        dtype: of the autocast: auto (bf16 on CUDA), float32, bfloat16 or float16.

    Raises:
        UserError: no such device or dtype, or the sweep has no exported model that tells the vocabulary.
    """
    vocab = vocab_size(sel)
    if vocab is None:
        raise UserError(f"{sel.data.folder.path}: no trial has a checkpoints/final/config.json to measure after")
    trials = {
        arm.arm: sel.plan.arm(arm.arm).with_settings(arm.best.settings if arm.best else {}) for arm in sel.declared
    }
    root, threads = sel.data.folder.path.resolve().parent, sel.plan.sweep.resources.cpus_per_worker
    tree = curves(trials, vocab, console, lengths, device, dtype, results=root, threads=threads)
    path = sel.data.folder.analysis / "efficiency.json"
    write_json(path, tree)
    return path


def curves(
    trials: Mapping[str, Trial],
    vocab: int,
    console: Console,
    lengths: Sequence[int] = (),
    device: str = "auto",
    dtype: str = "auto",
    budget_s: float | None = None,
    results: Path = Path("results"),
    threads: int = 1,
) -> dict[str, Any]:
    """The tree of `efficiency.json`; an arm that cannot be measured costs one line in it.

    Args:
        trials: what is measured, by arm; see `measure` for the others.
        budget_s: of the whole; None: BUDGET_S on a CPU, without end on CUDA.
        results: beside it, if nothing else says where, tuned kernels are kept (`attnlab.training.kernel_cache`).
        threads: of the CPU; for a sweep's arms as many as its trials had.
    """
    import torch
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    here = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if device not in ("auto", *here):
        raise UserError(f"--device {device}: not here; one of auto, {', '.join(here)}")
    where = here[-1] if device == "auto" else device
    dtypes = ("auto", "float32", "bfloat16", "float16")
    if dtype not in dtypes:
        raise UserError(f"--dtype {dtype}: one of {', '.join(dtypes)}")
    dtype = ("bfloat16" if where == "cuda" else "float32") if dtype == "auto" else dtype
    kernels.ready(where, results)
    if budget_s is None:
        budget_s = BUDGET_S if where == "cpu" else float("inf")
    wanted = sorted(set(lengths or LENGTHS[where]))
    tree: dict[str, Any] = {
        "format": 1,
        "device": torch.cuda.get_device_name() if where == "cuda" else "cpu",
        "threads": threads,
        "dtype": dtype,
        "tokens": max(wanted),
        "lengths": wanted,
        "memory": MEMORY[where],
        "arms": {},
    }
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with Server() as apart, bar:
        if where == "cpu":
            apart.start()  # its imports are no arm's time
        task = bar.add_task("efficiency", total=len(measurement.PARTS) * len(wanted) * len(trials))

        def ask(arm: str, length: int, part: str) -> dict[str, Any]:
            bar.update(task, description=f"{arm}: {part} at {length:,}")
            batch = max(1, max(wanted) // length)
            case = measurement.Case(trials[arm], vocab, batch, length, where, dtype, tree["threads"])
            found = apart.measure(case, part) if where == "cpu" else measurement.run(case, part)
            bar.advance(task)
            return {"batch": batch, **found}

        points = in_turn(list(trials), wanted, ask, budget_s)
    for arm, found in points.items():
        tree["arms"][arm] = {"error": None, "points": found, "left_out": wanted[len(found) :]}
    return tree


def in_turn(
    arms: Sequence[str],
    lengths: Sequence[int],
    ask: Callable[[str, int, str], dict[str, Any]],
    budget_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[dict[str, Any]]]:
    """Every arm's points. All arms are measured at one length before any at the next, so that when the time is up they
    can be compared; an arm whose next length would take too long is left out from there on, and the others go on.

    Args:
        lengths: ascending.
        ask: (arm, length, part) -> what was measured, with `took_s`.
    """
    end, points = clock() + budget_s, {arm: list[dict[str, Any]]() for arm in arms}
    expected = dict.fromkeys(arms, 0.0)  # seconds for the next length
    for at, length in enumerate(lengths):
        for arm, found in points.items():
            if len(found) < at or clock() + expected[arm] > end:
                continue
            point: dict[str, Any] = {"length": length}
            for part in measurement.PARTS:
                told = ask(arm, length, part)
                point["batch"] = told.pop("batch")
                point["cache_bytes"] = told.pop("cache_bytes", None)
                point[part] = told
            found.append(point)
            took = sum(point[part].pop("took_s", 0.0) for part in measurement.PARTS)
            expected[arm] = 2 * took  # at least as much again: the tokens are the same; attention takes more
    return points


def read(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """`efficiency.json` of an `analysis/` folder, with one line for what cannot be used; None where there is none."""
    path = folder / "efficiency.json"
    if not path.exists():
        return None, []
    try:
        tree = json.loads(path.read_text())
        for row in tree["arms"].values():
            for point in row["points"]:
                float(point["length"])
        return tree, []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return None, [f"efficiency.json cannot be used, so efficiency is not shown: {type(error).__name__}: {error}"]


def runs_of(tree: dict[str, Any], arm: str, part: str) -> dict[int, list[float]]:
    """Tokens per second of each run by length; lengths without a figure are left out."""
    points = tree["arms"].get(arm, {}).get("points", [])
    return {p["length"]: p[part]["runs"] for p in points if isinstance(p.get(part), dict) and p[part].get("runs")}
