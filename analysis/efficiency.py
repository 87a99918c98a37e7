"""Speed, memory and state of each arm's model against sequence length, on the device at hand.

A training step (attnlab's own: captured on CUDA), a prefill and decoding, each warmed up, then run REPEATS times; the
figure is the runs' median, and all runs are kept so that crossings get an interval. Weights are fresh: what a step
costs does not depend on them. Batches hold the same number of tokens at every length. `efficiency.json`:
{device, dtype, tokens, lengths, arms: {ARM: {error, points: [{length, batch, train, prefill, decode, cache_bytes}]}}},
each of train, prefill, decode {runs: tokens per second, tokens_per_s, peak_bytes (CUDA), mfu (train)} or {error}.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.cost import vocab_size
from analysis.flops import peak_of
from analysis.select import ArmSummary, Selection
from attnlab.runs import write_json

if TYPE_CHECKING:
    import torch
    from rich.console import Console

LENGTHS = {"cuda": (512, 1024, 2048, 4096, 8192, 16384, 32768), "cpu": (128, 256, 512, 1024, 2048)}
REPEATS, WARM = 5, {"cuda": 5, "cpu": 1}  # CUDA: attnlab's step captures after its third
DECODED = 8  # tokens a run of decoding makes
DECODE_BATCH = {"cuda": 8, "cpu": 1}
BUDGET_S = 240.0  # on a CPU, for all arms together; a length that would exceed an arm's share is left out


class EfficiencyError(ValueError):
    """Nothing can be measured as asked; the message is one line for the user."""


def measure(
    sel: Selection,
    console: Console,
    lengths: Sequence[int] = (),
    device: str = "auto",
    budget_s: float = BUDGET_S,
) -> Path:
    """Measure every arm and write `analysis/efficiency.json`; an arm that cannot be measured costs one line in it.

    Args:
        lengths: tokens per sequence; empty: LENGTHS of the device.
        device: auto, cpu or cuda.
        budget_s: of the whole, on a CPU.

    Raises:
        EfficiencyError: no such device, or the sweep has no exported model from which to learn the vocabulary.
    """
    import torch
    from rich.progress import Progress

    here = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if device not in ("auto", *here):
        raise EfficiencyError(f"--device {device}: not here; one of auto, {', '.join(here)}")
    where = torch.device(here[-1] if device == "auto" else device)
    vocab = vocab_size(sel)
    if vocab is None:
        raise EfficiencyError(f"{sel.data.folder.path}: no trial has a checkpoints/final/config.json to measure after")
    wanted = sorted(lengths or LENGTHS[where.type])
    tree: dict[str, Any] = {
        "format": 1,
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "dtype": "bfloat16" if where.type == "cuda" else "float32",
        "tokens": max(wanted),
        "lengths": wanted,
        "arms": {},
    }
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("efficiency", total=len(wanted) * len(sel.declared))
        for arm in sel.declared:
            share = budget_s / len(sel.declared) if where.type == "cpu" else float("inf")
            tree["arms"][arm.arm] = row = {"error": None, "points": [], "left_out": []}
            try:
                for point in _points(sel, arm, vocab, wanted, where, share):
                    row["points"].append(point)
                    bar.advance(task)
            except Exception as error:  # of a mixer's author or of CUDA: told, and the other arms go on
                row["error"] = _line(error)
            row["left_out"] = wanted[len(row["points"]) :]
            bar.update(task, completed=len(wanted) * len(tree["arms"]))
    path = sel.data.folder.analysis / "efficiency.json"
    write_json(path, tree)
    return path


def _points(
    sel: Selection, arm: ArmSummary, vocab: int, lengths: Sequence[int], device: torch.device, budget_s: float
) -> Iterator[dict[str, Any]]:
    trial = sel.sweep.trial_of(arm.arm, arm.best.settings if arm.best else {})
    _model(trial, vocab, device)  # imports the layers, which is no part of any length's time
    began, last = time.perf_counter(), 0.0
    for length in lengths:
        start = time.perf_counter()
        if start - began + 2 * last > budget_s:  # twice as long takes at least as much again, attention more
            return
        batch = max(1, max(lengths) // length)
        point: dict[str, Any] = {"length": length, "batch": batch}
        point["train"] = _tried(device, lambda b=batch, n=length: _train(trial, vocab, b, n, device))
        point |= _tried(device, lambda b=batch, n=length: _inference(trial, vocab, b, n, device), ("prefill", "decode"))
        yield point
        last = time.perf_counter() - start


def _tried(device: torch.device, run: Callable[[], dict[str, Any]], parts: Sequence[str] = ()) -> dict[str, Any]:
    """What `run` gives, or the error as one line; memory is given back either way."""
    import torch

    try:
        return run()
    except (RuntimeError, ValueError, NotImplementedError, AssertionError) as error:
        told = {"error": "out of memory" if isinstance(error, torch.cuda.OutOfMemoryError) else _line(error)}
        return {part: told for part in parts} if parts else told
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _train(trial: Any, vocab: int, batch: int, length: int, device: torch.device) -> dict[str, Any]:
    """Optimizer steps on random tokens, as a trial runs them."""
    import numpy as np
    import torch

    from attnlab.config import TrainConfig
    from attnlab.models.flops import flops_per_token
    from attnlab.models.parts import compiled_parts
    from attnlab.optim import make_optimizer
    from attnlab.step import Step, choose
    from attnlab.tasks import Batch
    from attnlab.train import Loss

    model = _model(trial, vocab, device).train()
    kind, _ = choose("auto", device, 1)
    if device.type == "cuda":
        model.backbone.parts = compiled_parts()
    optimizer = make_optimizer(model, trial.optim, 1000, device.type, capturable=kind == "captured")
    train = TrainConfig(batch_size=batch, grad_accum=1)
    step = Step(Loss(model), optimizer, partial(_autocast, device), device, train, trial.optim.clip, 1, kind)
    draw = np.random.default_rng(0).integers(vocab, size=(batch, length + 1))
    data, counter = Batch(draw[:, :-1], draw[:, 1:]), iter(range(1, 1000))
    found = _timed(lambda: step(next(counter), data), batch * length, device)
    peak = peak_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    per_token = flops_per_token(trial.model, length, vocab) if peak else None
    found["mfu"] = per_token * found["tokens_per_s"] / peak if peak and per_token else None
    return found


def _inference(trial: Any, vocab: int, batch: int, length: int, device: torch.device) -> dict[str, Any]:
    """A prompt read with its last position's logits, then tokens one by one after a prompt of that length."""
    import torch

    model = _model(trial, vocab, device).eval()
    some = torch.Generator().manual_seed(0)

    def tokens(rows: int, columns: int) -> torch.Tensor:
        return torch.randint(vocab, (rows, columns), generator=some).to(device)

    prompt = tokens(batch, length)
    with torch.inference_mode(), _autocast(device):

        def prefill() -> None:
            model.head(model.backbone.hidden(prompt)[:, -1])

        out: dict[str, Any] = {"prefill": _timed(prefill, batch * length, device), "decode": None, "cache_bytes": None}
        if not model.backbone.cached:
            out["decode"] = {"error": "a mixer of this model keeps no state, so each token reads the whole text"}
            return out
        rows = DECODE_BATCH[device.type]
        cache = model.backbone(tokens(rows, length), use_cache=True).past_key_values
        out["cache_bytes"] = _bytes(cache) // rows
        new = tokens(rows, 1)

        def decode() -> None:
            for _ in range(DECODED):
                model.head(model.backbone(new, past_key_values=cache, use_cache=True).last_hidden_state[:, -1])

        out["decode"] = _timed(decode, rows * DECODED, device)
    return out


