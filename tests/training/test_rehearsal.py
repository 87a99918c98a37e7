"""A rehearsal goes to a trial's very end, tells where it fails, and leaves nothing behind."""

import random

import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter
from transformers import AutoModelForCausalLM

from attnlab.config.merge import merge
from attnlab.config.trial import Trial
from attnlab.models.cost import flops
from attnlab.records.metric_logger import MetricLogger
from attnlab.records.paths import TrialDir
from attnlab.records.results import Job
from attnlab.training import checkpoint, run
from attnlab.training.loop import rehearse, train
from attnlab.training.rehearsal import RehearsalFailed
from attnlab.training.step import Step
from attnlab.util.errors import DiskFull
from tests.training.test_loop import rows_of, weights


def job_of(tree, **changes):
    return Job.make("arm", 0, Trial.model_validate(merge(tree, changes)))


@pytest.mark.parametrize("branches", [{}, {4: 2}])
def test_it_comes_to_the_end_in_two_steps_and_leaves_nothing(tiny, tmp_path, monkeypatch, branches):
    seen = []
    finish = MetricLogger.finish

    def spy(self, job, results):
        finish(self, job, results)
        seen.append((results["state"], results["steps"], {path.name for path in self._trial.path.rglob("*")}))

    monkeypatch.setattr(MetricLogger, "finish", spy)
    optim = {"name": "adamw", "schedule": "wsd", "lr": 1e12}  # which would diverge
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    rehearse(job_of(tiny, optim=optim).model_copy(update={"branches": branches}), TrialDir(tmp_path / "scratch"))
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    ((state, steps, files),) = seen
    assert (state, steps) == ("completed", 2 + bool(branches))
    assert {"results.json", "metrics.jsonl", "config.json", "tokenizer.json", "step_00000001"} <= files
    assert not list(tmp_path.iterdir())


def test_what_is_trained_after_it_is_what_would_have_been_trained(tiny, tmp_path):
    homes = [TrialDir(tmp_path / name) for name in "ab"]
    train(job_of(tiny), homes[0])
    rehearse(job_of(tiny, model={"n_layers": 2}), TrialDir(tmp_path / "scratch"))
    train(job_of(tiny), homes[1])
    assert rows_of(homes[0]) == rows_of(homes[1])
    assert all(torch.equal(a, b) for a, b in zip(*(weights(home).values() for home in homes), strict=True))


def spoil(monkeypatch, where, name, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(where, name, fail)


@pytest.mark.parametrize(
    "where, name, stage",
    [
        (run, "assemble", "as it is built"),
        (Step, "__call__", "in a training step"),
        (checkpoint, "_save", "as its checkpoint is written"),
        (run, "evaluate", "in its validation"),
        (AutoModelForCausalLM, "from_pretrained", "as what it left is loaded again"),
        (flops, "_layers", "as its results are put together"),  # such as a formula that fails
        (SummaryWriter, "add_hparams", "as its results are written"),
    ],
)
def test_whatever_fails_at_the_end_is_told_in_one_line_with_the_stage(tiny, tmp_path, monkeypatch, where, name, stage):
    spoil(monkeypatch, where, name, KeyError("no\nsuch thing"))
    with pytest.raises(RehearsalFailed) as failed:
        rehearse(job_of(tiny), TrialDir(tmp_path / "scratch"))
    assert str(failed.value).startswith(f"it fails {stage}: KeyError: ") and "\n" not in str(failed.value)
    assert not list(tmp_path.iterdir())


def test_an_export_that_does_not_hold_the_model_is_told(tiny, tmp_path, monkeypatch):
    write = checkpoint.export

    def forget(folder, model, *rest):
        del model.backbone.blocks[0].mlp.up
        return write(folder, model, *rest)

    monkeypatch.setattr(checkpoint, "export", forget)
    with pytest.raises(RehearsalFailed, match=r"loaded again: .*does not hold the model: backbone.blocks.0.mlp.up"):
        rehearse(job_of(tiny), TrialDir(tmp_path / "scratch"))


def test_a_full_disk_is_no_fault_of_the_model(tiny, tmp_path, monkeypatch):
    spoil(monkeypatch, checkpoint, "_save", DiskFull(28, "No space left on device", "/x"))
    with pytest.raises(DiskFull):
        rehearse(job_of(tiny), TrialDir(tmp_path / "scratch"))
