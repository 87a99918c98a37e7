"""What attnlab's training loop adds to a bare PyTorch loop that does the same forward, backward, clip and step.

    python -m bench.loop [--device cuda] [--mixer gla] [--rounds 7]

The two loops share the model, the data and the optimizer, and run in turn in one process; the ratio of each pair is
printed, and their median. Both are timed from their second step to their last, without validation and checkpoints.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch

from attnlab.config.trial import Trial
from attnlab.models import build_model
from attnlab.optim import lr_factor, make_optimizer
from attnlab.records.paths import TrialDir
from attnlab.records.results import Job
from attnlab.tasks import build_task
from attnlab.training import loop as loop


def main() -> None:
    args = arguments()
    device = torch.device(args.device)
    trial = Trial.model_validate(
        {
            "model": {"d_model": args.d_model, "n_layers": args.n_layers, "n_heads": 4, "mixer": args.mixer},
            "task": {"name": "text", "seq_len": args.seq_len, "tokenizer": "bytes"},
            "optim": {"name": "adamw"},
            "train": {"max_steps": args.steps, "batch_size": args.batch_size, "eval_every": args.steps},
        }
    )
    loop.evaluate = lambda *a, **k: {"val_loss": 0.0}  # both loops are timed without validation
    bare(trial, device)
    ours(trial, device)
    pairs = [(bare(trial, device), ours(trial, device)) for _ in range(args.rounds)]
    for i, (a, b) in enumerate(pairs):
        print(f"round {i}: bare {a * 1e3:.2f} ms/step, attnlab {b * 1e3:.2f} ms/step, ratio {b / a:.3f}")
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"median ratio {ratio:.3f} ({args.mixer}, d {args.d_model}, {args.batch_size} x {args.seq_len}, {device})")


def bare(trial: Trial, device: torch.device) -> float:
    """Seconds per step of the loop anyone would write."""
    task = build_task(trial.task, batch_size=trial.train.batch_size, seed=0)
    model = build_model(trial.model, task.vocab_size).to(device).train()
    optimizer = make_optimizer(model, trial.optim, trial.train.max_steps, device).optimizers[0]
    autocast = partial(torch.autocast, "cuda", torch.bfloat16) if device.type == "cuda" else nullcontext
    start = 0.0
    for step in range(1, trial.train.max_steps + 1):
        if step == 2:
            _wait(device)
            start = time.perf_counter()
        batch = task.batch(step)
        x, y = (torch.from_numpy(a).to(device, non_blocking=True) for a in batch)
        with autocast():
            loss = model.loss_sum(x, y) / y.numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = trial.optim.lr * lr_factor(step, trial.train.max_steps, trial.optim)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    _wait(device)
    return (time.perf_counter() - start) / (trial.train.max_steps - 1)


def ours(trial: Trial, device: torch.device) -> float:
    """Seconds per step of attnlab's loop: its own step function, between the second step and the report."""
    seen: list[float] = []
    step_fn = loop.Run.step

    def timed(run: loop.Run, step: int) -> torch.Tensor:
        if step == 2:
            _wait(device)
            seen.append(time.perf_counter())
        return step_fn(run, step)

    loop.Run.step = timed
    try:
        with tempfile.TemporaryDirectory() as folder:
            job = Job.make("bench", 0, trial)
            export, loop.checkpoint.export = loop.checkpoint.export, lambda *a: Path(folder)
            loop.train(job, TrialDir(Path(folder)), lambda row: seen.append(time.perf_counter()), device=device)
            loop.checkpoint.export = export
    finally:
        loop.Run.step = step_fn
    return (seen[1] - seen[0]) / (trial.train.max_steps - 1)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--mixer", default="gla")
    parser.add_argument("--d-model", type=int, default=128)
    parser.add_argument("--n-layers", type=int, default=2)
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    return parser.parse_args()


if __name__ == "__main__":
    main()
