"""How long until the same question is answered: process by process, packed, and by attnlab's engine.

    python -m bench.time_to_answer [--ways alone packed attnlab] [--steps 1200] [--packed 8] [--cpu]

The question: which learning rate is best for each of four mixers on MQAR (4 arms x 8 rates = 32 trials)?

    alone    one process per trial, one after another, every trial to its end, kernels launched one by one (eager)
    packed   the same processes, `--packed` at a time
    attnlab  `launch.py`: the same grid with ASHA, slots that stay up, small trials sharing the GPU, captured steps

Printed per way: wall seconds from the command to the answer, what that is of `alone`'s, seconds of training summed over
the trials, steps trained; when its first step, its last first step and its last report came; and, as soon as a way has
ended, the winning rate and its loss of every arm. Two rates may do equally well, so for attnlab's choice it is also
said what `packed`, which trained every rate to its end, found that rate to lose against its own winner. Each way has a
folder of its own; the kernel cache is shared, and filled before the clock runs (`--cold` leaves that out). `alone`
takes a time that is the sum of its trials', none of which knows of another; `--sample 2` runs two rates of each arm,
multiplies, and says so: its winners are then those of `packed`, which runs the same processes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from attnlab.config.merge import merge
from attnlab.records.metrics import better

ROOT = Path(__file__).parents[1]
ARMS = ("standard", "gla", "deltanet", "gated_deltanet")
MIXERS = {"gla_conv": {"name": "gla", "use_short_conv": True}}  # without one, what GLA reaches here is luck
RATES = tuple(float(f"{1e-3 * 10 ** (2 * i / 7):.3g}") for i in range(8))  # 1e-3 to 1e-1, evenly on a log scale
METRIC = "val_loss"
SIZES: dict[str, dict[str, Any]] = {
    # of 8,192 symbols in 400 steps, gla and gated_deltanet learn nothing, and who wins is noise
    "cuda": {"task": {"seq_len": 128, "vocab_size": 1024, "n_pairs": 8}, "train": {"batch_size": 256}},
    "cpu": {"task": {"seq_len": 64, "vocab_size": 64, "n_pairs": 4, "n_eval": 256}, "train": {"batch_size": 32}},
}
ALONE = """
import json, sys, torch
from attnlab import run_experiment
torch.set_num_threads(1)
run_experiment(json.loads(sys.argv[1]), sys.argv[2], name=sys.argv[3], kernel_cache=sys.argv[4], device=sys.argv[5])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", default=["alone", "packed", "attnlab"])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--packed", type=int, default=8, help="processes at a time")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), help=f"mixers, or {', '.join(MIXERS)}")
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES))
    parser.add_argument("--sample", type=int, metavar="N", help="way alone: run N rates per arm and multiply")
    parser.add_argument("--cpu", action="store_true", help="a smaller size, on the CPU")
    parser.add_argument("--cold", action="store_true", help="tune the kernels within the measured time")
    parser.add_argument("--kernel-cache", type=Path, metavar="DIR", help="default: one of its own, for this run alone")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        args.kernels = (args.kernel_cache or home / "kernels").resolve()  # the processes run in ROOT
        if not (args.cpu or args.cold):
            launch(sweep_of(args), home, args.kernels, "--warm")
        rows: dict[str, dict[str, Any]] = {}
        for way in args.ways:
            rows[way] = measure(way, args, home / way)
            print(f"{way}: {rows[way]['wall']:.1f} s; {winners(rows[way], args.arms)}", flush=True)
            if {"attnlab", "packed"} <= {*rows} and way in ("attnlab", "packed"):  # now: a later way may be cut off
                compare(rows["attnlab"]["results"], rows["packed"]["results"], args.arms)
    report(rows)


