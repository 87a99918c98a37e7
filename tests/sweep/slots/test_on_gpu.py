"""On CUDA: a trial leaves nothing on the GPU, and one that breaks its context harms no other."""

import pytest
import torch

from attnlab.config.merge import merge
from attnlab.config.trial import Trial
from attnlab.records.paths import TrialDir
from attnlab.records.results import Job
from attnlab.sweep.slots.process_reset import ProcessReset
from attnlab.training.loop import train
from tests.contract import check_folder

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]


@pytest.mark.parametrize("step", ["eager", "captured"])
def test_fifty_trials_hold_no_more_memory_than_one(tiny, tmp_path, step):
    held = []
    clean = ProcessReset()
    for number in range(50):
        mixer = ("gla", "standard")[number % 2]
        tree = merge(tiny, {"model": {"d_model": 64, "mixer": mixer}, "train": {"step": step, "seed": number}})
        train(Job.make("arm", number, Trial.model_validate(tree)), TrialDir(tmp_path / str(number)), device="cuda")
        assert torch.cuda.max_memory_allocated() > torch.cuda.memory_allocated()
        clean()
        held.append(torch.cuda.memory_allocated())
        assert torch.cuda.max_memory_allocated() == held[-1], "the next trial's peak would not be its own"
    assert held[-1] == held[-2] == held[1], held  # after one trial of each mixer
    assert held[1] < 64 * 2**20, "more than libraries' workspaces"


def test_a_trial_that_breaks_its_cuda_context_harms_no_other(write_sweep, launch, folder, breaking, tmp_path):
    arms = {**breaking("device_assert"), "gla": {}, "standard": {"model.mixer": "standard"}}
    search = {"space": {"optim.lr": {"choice": [0.01]}}, "trials": 1}
    path = write_sweep(arms=arms, search=search, resources={"max_concurrent": 1})
    done = launch(path, "trial.train.step=eager", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr
    suite = {r["arm"]: r for r in check_folder(folder)}
    assert suite["device_assert"]["state"] == "failed" and "device-side assert" in suite["device_assert"]["error"]
    assert {suite[arm]["state"] for arm in ("gla", "standard")} == {"completed"}
