"""One cache of kernels: what its keys depend on, one process fills it for all, and a rehearsal leaves no trace."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch

from attnlab.config.merge import merge
from attnlab.config.trial import Trial
from attnlab.records.paths import TrialDir
from attnlab.records.results import Job
from attnlab.tasks import build_task
from attnlab.training import kernel_cache
from attnlab.training.kernel_cache import KernelCache
from attnlab.training.loop import train
from attnlab.util.files import json_digest

KEY = {"model": {"d_model": 8, "mixer": [{"name": "gla"}]}, "micro_batch": [2, 4], "precision": "bf16"}


def key_of(tree, kind="captured", **changes):
    trial = Trial.model_validate(merge(tree, changes))
    task = build_task(trial.task, batch_size=trial.train.batch_size, seed=trial.train.seed)
    return json_digest(kernel_cache.key_of(trial, task, kind, "cuda"))


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"seed": 9}},
        {"train": {"max_steps": 99, "eval_every": 5, "save_every": 10}},
        {"optim": {"lr": 0.5, "weight_decay": 0.0, "clip": None, "schedule": "linear"}},
        {"model": {"dropout": 0.0}},
        {"train": {"batch_size": 8, "grad_accum": 2}},
        {"model": {"mixer": ["gla", "gla"]}},
        {"train": {"precision": "bf16"}},
    ],
    ids=json.dumps,
)
def test_what_reaches_kernels_as_a_value_leaves_the_key(tiny, changes):
    assert key_of(tiny, **changes) == key_of(tiny)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"d_model": 32}},
        {"model": {"n_layers": 2}},
        {"model": {"mlp": "none"}},
        {"model": {"mixer": {"name": "gla", "expand_k": 1.0}}},
        {"model": {"mixer": "standard"}},
        {"train": {"batch_size": 8}},
        {"train": {"grad_accum": 2}},
        {"train": {"precision": "fp32"}},
        {"task": {"seq_len": 64}},
        {"optim": {"name": "adamw"}},
        {"kind": "eager"},
    ],
    ids=json.dumps,
)
def test_what_shapes_kernels_is_in_the_key(tiny, changes):
    assert key_of(tiny, **changes) != key_of(tiny)


def test_ranks_share_the_key_of_one_worker_with_their_part_of_the_batch(tiny):
    trial = Trial.model_validate(merge(tiny, {"train": {"batch_size": 8}}))
    assert kernel_cache.share_of(trial, 2) == Trial.model_validate(tiny)


def test_the_folder_tells_gpus_and_versions_apart(monkeypatch):
    assert "/" not in kernel_cache.folder_name("NVIDIA H100/80GB HBM3") and " " not in kernel_cache.folder_name(
        "NVIDIA H100 80GB HBM3"
    )
    assert kernel_cache.folder_name("A") != kernel_cache.folder_name("B")
    before = kernel_cache.folder_name("A")
    with monkeypatch.context() as chosen_otherwise:
        chosen_otherwise.setattr(kernel_cache.autotune, "CHOICES", kernel_cache.autotune.CHOICES + 1)
        assert kernel_cache.folder_name("A") != before
    monkeypatch.setattr(kernel_cache, "version_of", lambda name: "9.9")
    assert kernel_cache.folder_name("A") != before


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.delenv(kernel_cache.VARIABLE, raising=False)
    assert kernel_cache.directory(None, tmp_path / "results") == tmp_path / ".attnlab-kernels"
    monkeypatch.setenv(kernel_cache.VARIABLE, str(tmp_path / "told"))
    assert kernel_cache.directory(None, tmp_path / "results") == tmp_path / "told"
    assert kernel_cache.directory(tmp_path / "given", tmp_path / "results") == tmp_path / "given"


def test_on_a_cpu_nothing_is_done(tmp_path):
    before = dict(os.environ)
    assert kernel_cache.use(tmp_path / "kernels", "cpu") is None
    assert dict(os.environ) == before and not list(tmp_path.iterdir())


@pytest.fixture
def on_a_gpu(monkeypatch):
    """As far as `use` can tell."""
    monkeypatch.setattr(kernel_cache, "_used", None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    for name in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, "elsewhere")  # so that it is as before afterwards
        monkeypatch.delenv(name)


def test_triton_and_inductor_keep_their_files_there(tmp_path, on_a_gpu):
    from torch._inductor.runtime.cache_dir_utils import cache_dir
    from triton import knobs

    cache = kernel_cache.use(tmp_path / "kernels", "cuda")
    assert cache.folder.parent == tmp_path / "kernels" and cache.folder.name.startswith("NVIDIA_H100_80GB_HBM3-torch")
    assert knobs.cache.dir == str(cache.folder / "triton")
    assert cache_dir() == str(cache.folder / "inductor")
    assert (tmp_path / "kernels" / ".gitignore").read_text() == "*\n"


def test_a_process_keeps_to_its_first_cache(tmp_path, on_a_gpu, caplog):
    first = kernel_cache.use(tmp_path / "a", "cuda")
    assert kernel_cache.use(tmp_path / "b", "cuda") is None and "keeps to" in caplog.text
    assert os.environ["TRITON_CACHE_DIR"] == str(first.folder / "triton")
    assert kernel_cache.use(tmp_path / "a", "cuda") == first


def test_a_cache_that_cannot_be_written_is_told_and_done_without(tmp_path, on_a_gpu, caplog):
    (tmp_path / "file").write_text("")
    assert kernel_cache.use(tmp_path / "file" / "kernels", "cuda") is None
    assert "TRITON_CACHE_DIR" not in os.environ
    assert "is not used" in caplog.text


REHEARSE = """
import os, sys, time
from pathlib import Path
from attnlab.training.kernel_cache import KernelCache
folder, seconds, key = Path(sys.argv[1]), float(sys.argv[2]), eval(sys.argv[3])

