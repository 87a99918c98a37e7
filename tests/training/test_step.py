"""A training step on the CPU: what it reads of a batch, and that its kinds compute one function."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnlab import run_experiment
from attnlab.config.merge import merge
from attnlab.config.trial import Trial
from attnlab.models import build_model, fused
from attnlab.plan.load import resolve
from attnlab.records.paths import TrialDir
from attnlab.records.results import Job
from attnlab.tasks import IGNORE
from attnlab.training.loop import train
from attnlab.training.step import SPARSE, choose, sparse_positions
from attnlab.util.errors import UserError


@given(st.integers(1, 3), st.integers(1, 400), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_sparse_positions_name_every_target_once(rows, length, share, seed):
    rng = np.random.default_rng(seed)
    targets = np.where(rng.random((rows, length)) < share, rng.integers(0, 9, (rows, length)), IGNORE)
    positions = sparse_positions(targets)
    counts = (targets != IGNORE).sum(1)
    if positions is None:
        assert counts.max() > SPARSE * length - 64
        return
    for row, at, count in zip(targets, positions, counts, strict=True):
        assert at[:count].tolist() == np.flatnonzero(row != IGNORE).tolist()
        assert (at[count:] == -1).all()
    assert positions.shape[1] % 64 == 0 and positions.shape[1] <= SPARSE * length


def test_a_few_targets_give_the_loss_of_all_positions():
    torch.manual_seed(0)
    model = build_model({"d_model": 16, "n_layers": 1, "n_heads": 2}, 32)
    x, y = torch.randint(0, 32, (2, 200)), torch.full((2, 200), IGNORE)
    y[0, 7], y[0, 150], y[1, 3] = 5, 6, 7
    at = torch.from_numpy(sparse_positions(y.reshape(1, -1).numpy())[0])
    some = model.loss_sum(x, torch.where(at < 0, IGNORE, y.flatten()[at.clamp(min=0)]), at.clamp(min=0))
    assert some.item() == pytest.approx(model.loss_sum(x, y).item(), rel=1e-6)


@pytest.mark.parametrize("grad_accum", [1, 2])
def test_training_on_few_targets_repeats_and_learns(tmp_path, grad_accum):
    tree = {
        "model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "mlp": "none"},
        "task": {"name": "mqar", "seq_len": 128, "n_pairs": 2, "vocab_size": 32, "n_eval": 32},
        "train": {"max_steps": 6, "batch_size": 4, "eval_every": 2, "grad_accum": grad_accum},
    }
    seen = []
    for run in ("a", "b"):
        train(Job.make("mqar", 0, Trial.model_validate(tree)), TrialDir(tmp_path / run))
        seen.append([row["train_loss"] for row in TrialDir(tmp_path / run).metrics()])
    assert seen[0] == seen[1]
    assert seen[0][-1] < seen[0][0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_chunked_loss_and_its_gradients_are_the_whole_ones(monkeypatch, dtype):
    torch.manual_seed(0)
    monkeypatch.setattr(fused, "CHUNK_BYTES", 128 * 40 * 2)  # 128 or 256 of the 300 rows at a time
    monkeypatch.setattr(fused, "_scored", lambda: fused.score)  # compiled, it is the same function
    hidden = torch.randn(300, 16, dtype=dtype, requires_grad=True)
    weight = torch.randn(40, 16, requires_grad=True)
    targets = torch.randint(0, 40, (300,))
    targets[::7] = IGNORE
    right = fused.loss(hidden.float(), weight, targets)
    found = fused.chunked_loss(hidden, weight, targets)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert found.item() == pytest.approx(right.item(), rel=tolerance)
    for a, b in zip(
        torch.autograd.grad(found * 0.3, (hidden, weight)),
        torch.autograd.grad(right * 0.3, (hidden, weight)),
        strict=True,
    ):
        assert (a.float() - b.float()).norm() < tolerance * b.float().norm()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # Dynamo's own look at its inputs
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 1e-2)])
def test_the_compiled_step_trains_as_the_eager_one(tiny, tmp_path, precision, tolerance):
    seen = []
    for kind in ("eager", "compiled"):
        tree = merge(tiny, {"model": {"dropout": 0.0, "mixer": ["gla", "standard"], "n_layers": 2}})
        tree = merge(tree, {"train": {"precision": precision}})
        job = Job.make("gla", 0, Trial.model_validate(merge(tree, {"train": {"step": kind}})))
        results = train(job, TrialDir(tmp_path / kind))
        assert results["environment"]["step"] == kind
        seen.append([row["train_loss"] for row in TrialDir(tmp_path / kind).metrics()])
    assert seen[1] == pytest.approx(seen[0], rel=tolerance)


def test_what_cannot_be_had_is_said():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose("auto", cpu, 1) == ("eager", "")
    assert choose("auto", cuda, 1)[0] == "captured"
    kind, why = choose("auto", cuda, 2)
    assert kind == "compiled" and "between the workers" in why
    with pytest.raises(ValueError, match="needs CUDA"):
        choose("captured", cpu, 1)
    with pytest.raises(ValueError, match="one worker"):
        choose("captured", cuda, 2)


def test_a_sweep_that_asks_for_it_is_refused_as_it_is_read(tiny):
    def problems(**resources):
        trial = merge(tiny, {"train": {"step": "captured"}})
        try:
            resolve({"name": "s", "trial": trial, "arms": {"a": {}}, "resources": resources})
        except UserError as error:
            return error.problems
        return []

    assert problems(gpus_per_worker=0) == [
        "trial.train.step: captured needs CUDA, and this trial runs on cpu; use auto"
    ]
    assert problems(gpus_per_worker=1, workers=2) == [
        "trial.train.step: captured works with one worker; use auto or compiled"
    ]
    assert problems(gpus_per_worker=0.5) == problems(gpus_per_worker="auto") == []


def test_an_experiment_that_asks_for_it_is_refused_before_anything_is_written(tiny, tmp_path):
    with pytest.raises(UserError, match="captured needs CUDA"):
        run_experiment(merge(tiny, {"train": {"step": "captured"}}), tmp_path, device="cpu")
    assert not list(tmp_path.iterdir())


def test_how_a_step_is_run_is_no_part_of_what_is_trained(tiny):
    trials = [Trial.model_validate(merge(tiny, {"train": {"step": kind}})) for kind in ("auto", "eager", "captured")]
    assert len({trial.digest for trial in trials}) == 1
