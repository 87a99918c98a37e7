"""A made-up results folder with every state a trial can be in, written as training writes it."""

import json

from attnlab.config import sweep_file
from attnlab.config.resolved import Plan
from attnlab.config.sweep import Sweep
from attnlab.records.metrics import MetricsWriter, best_row
from attnlab.records.paths import SweepDir
from attnlab.records.results import Job
from attnlab.util.files import write_json, write_text

SWEEP = {
    "name": "fake",
    "description": "Which mixer learns fastest? <script>alert(1)</script>",
    "hypothesis": "Gating helps & 3 < 4.",
    "trial": {
        "model": {"d_model": 64, "n_layers": 4, "n_heads": 4, "mixer": "standard"},
        "task": {"name": "text", "seq_len": 64},
        "optim": {"name": "adamw", "clip": None},
        "train": {"max_steps": 100, "batch_size": 8, "eval_every": 10},
    },
    "arms": {
        "standard": {},
        "gla": {"model": {"mixer": {"name": "gla", "expand_k": 0.5}}},
        "hybrid": {"model": {"mixer": ["gla", {"name": "standard", "window": 32}]}},
    },
    "search": {
        "space": {"optim.lr": {"loguniform": [1e-4, 1e-1]}, "optim.weight_decay": {"choice": [0.0, 0.1]}},
        "trials": 5,
        "asha": {"grace_steps": 30, "reduction_factor": 3},
    },
    "confirm": {"seeds": [0, 1, 2]},
}
ENVIRONMENT = {"device": "cpu-a", "workers": 1, "host": "node<1>", "versions": {"torch": "2.9"}}
TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1\nRuntimeError: CUDA <out> of memory\n'


class Fake:
    """Writes trials of a sweep into a results folder."""

    def __init__(self, root, sweep=None):
        tree = sweep or SWEEP
        tree = {**tree, "trial": {"train": {"max_steps": 100, "eval_every": 10}, **tree["trial"]}}
        self.plan = Plan.of(Sweep.model_validate(tree))
        self.path = root / self.plan.name
        self.folder = SweepDir(self.path)
        self.count = 0
        write_text(self.folder.sweep_file, sweep_file.dump(self.plan.sweep))

    def trial(
        self, arm, value=None, lr=0.003, state="completed", steps=100, phase="search", seed=0, error=None, decay=0.1
    ):
        """One trial that falls to `value`; `state` None: it has not ended; `value` None: every report's is null."""
        searched = self.plan.sweep.search.dimensions if self.plan.sweep.search else {}
        phase = phase if self.plan.sweep.search or phase != "search" else "confirm"  # as the searcher has it
        settings = {k: v for k, v in {"optim.lr": lr, "optim.weight_decay": decay}.items() if k in searched}
        trial = self.plan.arm(arm).with_settings(settings, seed)
        how = {"metric": self.plan.metric, "mode": self.plan.mode}
        job = Job.make(arm, self.count, trial, phase=phase, settings=settings, **how)
        self.count += 1
        home = self.folder.trial(arm, job.trial_id)
        write_json(home.config_file, job.model_dump(mode="json"))
        sink = MetricsWriter(home, 0)
        for step in range(10, steps + 1, 10):
            loss = None if value is None else value + 2.0 * (10 / step - 10 / steps)
            sink.write({"step": step, "tokens": step * trial.tokens_per_step, "train_loss": loss, "val_loss": loss,
                        "val_loss_se": 0.01, "lr": lr, "tokens_per_s": 5000.0, "seconds": step * 0.11})  # fmt: skip
        if state:
            best = best_row(sink.rows, self.plan.metric, self.plan.mode)
            write_json(home.results_file, {
                "trial_id": job.trial_id, "arm": arm, "state": state, "phase": phase, "settings": settings,
                "seed": seed, "steps": steps, "tokens": steps * trial.tokens_per_step, "best": best,
                "last": sink.rows[-1] if sink.rows else None, "seconds": steps * 0.11,
                "device_seconds": steps * 0.22, "n_params": 1_234_567, "n_params_non_embedding": 987_654,
                "checkpoint": "checkpoints/final" if state == "completed" else None, "error": error,
                "environment": ENVIRONMENT})  # fmt: skip
        return home

    def baselines(self, **values):
        """leaderboard.json, of which analysis reads the baselines alone."""
        write_json(self.folder.leaderboard_file, {"baselines": values, "arms": {}})


def fill(fake):
    """Every state, a confirm phase, a damaged file. gla is best; hybrid's best lr is at its range's upper edge."""
    for turn, (arm, base) in enumerate((("gla", 3.1), ("hybrid", 3.2), ("standard", 3.3))):
        fake.trial(arm, base, lr=0.09 if arm == "hybrid" else 0.004)
        fake.trial(arm, base + 0.1, lr=0.001, decay=0.0)
        fake.trial(arm, base + 0.6, lr=0.0002, state="pruned", steps=30)
        for seed in range(3):
            fake.trial(arm, base + 0.01 * ((seed + turn) % 3), phase="confirm", seed=seed)
    fake.trial("standard", None, lr=0.08, state="diverged", steps=20)
    fake.trial("gla", 3.9, lr=0.02, state="failed", steps=20, error=TRACEBACK)
    fake.trial("hybrid", 3.5, lr=0.002, state=None, steps=40)
    damaged = fake.trial("gla", 2.0, lr=0.03)
    damaged.results_file.write_text(json.dumps(damaged.results())[:200])
    fake.baselines(unigram_loss=4.5, unigram_accuracy=0.1)
    return fake
