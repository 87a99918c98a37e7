"""The loop: it learns, it resumes exactly, ranks agree, and it says when it diverged."""

import json
import math
import subprocess
import sys
import textwrap

import pytest
import torch

from attnlab.config.merge import merge
from attnlab.config.trial import Trial
from attnlab.records.paths import TrialDir
from attnlab.records.results import Job
from attnlab.training import checkpoint
from attnlab.training.loop import train
from attnlab.util.errors import TrialInterrupted


def job_of(tree, **changes):
    for key, value in changes.items():
        tree = merge(tree, {key: value})
    return Job.make("arm", 0, Trial.model_validate(tree))


def rows_of(home):
    """Reports without what time makes of them."""
    timed = ("seconds", "tokens_per_s")
    return [{k: v for k, v in row.items() if k not in timed} for row in home.metrics()]


def weights(home):
    from safetensors.torch import load_file

    return load_file(home.final / "model.safetensors")


def test_it_learns_and_leaves_the_whole_record(tiny, tmp_path):
    home, told = TrialDir(tmp_path), []
    results = train(job_of(tiny, train={"max_steps": 40, "eval_every": 10}), home, told.append)
    assert results["state"] == "completed" and results["steps"] == 40 and results["tokens"] == 40 * 4 * 32
    assert [r["step"] for r in told] == [10, 20, 30, 40]
    assert told[-1]["val_loss"] < told[0]["val_loss"] < math.log(257)
    assert home.results() == json.loads(json.dumps(results))
    assert results["best"]["val_loss"] == min(r["val_loss"] for r in told)
    assert results["last"] == home.metrics()[-1]
    assert 0 < told[-1]["val_loss_se"] < 1
    assert told[-1]["val_bpb"] == pytest.approx(told[-1]["val_loss"] / math.log(2), rel=0.01)  # a byte a token


def test_the_same_trial_twice_is_the_same_to_the_bit(tiny, tmp_path):
    homes = [TrialDir(tmp_path / name) for name in "ab"]
    for home in homes:
        train(job_of(tiny), home)
        torch.rand(7)  # what another trial might leave in the generator
    assert rows_of(homes[0]) == rows_of(homes[1])
    assert all(torch.equal(a, b) for a, b in zip(*(weights(h).values() for h in homes), strict=True))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("cut", [2, 8])
def test_stopped_and_resumed_equals_undisturbed_to_the_bit(tiny, tmp_path, optimizer, cut):
    job = job_of(tiny, optim={"name": optimizer}, train={"grad_accum": 2})
    whole, parts = TrialDir(tmp_path / "whole"), TrialDir(tmp_path / "parts")
    train(job, whole)

    class Killed(Exception):
        pass

    def die(row):
        if row["step"] == cut + 2:  # after the row was written: its step is beyond the checkpoint only if that failed
            raise Killed

    with pytest.raises(Killed):
        train(job, parts, die)
    told = []
    train(job, parts, told.append)
    assert told[0]["step"] == cut + 2, "the last report comes again: its reader may have missed it"
    assert rows_of(parts) == rows_of(whole)
    assert all(torch.equal(a, b) for a, b in zip(weights(parts).values(), weights(whole).values(), strict=True))


@pytest.mark.parametrize("at", [1, 5, 6])
def test_interrupted_between_reports_and_resumed_equals_undisturbed_to_the_bit(tiny, tmp_path, at):
    job = job_of(tiny, train={"save_every": 12})
    whole, parts = TrialDir(tmp_path / "whole"), TrialDir(tmp_path / "parts")
    train(job, whole)
    steps = iter(range(at))
    with pytest.raises(TrialInterrupted):
        train(job, parts, interrupted=lambda: next(steps, None) is None)
    assert [path.name for path in checkpoint.steps(parts)] == [f"step_{at:08d}"] and parts.results() is None
    train(job, parts)
    assert rows_of(parts) == rows_of(whole)
    assert all(torch.equal(a, b) for a, b in zip(weights(parts).values(), weights(whole).values(), strict=True))


def test_a_pruned_trial_saves_and_could_go_on(tiny, tmp_path):
    home, seen = TrialDir(tmp_path), []
    results = train(job_of(tiny), home, seen.append, lambda: len(seen) == 3)
    assert (results["state"], results["steps"]) == ("pruned", 6)
    assert results["checkpoint"] == "checkpoints/step_00000006"
    home.results_file.unlink()
    assert train(job_of(tiny), home)["state"] == "completed"
    fresh = TrialDir(tmp_path / "fresh")
    train(job_of(tiny), fresh)
    assert rows_of(home) == rows_of(fresh)


