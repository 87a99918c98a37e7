"""The kernels of a sweep's arms: which are wanted, how they are dealt out to GPUs, what becomes of failures."""

from dataclasses import replace

import pytest
import torch

import launch as command
from attnlab.plan.load import load
from attnlab.records.paths import TrialDir
from attnlab.records.results import Job
from attnlab.sweep.cluster.warmup import GpuPool, find_kernel_sets, gpu_pools, tuning_tasks, warm_up
from attnlab.training import kernel_cache
from attnlab.training.loop import train
from attnlab.util.errors import UserError
from attnlab.util.files import write_json

# made up, as is what runs on them
H100 = {"H100": GpuPool(cpus=16, gpus=1)}


def test_each_set_of_kernels_is_wanted_once(write_sweep):
    arms = {"gla": {}, "gla_again": {"model.dropout": 0.0}, "standard": {"model.mixer": "standard"}}
    space = {"optim.lr": {"loguniform": [1e-4, 1e-1]}, "model.d_model": {"choice": [16, 32]}}
    found = find_kernel_sets(load(write_sweep(arms=arms, search={"space": space, "trials": 2})))
    assert sorted((each.arms, each.key["model"]["d_model"]) for each in found) == [
        *((("gla", "gla_again"), d) for d in (16, 32)),
        *((("standard",), d) for d in (16, 32)),
    ]


def test_the_launcher_and_the_trial_have_one_key(write_sweep, tiny, tmp_path):
    (each,) = find_kernel_sets(load(write_sweep(arms={"gla": {}})))
    cache = kernel_cache.KernelCache(tmp_path / "kernels")
    train(Job.make("gla", 0, each.trial), TrialDir(tmp_path / "trial"), cache=cache)
    assert cache.marker({**each.key, "precision": "fp32", "step": "eager"}).exists()


def test_gpus_are_counted_by_type():
    nodes = [
        {"Alive": True, "Resources": {"CPU": 16.0, "GPU": 2.0, "accelerator_type:H100": 1.0}},
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0, "accelerator_type:H100": 1.0}},
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 64.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    assert gpu_pools(nodes) == {"H100": GpuPool(24.0, 4.0), "": GpuPool(4.0, 1.0)}


@pytest.mark.parametrize(
    ("tasks", "have", "share", "threads"),
    [
        (1, GpuPool(16, 1), 1.0, 16),
        (6, GpuPool(16, 1), 0.1666, 2),
        (20, GpuPool(16, 1), 0.125, 2),
        (20, GpuPool(4, 1), 0.25, 1),
        (6, GpuPool(128, 8), 1.0, 21),
        (10, GpuPool(128, 8), 0.5, 12),
        (6, GpuPool(0, 1), 1.0, 1),
    ],
)
def test_as_many_run_at_once_as_cores_and_gpus_hold(write_sweep, tasks, have, share, threads):
    (each,) = find_kernel_sets(load(write_sweep(arms={"gla": {}})))
    plans = tuning_tasks([each] * tasks, "H100", have)
    assert {(plan.share, plan.threads) for plan in plans} == {(share, threads)}


def test_what_takes_much_memory_takes_much_of_a_gpu(write_sweep):
    each = find_kernel_sets(load(write_sweep(arms={"gla": {}})))[0]
    large = replace(each, gib=30.0)
    assert [plan.share for plan in tuning_tasks([each, large] * 3, "H100", GpuPool(16, 1))] == [0.1666, 0.5] * 3


def fake(said, spoil=lambda plan: None):
    """In place of Ray: notes each plan in `said` and leaves its marker, unless `spoil(plan)` gives what ended it."""

    def run(plans, root):
        for plan in plans:
            said.append((plan.kernels.arms[0], plan.share))
            error = spoil(plan)
            if error is None:
                cache = kernel_cache.KernelCache(root / kernel_cache.folder_name("NVIDIA H100"))
                write_json(cache.marker(plan.kernels.key), {})
            yield plan, error or {"seconds": 1.5, "gpu": "NVIDIA H100"}

    return run


def test_what_is_warm_is_not_asked_for_again(write_sweep, tmp_path):
    sweep, said = load(write_sweep()), []
    first = warm_up(sweep, tmp_path / "kernels", H100, fake(said))
    assert [(o.kernels.arms, o.seconds, o.error) for o in first] == [(("gla",), 1.5, None), (("standard",), 1.5, None)]
    again = warm_up(sweep, tmp_path / "kernels", H100, fake(said))
    assert [o.seconds for o in again] == [0, 0] and len(said) == 2
    warm_up(
        load(write_sweep(arms={"gla": {}, "hgrn": {"model.mixer": "hgrn"}})),
        tmp_path / "kernels",
        H100,
        fake(said),
    )
    warm_up(sweep, tmp_path / "kernels", {"L4": GpuPool(8, 1)}, fake(said))
    assert [arm for arm, _ in said[2:]] == ["hgrn", "gla", "standard"], "another arm, another type of GPU"


def test_a_failure_is_tried_once_more_alone_then_told_and_stops_nothing(write_sweep, tmp_path, capsys):
    said, no_memory = [], torch.OutOfMemoryError("CUDA out of memory.")

    def spoil(plan):
        if plan.kernels.arms == ("gla",):
            return RuntimeError("traceback\n  of many lines\nArithmeticError: no such luck\n")
        return no_memory if plan.share < 1 else None

    outcomes = warm_up(load(write_sweep()), tmp_path / "kernels", H100, fake(said, spoil))
    assert said == [("gla", 0.5), ("standard", 0.5), ("gla", 1.0), ("standard", 1.0)]
    assert [o.error for o in outcomes] == ["ArithmeticError: no such luck", None]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and "failed: ArithmeticError" in lines[1] and "1.5 s" in lines[2]


def test_a_cache_that_cannot_be_made_is_one_line(write_sweep, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--kernel-cache .*file.*") as error:
        warm_up(load(write_sweep()), tmp_path / "file" / "kernels", H100, fake([]))
    assert "\n" not in str(error.value)


def test_warm_without_cuda_is_one_line(write_sweep, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main([str(write_sweep()), "--warm", "--results", str(tmp_path / "results")]) == 2
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 1 and "CUDA" in err
    assert not (tmp_path / "results").exists() and not (tmp_path / ".attnlab-kernels").exists()
