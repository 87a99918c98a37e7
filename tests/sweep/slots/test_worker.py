"""A worker that shares its GPU: which part it may take, and what becomes of a trial that asks for more."""

import json

import pytest
import torch

from attnlab.plan import gpu_packing
from attnlab.sweep.slots import worker


def test_a_worker_that_shares_its_gpu_is_kept_to_its_part(monkeypatch):
    class Card:
        total_memory = 80 * 2**30

    calls = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Card)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *args: calls.append(args))
    for gpus in (0.0, 1.0, 2.0):
        worker.cap_memory(gpus, "cuda:0")
    assert not calls
    worker.cap_memory(0.125, "cuda:0")
    assert calls == [(pytest.approx(0.125 - gpu_packing.CONTEXT_GIB / 80), "cuda:0")]


def test_a_trial_without_memory_is_failed_with_the_reason():
    try:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")
    except torch.OutOfMemoryError as error:
        shared, alone = worker.failure_text(error, 0.125), worker.failure_text(error, 1.0)
    assert "Traceback" in shared and "Tried to allocate 9.00 GiB" in shared
    assert shared.endswith("it had 0.125 of a GPU; a larger resources.gpus_per_worker lets fewer trials share one\n")
    assert alone.endswith("Tried to allocate 9.00 GiB\n")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_after_a_trial_without_memory_its_slot_starts_afresh_and_goes_on(write_sweep, launch, folder, tmp_path):
    (tmp_path / "greedy.py").write_text(
        "import torch\n\n\nclass Greedy(torch.nn.Module):\n"
        "    def __init__(self, d_model: int):\n        super().__init__()\n"
        "        self.w, self.calls = torch.nn.Linear(d_model, d_model), 0\n\n"
        "    def forward(self, hidden_states, **extra):\n"
        "        self.calls += self.training and len(hidden_states) == 1\n"
        "        if self.calls > 4:  # those of its rehearsal\n"
        "            raise torch.OutOfMemoryError('CUDA out of memory')\n"
        "        return self.w(hidden_states), None, None\n"
    )
    # two workers, because theirs is the way of a GPU's worker: the group is ended
    path = write_sweep(
        arms={"greedy": {"model.mixer": "greedy:Greedy", "train.grad_accum": 2}, "gla": {}},
        search={"space": {"optim.lr": {"choice": [0.01]}}, "trials": 1},
        resources={"workers": 2, "max_concurrent": 1},
    )
    done = launch(path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr
    suite = {r["arm"]: r for r in json.loads((folder / "experiment_suite_results.json").read_text())}
    assert suite["greedy"]["state"] == "failed" and "OutOfMemoryError" in suite["greedy"]["error"]
    assert suite["gla"]["state"] == "completed"
