"""Whether the training step waits for its data: how fast batches are made, and on CUDA, how long a step has none to do.

    python -m bench.input [--rate 2e6]

Printed per task and size: milliseconds to make a batch on one core, the tokens per second that is, and how much of one
core it takes to feed a trial that reads `--rate` tokens per second. A step on CUDA is queued and not waited for (see
`attnlab.training.step`), so a batch is made while the device is at the one before: data are waited for only where a
core is busy all the time. On CUDA the line ends with a captured step's milliseconds with batches made as in
training, and with one batch used again and again: what is lost by waiting is the difference.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import torch

from attnlab.config.trial import TaskConfig, Trial
from attnlab.tasks import Task, build_task
from attnlab.training.run import set_up

SIZES: dict[str, tuple[dict[str, Any], int]] = {  # task, batch size
    "text 32 x 512": ({"name": "text", "seq_len": 512}, 32),
    "text 8 x 2048": ({"name": "text", "seq_len": 2048}, 8),
    "mqar 256 x 64": ({"name": "mqar", "seq_len": 64, "n_pairs": 4}, 256),
    "mqar 256 x 256": ({"name": "mqar", "seq_len": 256, "n_pairs": 16}, 256),
}
STEPS = 50
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=2e6, help="tokens per second of a trial")
    parser.add_argument("--mixer", default="standard", help="of the model that is fed, on CUDA")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name, (tree, size) in SIZES.items():
        task = build_task(TaskConfig(**tree), batch_size=size, seed=0)
        task.prepare()
        seconds = timed(partial(make, task))
        tokens = size * task.seq_len
        print(
            f"{name:15} {seconds * 1e3:6.2f} ms a batch, {tokens / seconds / 1e6:6.1f} M tokens/s; at {args.rate:.2g} "
            f"tokens/s {args.rate / (tokens / seconds):.1%} of a core" + fed(tree, size, args.mixer),
            flush=True,
        )


def make(task: Task, steps: Iterator[int] = itertools.count()) -> None:  # noqa: B008 -- one counter for all
    task.batch(next(steps))


def timed(once: Callable[[], Any], wait: Callable[[], Any] = lambda: None) -> float:
    """Seconds of one call: the median over rounds of calls that follow each other."""
    once()
    found = []
    for _ in range(ROUNDS):
        wait()
        start = time.perf_counter()
        for _ in range(STEPS):
            once()
        wait()
        found.append((time.perf_counter() - start) / STEPS)
    return median(found)


def fed(task: dict[str, Any], size: int, mixer: str) -> str:
    """A captured step with fresh batches and with one again and again; "" where there is no CUDA."""
    if not torch.cuda.is_available():
        return ""
    trial = Trial.model_validate(
        {"model": {"d_model": 256, "n_layers": 4, "mixer": mixer}, "task": task, "train": {"batch_size": size}}
    )
    run = set_up(trial, torch.device("cuda:0"), 0, 1)
    steps, same = itertools.count(1), run.task.batch(0)
    for _ in range(8):  # until the step is captured
        run.step(step := next(steps), step)
    fresh = timed(lambda: run.step(step := next(steps), step), torch.cuda.synchronize)
    again = timed(lambda: run.run_step(next(steps), same), torch.cuda.synchronize)
    return f"; a {run.run_step.kind} step {fresh * 1e3:.2f} ms, with one batch {again * 1e3:.2f}"


if __name__ == "__main__":
    main()
