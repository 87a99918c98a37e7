"""Tiny models learn: the loss falls below chance, through the training loop itself."""

import pytest

from attnlab import run_experiment
from attnlab.config.trial import TaskConfig
from attnlab.tasks import build_task

TRAIN = {"max_steps": 400, "batch_size": 64, "eval_every": 400, "seed": 0}
MODEL = {"d_model": 64, "n_layers": 2, "n_heads": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mixer", "task", "below"),
    [
        ("gated_deltanet", {"name": "induction", "seq_len": 32, "vocab_size": 8}, 0.9),
        ("gla", {"name": "memorization", "seq_len": 32, "vocab_size": 64}, 0.2),
        ("gated_deltanet", {"name": "in_context_recall", "seq_len": 32, "vocab_size": 12, "n_train": None}, 0.9),
        ("gla", {"name": "compression", "seq_len": 8, "vocab_size": 8, "n_train": None}, 0.9),
        ("standard", {"name": "copy", "seq_len": 16, "vocab_size": 10, "min_length": 8}, 0.9),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else None,
)
def test_a_tiny_model_beats_chance(mixer, task, below, tmp_path):
    trial = {"model": MODEL | {"mixer": mixer}, "task": task, "optim": {"name": "adamw", "lr": 3e-3}, "train": TRAIN}
    chance = build_task(TaskConfig(**task), batch_size=1, seed=0).baselines()["chance_loss"]
    last = run_experiment(trial, results_dir=tmp_path)["last"]
    assert last["val_loss"] < below * chance
