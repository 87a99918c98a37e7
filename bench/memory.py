"""Memory and time of one training step of every mixer on the CPU, at the width and batch that sweeps use by default.

    python -m bench.memory [gla kda ...] [--batch 16] [--lengths 512] [--mlp swiglu]

Each mixer and length gets a process of its own with one thread, one after the other. It runs one small step, so that
what is loaded on first use is loaded, and then forward and backward of the loss of a model with two such layers.
Printed, the largest memory first, are the process's peak resident memory less what was resident before the step, in
GiB, and the step's seconds; with several lengths also how both grow from the shortest to the longest (a linear cost
grows as the length does).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time

# None imports torch: a process's ru_maxrss begins at what its parent had resident, so this one has to stay small.
from attnlab.config.trial import ModelConfig
from attnlab.models import MIXERS, check_mixer

D_MODEL, LAYERS, VOCABULARY = 128, 2, 256
HEADS = (4, 8, 2, 16, 1)  # the first number of heads that the mixer takes
NAMES = sorted(name for name, row in MIXERS.items() if not (row.needs or row.refused))


def main() -> None:
    args = arguments()
    lengths = sorted(args.lengths)
    if args.child:
        print(json.dumps(step(args.names[0], args.mlp, args.batch, lengths[0])))
        return
    rows = []
    for name in args.names or NAMES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows.append((name, [measure(name, args.mlp, args.batch, steps) for steps in lengths]))
    heads = ["mixer", *(f"{what}, T {t}" for t in lengths for what in ("GiB", "s"))]
    if len(lengths) > 1:
        heads += [f"{what}, x{lengths[-1] / lengths[0]:g} steps" for what in ("GiB", "s")]
    print(f"| {' | '.join(heads)} |\n| --- |{' --: |' * (len(heads) - 1)}")
    for name, at in sorted(rows, key=lambda row: -row[1][-1][0]):
        cells = [name, *(cell for gib, seconds in at for cell in (f"{gib:.2f}", f"{seconds:.2f}"))]
        if len(lengths) > 1:
            cells += [f"x{last / first:.1f}" for first, last in zip(at[0], at[-1], strict=True)]
        print(f"| {' | '.join(cells)} |")


def measure(name: str, mlp: str, batch: int, steps: int) -> tuple[float, float]:
    """(GiB, seconds) of `step` in a fresh process.

    Raises:
        subprocess.CalledProcessError: it failed, or the system killed it for its memory.
    """
    options = ["--child", "--mlp", mlp, "--batch", str(batch), "--lengths", str(steps)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.memory", name, *options],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    gib, seconds = json.loads(done.stdout.splitlines()[-1])
    return gib, seconds


def step(name: str, mlp: str, batch: int, steps: int) -> tuple[float, float]:
    """(GiB, seconds) of one forward and backward in this process, which must not have run a larger one."""
    import torch

    from attnlab.models import build_model

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_model(config(name, mlp), VOCABULARY)
    x, y = torch.randint(0, VOCABULARY, (2, batch, steps))
    model.loss_sum(x[:1, :64], y[:1, :64]).backward()
    before, start = resident_bytes(), time.perf_counter()
    model.loss_sum(x, y).backward()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
    return (peak - before) / 2**30, seconds


def config(name: str, mlp: str) -> ModelConfig:
    """Two layers of the mixer.

    Raises:
        ValueError: it takes the width with none of `HEADS`.
    """
    for heads in HEADS:
        model = ModelConfig(d_model=D_MODEL, n_heads=heads, n_layers=LAYERS, mlp=mlp, mixer=name)
        if not check_mixer(model.mixer[0], model):
            return model
    raise ValueError(f"mixer {name} takes d_model {D_MODEL} with none of {HEADS} heads")


def resident_bytes() -> int:
    """What this process has in memory now; field 2 of statm, in pages (proc(5))."""
    with open("/proc/self/statm", encoding="utf-8") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="MIXER", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lengths", nargs="+", type=int, default=[512])
    parser.add_argument("--mlp", choices=["swiglu", "gelu", "none"], default="swiglu")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := set(args.names) - set(NAMES):
        parser.error(f"no mixer {', '.join(sorted(unknown))} that trains on the CPU; there are {', '.join(NAMES)}")
    return args


if __name__ == "__main__":
    main()
