"""Full learning curves of a small grid, every trial unpruned: what `bench.pruning` replays.

    python -m bench.curves mqar text mqar_wsd text_wsd [--minutes 30]

Every arm at every learning rate and seed is really trained, in this process, on one CPU thread. The curves are saved in
`bench/curves/<grid>.json.xz` after each trial; what is there already is not trained again, so it may be interrupted.
The grids `_wsd` are the same trials under schedule wsd, with a decay branched off at `BRANCH_AT` of the run.
"""

from __future__ import annotations

import argparse
import json
import lzma
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attnlab.config.merge import merge
from attnlab.config.resolved import Plan
from attnlab.config.trial import Trial
from attnlab.plan.load import resolve
from attnlab.records.paths import TrialDir
from attnlab.records.results import Job

FOLDER = Path(__file__).with_name("curves")
SEEDS = (0, 1)
WHOLE = ("step", "branch_steps")
RATES = tuple(float(f"{1e-4 * 10 ** (3 * i / 11):.3g}") for i in range(12))  # 1e-4 to 1e-1, evenly on a log scale
SEARCH = {"space": {"optim.lr": {"choice": list(RATES)}}, "sampler": "grid"}
OPTIM = {"name": "muon", "weight_decay": 0.1, "warmup": 0.1, "schedule": "cosine"}
GRIDS: dict[str, dict[str, Any]] = {
    "mqar": {
        "name": "mqar",
        "trial": {
            "model": {"d_model": 32, "n_layers": 2, "n_heads": 2, "mlp": "none"},
            "task": {"name": "mqar", "seq_len": 64, "vocab_size": 64, "n_pairs": 4, "n_eval": 256},
            "optim": OPTIM,
            "train": {"max_steps": 300, "batch_size": 32, "eval_every": 15, "save_every": 300},
        },
        "arms": {name: {"model": {"mixer": name}} for name in ("standard", "gla", "deltanet", "gated_deltanet")},
        "search": SEARCH,
    },
    "text": {
        "name": "text",
        "trial": {
            "model": {"d_model": 64, "n_layers": 2, "n_heads": 2, "tie_embeddings": True},
            "task": {"name": "text", "dataset": "austen", "seq_len": 128, "tokenizer": "bytes", "eval_tokens": 8192},
            "optim": OPTIM,
            "train": {"max_steps": 160, "batch_size": 8, "eval_every": 10, "save_every": 160},
        },
        "arms": {name: {"model": {"mixer": name}} for name in ("standard", "gla", "gated_deltanet")},
        "search": SEARCH,
    },
}
BRANCH_AT = (0.1, 0.2, 0.3, 0.5)
WSD = {"schedule": "wsd", "decay": 0.2}
GRIDS |= {f"{name}_wsd": merge(grid, {"name": f"{name}_wsd", "trial": {"optim": WSD}}) for name, grid in GRIDS.items()}


def branches_of(trial: Trial) -> dict[int, int]:
    """Where a trial of a `_wsd` grid branches off, and for how many steps."""
    if trial.optim.schedule != "wsd":
        return {}
    rungs = (round(part * trial.train.max_steps) for part in BRANCH_AT)
    return {rung: round(trial.optim.decay * rung) for rung in rungs}


def path_of(grid: str) -> Path:
    return FOLDER / f"{grid}.json.xz"


def read(grid: str) -> dict[str, Any]:
    """A grid's `{max_steps, trials: [{arm, lr, seed, state, rows: [{step, val_loss, ...}]}]}`; branches marked."""
    with lzma.open(path_of(grid), "rt", encoding="utf-8") as file:
        return json.load(file)


def write(grid: str, data: dict[str, Any]) -> None:
    FOLDER.mkdir(exist_ok=True)
    new = path_of(grid).with_suffix(".new")
    with lzma.open(new, "wt", encoding="utf-8") as file:
        json.dump(data, file)
    new.replace(path_of(grid))


def points(plan: Plan) -> Iterator[tuple[str, float, int]]:
    """Arm, learning rate and seed of every trial; the first seed's grid is whole before the second's begins."""
    yield from ((arm, rate, seed) for seed in SEEDS for arm in plan.names for rate in RATES)


def curve(plan: Plan, arm: str, rate: float, seed: int) -> dict[str, Any]:
    """Train one trial to its end."""
    from attnlab.training.loop import train

    trial = plan.arm(arm).with_settings({"optim.lr": rate}, seed)
    job = Job.make(arm, 0, trial, branches=branches_of(trial))
    with tempfile.TemporaryDirectory() as folder:
        home = TrialDir(Path(folder) / "trial")
        results = train(job, home)
        rows = home.metrics()
    keep = ("train_loss", "val_loss", "val_accuracy")
    brief = [
        {k: v if k in WHOLE or v is None else float(f"{v:.5g}") for k, v in row.items() if k in (*WHOLE, *keep)}
        for row in rows
    ]
    return {"arm": arm, "lr": rate, "seed": seed, "state": results["state"], "rows": brief}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("grids", nargs="+", choices=GRIDS)
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no trial after so long")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    end = time.monotonic() + 60 * args.minutes
    for grid in args.grids:
        plan = resolve(GRIDS[grid])
        data = read(grid) if path_of(grid).exists() else {"max_steps": GRIDS[grid]["trial"]["train"]["max_steps"]}
        done = {(t["arm"], t["lr"], t["seed"]) for t in data.setdefault("trials", [])}
        for point in points(plan):
            if point in done or time.monotonic() > end:
                continue
            start = time.process_time()
            data["trials"].append(curve(plan, *point))
            write(grid, data)
            last = data["trials"][-1]["rows"][-1]
            print(grid, *point, f"{time.process_time() - start:.1f} s", last, flush=True)


if __name__ == "__main__":
    main()