def test_a_loss_that_is_not_finite_ends_the_trial_as_diverged(tiny, tmp_path):
    results = train(job_of(tiny, optim={"name": "adamw", "lr": 1e12, "clip": None}), TrialDir(tmp_path))
    assert results["state"] == "diverged"
    assert results["steps"] < 12
    assert results["last"]["val_loss"] is None
    assert "NaN" not in (tmp_path / "results.json").read_text()


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tiny, tmp_path):
    job, home, seen = job_of(tiny), TrialDir(tmp_path / "damaged"), []
    train(job, home, seen.append, lambda: len(seen) == 4)
    newest = checkpoint.steps(home)[-1]
    data = (newest / "model.safetensors").read_bytes()
    (newest / "model.safetensors").write_bytes(data[: len(data) // 2])
    home.results_file.unlink()
    train(job, home)
    whole = TrialDir(tmp_path / "whole")
    train(job, whole)
    assert rows_of(home) == rows_of(whole)


def test_what_a_kill_left_half_written_is_removed(tiny, tmp_path):
    home = TrialDir(tmp_path)
    left = home.checkpoints / ".step_00000002.x1y2"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    train(job_of(tiny), home)
    assert [path.name for path in home.checkpoints.iterdir() if path.name.startswith(".")] == []


def test_a_full_disk_leaves_the_older_checkpoint_whole(tiny, tmp_path, monkeypatch):
    home = TrialDir(tmp_path)
    save, calls = checkpoint._save, []

    def full(tensors, path):
        calls.append(path)
        if len(calls) > 3:
            raise OSError(28, "No space left on device")
        save(tensors, path)

    monkeypatch.setattr(checkpoint, "_save", full)
    with pytest.raises(OSError, match="No space"):
        train(job_of(tiny), home)
    assert [p.name for p in checkpoint.steps(home)] == ["step_00000002"]
    assert not list(home.checkpoints.glob(".*"))
    monkeypatch.setattr(checkpoint, "_save", save)
    assert train(job_of(tiny), home)["state"] == "completed"


def test_the_export_loads_in_transformers_and_scores_the_same(tiny, tmp_path):
    from transformers import AutoModelForCausalLM

    from attnlab.tasks import build_task
    from attnlab.training.evaluate import evaluate

    job, home = job_of(tiny), TrialDir(tmp_path)
    results = train(job, home)
    model = AutoModelForCausalLM.from_pretrained(home.path / results["checkpoint"])
    task = build_task(job.trial.task, batch_size=4, seed=0)
    from contextlib import nullcontext

    scores = evaluate(model, task, device=torch.device("cpu"), batch_size=4, autocast=nullcontext)
    assert scores["val_loss"] == pytest.approx(results["last"]["val_loss"], abs=1e-6)


RANKS = """
import json, sys, torch, torch.distributed as dist
from pathlib import Path
from attnlab.records.paths import TrialDir
from attnlab.records.results import Job
from attnlab.training.loop import train
from attnlab.util.errors import TrialInterrupted
torch.set_num_threads(1)
rank, world, port, job, home, backend = int(sys.argv[1]), 2, sys.argv[2], json.loads(sys.argv[3]), *sys.argv[4:]
device = f"cuda:{rank}" if backend == "nccl" else "cpu"
if backend == "nccl":
    torch.cuda.set_device(device)
dist.init_process_group(backend, f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
train(Job.model_validate(job), TrialDir(Path(home)), rank=rank, world=world, device=device)
dist.destroy_process_group()
"""


@pytest.mark.parametrize("backend", ["gloo", pytest.param("nccl", marks=pytest.mark.gpu)])
def test_two_ranks_train_as_one_worker_does(tiny, tmp_path, backend):
    import socket

    if backend == "nccl" and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    model = {"dropout": 0.0} if backend == "gloo" else {"dropout": 0.0, "d_model": 64}
    job = job_of(tiny, model=model, train={"grad_accum": 2})
    alone, together = TrialDir(tmp_path / "one"), TrialDir(tmp_path / "two")
    train(job, alone, device="cpu" if backend == "gloo" else "cuda")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = json.dumps(job.model_dump(mode="json"))
    command = [sys.executable, "-c", textwrap.dedent(RANKS)]
    ranks = [subprocess.Popen([*command, str(r), str(port), text, str(together.path), backend]) for r in range(2)]
    assert [p.wait(120) for p in ranks] == [0, 0]
    exact = {"gloo": 1e-5, "nccl": 2e-2}[backend]  # bf16 on CUDA
    for one, two in zip(alone.metrics(), together.metrics(), strict=True):
        for key in ("train_loss", "val_loss", "val_loss_se"):
            assert two[key] == pytest.approx(one[key], abs=exact), (one["step"], key)
    environment = together.results()["environment"]
    assert environment["workers"] == 2 and environment["step"] == {"gloo": "eager", "nccl": "compiled"}[backend]