def rehearse():
    (folder / f"began-{os.getpid()}").touch()
    time.sleep(seconds)
    (folder / f"ended-{os.getpid()}").touch()

(folder / f"ready-{os.getpid()}").touch()
while not (folder / "go").exists():
    time.sleep(0.01)
KernelCache(folder).ensure(key, rehearse)
"""


@pytest.fixture
def other_process(tmp_path):
    """Start a process that fills the cache at tmp_path when the file `go` is there."""
    started = []

    def start(seconds, key=KEY):
        command = [sys.executable, "-c", textwrap.dedent(REHEARSE), str(tmp_path), str(seconds), repr(key)]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for(folder, pattern, n=1):
    end = time.monotonic() + 300
    while len(found := list(folder.glob(pattern))) < n:
        assert time.monotonic() < end, f"waited in vain for {n} {pattern}"
        time.sleep(0.02)
    return found


def test_of_racing_processes_one_rehearses_and_all_wait_for_it(tmp_path, other_process):
    processes = [other_process(0.5) for _ in range(4)]
    wait_for(tmp_path, "ready-*", 4)
    (tmp_path / "go").touch()
    said = [process.communicate(timeout=600)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
    assert len(list(tmp_path.glob("began-*"))) == len(list(tmp_path.glob("ended-*"))) == 1
    assert sum("are being tuned, once per cluster" in text for text in said) == 1
    record = json.loads(KernelCache(tmp_path).marker(KEY).read_text())
    assert (record["mixer"], record["shapes"]) == ("gla", KEY)
    assert record["seconds"] >= 0.5 and record["host"]


def test_after_a_killed_process_the_next_one_rehearses(tmp_path, other_process):
    (tmp_path / "go").touch()
    process = other_process(3600)
    wait_for(tmp_path, "began-*")
    process.send_signal(signal.SIGKILL)
    process.wait()
    calls = []
    assert KernelCache(tmp_path).ensure(KEY, lambda: calls.append(1), wait_s=300) > 0
    assert calls and KernelCache(tmp_path).marker(KEY).exists()
    assert KernelCache(tmp_path).ensure(KEY, lambda: calls.append(1)) == 0 and calls == [1]


def test_who_waits_too_long_goes_on_and_says_so_and_other_keys_never_wait(tmp_path, other_process, caplog):
    (tmp_path / "go").touch()
    other_process(3600)
    wait_for(tmp_path, "began-*")
    calls = []
    KernelCache(tmp_path).ensure({**KEY, "precision": "fp32"}, lambda: calls.append("other"), wait_s=0)
    assert calls == ["other"] and "another process" not in caplog.text
    KernelCache(tmp_path).ensure(KEY, lambda: calls.append("same"), wait_s=0.1)
    assert calls == ["other", "same"]
    assert "gla (d_model 8, 2 x 4, bf16) are being tuned by another process" in caplog.text
    assert "in vain" in caplog.text


def test_a_rehearsal_that_fails_leaves_no_marker_and_no_lock(tmp_path):
    def fail():
        raise ArithmeticError("no such luck")

    with pytest.raises(ArithmeticError):
        KernelCache(tmp_path).ensure(KEY, fail)
    calls = []
    KernelCache(tmp_path).ensure(KEY, lambda: calls.append(1), wait_s=0)
    assert calls


def rows_of(home):
    timed = ("seconds", "tokens_per_s")
    return [{k: v for k, v in row.items() if k not in timed} for row in home.metrics()]


def weights(home):
    from safetensors.torch import load_file

    return load_file(home.final / "model.safetensors")


def test_a_rehearsed_trial_is_the_same_to_the_bit(tiny, tmp_path):
    job = Job.make("arm", 0, Trial.model_validate(merge(tiny, {"train": {"grad_accum": 2}})))
    plain, rehearsed, warmed = (TrialDir(tmp_path / name) for name in ("plain", "rehearsed", "warmed"))
    cache = KernelCache(tmp_path / "kernels")
    results = [train(job, plain), *(train(job, home, cache=cache) for home in (rehearsed, warmed))]
    took = [each["environment"]["kernels_warm_s"] for each in results]
    assert took[0] == took[2] == 0 < took[1]
    assert len(list((tmp_path / "kernels" / "warm").glob("*.json"))) == 1
    for home in (rehearsed, warmed):
        assert rows_of(home) == rows_of(plain)
        assert all(torch.equal(a, b) for a, b in zip(weights(home).values(), weights(plain).values(), strict=True))


def test_a_rehearsal_leaves_every_generator_as_it_was(tmp_path):
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    def seeded():
        random.seed(1), np.random.seed(1), torch.manual_seed(1)

    seeded()
    expected = draw()
    seeded()
    KernelCache(tmp_path).ensure(KEY, draw)
    assert draw() == expected


ON_A_GPU = """
import json, sys
from attnlab import run_experiment
results = run_experiment(json.loads(sys.argv[1]), sys.argv[2], kernel_cache=sys.argv[3], device="cuda")
print(results["environment"]["kernels_warm_s"])
"""


@pytest.mark.gpu
@pytest.mark.timeout(900)
def test_on_a_gpu_a_second_process_finds_everything(tiny, tmp_path):
    tree = merge(tiny, {"model": {"d_model": 128}, "task": {"seq_len": 128}})
    took, tuned = [], []
    own = {
        name: value for name, value in os.environ.items() if not name.endswith("_CACHE_DIR")
    }  # those stay the user's
    for name in ("first", "second"):
        command = [sys.executable, "-c", ON_A_GPU, json.dumps(tree), str(tmp_path / name), str(tmp_path / "kernels")]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=own)
        took.append(float(done.stdout.splitlines()[-1]))
        tuned.append(sorted((tmp_path / "kernels").glob("*/triton/*/*.autotune.json")))
    assert took[0] > 0 == took[1]
    assert tuned[0] and tuned[1] == tuned[0]
    assert list((tmp_path / "kernels").glob("*/inductor/*"))
