"""On CUDA: FLA's kernels compute what the PyTorch ones do on CPU, and every way to run a step trains alike."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from attnlab.config.merge import merge
from attnlab.config.trial import Trial
from attnlab.models import MIXERS
from attnlab.records.paths import TrialDir
from attnlab.records.results import Job
from attnlab.training.loop import train

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900), pytest.mark.xdist_group("cuda")]  # one makes the table

SCRIPT = Path(__file__).parents[1] / "tools" / "compare_with_cuda.py"
BY_DESIGN = {"moba", "momentum_deltanet", "mesa"}  # FLA lacks what they need on CUDA, or computes something else there
NAMES = [name for name, row in MIXERS.items() if not row.needs and not row.refused]
CASES = [(name, p) for name in NAMES for p in ("fp32", "bf16") if p == "bf16" or MIXERS[name].half_only is not True]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """(mixer, precision) -> what the comparison printed; each has its own process, as a bad kernel breaks CUDA."""
    env = os.environ | {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")), "OMP_NUM_THREADS": "1"}

    def run(case):
        done = subprocess.run([sys.executable, SCRIPT, *case], env=env, capture_output=True, text=True, timeout=600)
        return json.loads(done.stdout.splitlines()[-1]) if done.stdout else {"error": done.stderr[-500:]}

    with ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)) - 1)) as pool:
        return dict(zip(CASES, pool.map(run, CASES), strict=True))


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_cuda_computes_what_the_cpu_does(table, case):
    found = table[case]
    assert "error" not in found, found["error"]
    assert case[0] in BY_DESIGN or not found["substitutes"], "a PyTorch substitute ran on CUDA"
    if case[1] == "fp32":  # FLA's kernels multiply fp32 in TF32, which keeps 10 bits
        assert found["logits"] < 3e-3 and found["gradient"] < 2e-2, found
    else:
        assert found["gradient"] < max(0.08, 2 * found["noise"]), found


def trial_of(tiny, **change):
    base = {"model": {"d_model": 64, "dropout": 0.0}, "train": {"max_steps": 40, "eval_every": 10}}
    tree = merge(merge(tiny, base), change)
    return Job.make("gla", 0, Trial.model_validate(tree))


def losses(job, home, **kwargs):
    results = train(job, TrialDir(home), device="cuda", **kwargs)
    return results, [row["train_loss"] for row in TrialDir(home).metrics()]


def test_training_on_cuda_learns_resumes_and_says_what_it_ran_on(tiny, tmp_path):
    job = trial_of(tiny)
    results, seen = losses(job, tmp_path / "whole")
    assert results["state"] == "completed"
    rows = TrialDir(tmp_path / "whole").metrics()
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]
    assert rows[-1]["peak_mem_gib"] > 0
    assert results["environment"]["device_type"] == "cuda"
    assert results["environment"]["kernels"] == "fla"
    assert results["environment"]["step"] == "captured"
    stops = iter([False, True])
    assert losses(job, tmp_path / "parts", should_stop=lambda: next(stops))[0]["state"] == "pruned"
    (tmp_path / "parts" / "results.json").unlink()
    assert losses(job, tmp_path / "parts")[1] == pytest.approx(seen, rel=5e-3)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"optim": {"name": "muon"}},
        {"train": {"grad_accum": 2}},
        {"model": {"dropout": 0.2}},
        {"model": {"mixer": ["gla", {"name": "standard", "window": 16}]}},
        {"task": {"name": "mqar", "seq_len": 64, "n_pairs": 4, "vocab_size": 256}},
    ],
    ids=["adamw", "muon", "accumulation", "dropout", "hybrid", "few targets"],
)
def test_every_kind_of_step_trains_alike(tiny, tmp_path, change):
    steps = {"train": {"max_steps": 200, "eval_every": 20}}
    seen = {}
    for kind in ("eager", "compiled", "captured"):
        job = trial_of(tiny, **merge(merge(steps, change), {"train": {"step": kind}}))
        results, seen[kind] = losses(job, tmp_path / kind)
        assert results["state"] == "completed"
        assert results["environment"]["step"] == kind, results["environment"]
    if change.get("model", {}).get("dropout"):
        return  # each kind draws its own noise
    for kind in ("compiled", "captured"):  # bf16's rounding grows along a run: alike at first, and no worse at the end
        assert seen[kind][:2] == pytest.approx(seen["eager"][:2], rel=1e-2)
        assert seen[kind] == pytest.approx(seen["eager"], rel=3e-2)


def test_a_captured_run_that_diverges_is_seen(tiny, tmp_path):
    job = trial_of(tiny, optim={"lr": 1e6, "clip": None, "warmup": 0})
    results, _ = losses(job, tmp_path)
    assert results["state"] == "diverged"
    assert torch.cuda.is_available()