def sweep_of(args: argparse.Namespace) -> dict[str, Any]:
    """The question as a sweep file."""
    every = max(1, args.steps // 10)
    base = {
        "model": {"d_model": 64, "n_layers": 2, "n_heads": 2, "mlp": "none"},
        "task": {"name": "mqar"},
        "optim": {"name": "muon", "weight_decay": 0.1, "warmup": 0.1, "schedule": "cosine"},
        "train": {"max_steps": args.steps, "eval_every": every, "save_every": args.steps // every * every},
    }
    size = SIZES["cpu" if args.cpu else "cuda"]
    return {
        "name": "question",
        "trial": {key: {**value, **size.get(key, {})} for key, value in base.items()},
        "arms": {arm: {"model": {"mixer": MIXERS.get(arm, arm)}} for arm in args.arms},
        "search": {
            "space": {"optim.lr": {"choice": list(args.rates)}},
            "sampler": "grid",
            "metric": METRIC,
            "asha": {"grace_steps": 3 * every, "reduction_factor": 3},
        },
        "resources": {"gpus_per_worker": 0} if args.cpu else {},
    }


def measure(way: str, args: argparse.Namespace, home: Path) -> dict[str, Any]:
    """Run the question one way: wall seconds and every trial's results.json."""
    sweep = sweep_of(args)
    began, start, part = time.time(), time.perf_counter(), 1.0
    if way == "attnlab":
        launch(sweep, home, args.kernels)
    else:
        rates = args.rates[:: -(-len(args.rates) // args.sample)] if way == "alone" and args.sample else args.rates
        part = len(rates) / len(args.rates)
        trials = [(arm, rate) for rate in rates for arm in args.arms]
        with ThreadPoolExecutor(1 if way == "alone" else args.packed) as pool:
            list(pool.map(lambda trial: alone(sweep, *trial, home, args), trials))
    wall = (time.perf_counter() - start) / part
    results = [read(path) for path in sorted(home.rglob("results.json"))]
    if failed := [r["error"] for r in results if r["state"] == "failed"]:
        raise RuntimeError(f"{way}: {len(failed)} trials failed, the first: {failed[0]}")
    return {"wall": wall, "part": part, "results": results, "began": began}


def read(file: Path) -> dict[str, Any]:
    """A trial's end, with its learning rate."""
    config = json.loads(file.with_name("experiment_config.json").read_text(encoding="utf-8"))
    return json.loads(file.read_text(encoding="utf-8")) | {"lr": config["trial"]["optim"]["lr"]}


def launch(sweep: dict[str, Any], home: Path, kernels: Path, *options: str) -> None:
    """`launch.py` as a user calls it."""
    home.mkdir(parents=True, exist_ok=True)
    file = home / "question.yaml"
    file.write_text(yaml.safe_dump(sweep), encoding="utf-8")
    run([str(ROOT / "launch.py"), str(file), "--results", str(home), "--kernel-cache", str(kernels), *options])


def alone(sweep: dict[str, Any], arm: str, rate: float, home: Path, args: argparse.Namespace) -> None:
    """One trial in a process of its own, to its end."""
    changes = {"optim": {"lr": rate}, "train": {"step": "eager"}}
    trial = merge(merge(sweep["trial"], sweep["arms"][arm]), changes)
    run(["-c", ALONE, json.dumps(trial), str(home), arm, str(args.kernels), "cpu" if args.cpu else "cuda"])


def run(arguments: Iterable[str]) -> None:
    """A Python process; RuntimeError with the end of what it said if it fails."""
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env={**os.environ}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(done.args[:4])[:120]}: {(done.stdout + done.stderr)[-1500:]}")


def winner(results: list[dict[str, Any]], arm: str) -> dict[str, Any] | None:
    """The arm's completed trial with the best last report, by which attnlab chooses."""
    best = None
    for r in results:
        in_arm = r["arm"] == arm and r["state"] == "completed"
        if in_arm and (best is None or better(r["last"][METRIC], best["last"][METRIC], "min")):
            best = r
    return best


def winners(row: dict[str, Any], arms: Iterable[str]) -> str:
    """Each arm's best rate and its loss, on one line: what is known when a later way fails."""
    if row["part"] < 1:
        return f"who wins is not known from {row['part']:.0%} of the trials"
    found = {arm: winner(row["results"], arm) for arm in arms}
    return ", ".join(f"{arm} {r['lr']:g} ({r['last'][METRIC]:.3f})" for arm, r in found.items() if r)


def of_rate(results: list[dict[str, Any]], arm: str, rate: float) -> float:
    """The arm's last value with a rate; NaN if that was not trained to its end."""
    found = (r["last"][METRIC] for r in results if (r["arm"], r["lr"], r["state"]) == (arm, rate, "completed"))
    return next(found, float("nan"))


def report(rows: dict[str, dict[str, Any]]) -> None:
    """A line per way, then its times."""
    first = rows.get("alone", next(iter(rows.values())))["wall"]
    print(f"{'way':8} {'wall s':>8} {'faster':>7} {'training s':>11} {'steps':>8} {'trials':>7} {'pruned':>7}")
    for way, row in rows.items():
        results = row["results"]
        print(
            f"{way:8} {row['wall']:8.1f} {first / row['wall']:7.2f} {sum(r['seconds'] for r in results):11.1f} "
            f"{sum(r['steps'] for r in results):8} {len(results):7} {sum(r['state'] == 'pruned' for r in results):7}"
            + (f"   wall s is {1 / row['part']:g} times what these trials took" if row["part"] < 1 else "")
        )
    for way, row in rows.items():
        print(f"{way:8} {times(row)}")


def compare(ours: list[dict[str, Any]], packed: list[dict[str, Any]], arms: Iterable[str]) -> None:
    """A line per arm: what `packed`, which trained every rate to its end, found attnlab's rate to lose."""
    for arm in arms:
        chosen, best = winner(ours, arm), winner(packed, arm)
        if chosen and best:
            loses = of_rate(packed, arm, chosen["lr"]) - best["last"][METRIC]
            print(f"{arm:16} packed: attnlab's lr {chosen['lr']:g} loses {loses:.3f} to {best['lr']:g}", flush=True)


def times(row: dict[str, Any]) -> str:
    """When, in seconds from the command on, training began, began for the last trial, and ended."""
    environments = [r["environment"] for r in row["results"]]
    firsts = [e["first_step_at"] - row["began"] for e in environments]
    lasts = [e["last_report_at"] - row["began"] for e in environments]
    return f"first step after {min(firsts):.1f} s, last trial's after {max(firsts):.1f}, last report {max(lasts):.1f}"


if __name__ == "__main__":
    main()