def _model(trial: Any, vocab: int, device: torch.device) -> Any:
    import torch

    from attnlab.models import build_model

    torch.manual_seed(0)
    return build_model(trial.model, vocab).to(device)


def _autocast(device: torch.device) -> Any:
    """As in training."""
    import torch

    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def _timed(run: Callable[[], Any], tokens: int, device: torch.device) -> dict[str, Any]:
    """Tokens per second of REPEATS runs after WARM ones, and the most memory a run held beyond nothing."""
    import torch

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(WARM[device.type]):
        run()
    wait()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    rates = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        wait()
        rates.append(tokens / (time.perf_counter() - start))
    peak = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None
    return {"runs": rates, "tokens_per_s": statistics.median(rates), "peak_bytes": peak}


def _bytes(thing: Any, seen: set[int] | None = None) -> int:
    """Of all tensors that a cache holds, each once."""
    import torch

    seen = set() if seen is None else seen
    if id(thing) in seen:
        return 0
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        return thing.numel() * thing.element_size()
    if isinstance(thing, dict):
        return sum(_bytes(v, seen) for v in thing.values())
    if isinstance(thing, (list, tuple)):
        return sum(_bytes(v, seen) for v in thing)
    return sum(_bytes(v, seen) for v in vars(thing).values()) if hasattr(thing, "__dict__") else 0


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


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
