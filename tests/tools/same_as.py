"""Train 24 small trials from another commit and from this tree, and compare losses and digests bit for bit.

    python tests/tools/same_as.py COMMIT
    python tests/tools/same_as.py [COMMIT] --record FILE       # write the numbers for tests/test_recorded_losses.py

Six mixers x AdamW and Muon x text and recall, 20 steps each, in fp32 on one CPU thread. Each tree trains in a
process of its own on this machine. Exit code 0: every number is equal; 1: some differ, one line each. A move or a
rename must leave every bit as it was. Bits differ between processors, so both trees are always run here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
MIXERS = {
    "standard": {"name": "standard", "window": 16},
    "gla": "gla",
    "mamba2": "mamba2",
    "gated_deltanet": "gated_deltanet",
    "hgrn": "hgrn",
    "rwkv7": "rwkv7",
}
COLUMNS = ("train_loss", "val_loss", "lr")  # of a report, what is compared
TASKS = {
    "text": {"name": "text", "seq_len": 32, "dataset": "austen", "eval_tokens": 128, "tokenizer": "bytes"},
    "mqar": {"name": "mqar", "seq_len": 32, "vocab_size": 64, "n_pairs": 4, "n_eval": 16},
}


def trials() -> dict[str, dict]:
    """Every trial by its name, `mixer-optimizer-task`."""
    return {
        f"{mixer}-{optim}-{task}": {
            "model": {"d_model": 32, "n_layers": 2, "n_heads": 2, "dropout": 0.1, "mixer": MIXERS[mixer]},
            "task": TASKS[task],
            "optim": {"name": optim, "lr": 0.01},
            "train": {"max_steps": 20, "batch_size": 4, "grad_accum": 2, "eval_every": 10, "seed": 3, "step": "eager"},
        }
        for mixer in MIXERS
        for optim in ("adamw", "muon")
        for task in TASKS
    }


def train_all(out: Path) -> None:
    """Train every trial with the attnlab that is imported here; write `{name: [trial_id, every report's numbers]}`."""
    import torch

    import attnlab

    torch.set_num_threads(1)
    found = {}
    for name, trial in trials().items():
        rows: list[dict] = []
        result = attnlab.run_experiment(trial, out / "results", device="cpu", report=rows.append)
        numbers = [[row[key].hex() for key in COLUMNS] for row in rows]
        found[name] = [result["trial_id"], numbers]
    (out / "found.json").write_text(json.dumps(found))


def train_in(tree: Path, out: Path) -> dict[str, list]:
    """The same in a process of its own that imports attnlab from `tree`."""
    out.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tree), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, __file__, "--train", str(out)], cwd=tree, env=environment, check=True)
    return json.loads((out / "found.json").read_text())


def train_commit(commit: str, scratch: Path) -> dict[str, list]:
    """The same from a checkout of `commit`, which is removed again."""
    tree = scratch / "tree"
    subprocess.run(["git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", tree, commit], check=True)
    try:
        return train_in(tree, scratch / "there")
    finally:
        subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", tree], check=True)


def compare(commit: str) -> int:
    """Print what differs between `commit` and this tree; returns the exit code."""
    with tempfile.TemporaryDirectory() as scratch:
        old, new = train_commit(commit, Path(scratch)), train_in(ROOT, Path(scratch, "here"))
    differing = [name for name in old if old[name] != new[name]]
    for name in differing:
        what = "digest" if old[name][0] != new[name][0] else "losses"
        print(f"{name}: {what} differ\n  {commit}: {old[name]}\n  here: {new[name]}")
    print(f"{len(old) - len(differing)} of {len(old)} trials are the same as {commit}, bit for bit")
    return bool(differing)


def record(file: Path, commit: str | None) -> int:
    """Write the numbers of `commit`, or of this tree, to `file`, a line per trial; returns the exit code."""
    with tempfile.TemporaryDirectory() as scratch:
        found = train_commit(commit, Path(scratch)) if commit else train_in(ROOT, Path(scratch, "here"))
    plain = {name: [i, [[float.fromhex(n) for n in row] for row in rows]] for name, (i, rows) in found.items()}
    lines = (f"{json.dumps(name)}: {json.dumps(numbers)}" for name, numbers in plain.items())
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", nargs="?", help="what to compare this tree with, or to record")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--record", type=Path, metavar="FILE", help="write COMMIT's, or this tree's, numbers there")
    args = parser.parse_args()
    if args.train:
        train_all(args.train)
    elif args.record:
        sys.exit(record(args.record, args.commit))
    elif args.commit:
        sys.exit(compare(args.commit))
    else:
        parser.error("which commit?")
