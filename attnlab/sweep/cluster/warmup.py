"""Tune the kernels of all arms before the slots take the GPUs."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from attnlab.config import space
from attnlab.config.resolved import Plan
from attnlab.config.trial import Trial
from attnlab.kernels.cuda import autotune
from attnlab.plan import gpu_packing
from attnlab.plan.prepare import prepare_tasks
from attnlab.sweep.cluster.session import cluster
from attnlab.tasks import build_task
from attnlab.training import kernel_cache
from attnlab.training.kernel_cache import directory
from attnlab.training.step import choose
from attnlab.util import trust
from attnlab.util.errors import UserError
from attnlab.util.files import json_digest, read_json, write_json
from attnlab.util.text import reason

PER_GPU = 8  # tasks on one GPU at a time, at most: most of their work is the CPU's
LIMIT_S = 3600.0  # for all tasks; trials tune what is missing then
TYPE = "accelerator_type:"  # prefix of Ray's resource that names the type of a node's GPUs
REACH = ("model", "task", "train", "optim.name")  # prefixes of searched settings that may change kernels


@dataclass(frozen=True)
class KernelSet:
    """The kernels of one key, which trials of `arms` need."""

    arms: tuple[str, ...]
    trial: Trial  # one rank's share of one of theirs
    key: Mapping[str, Any]
    gib: float  # of GPU memory


@dataclass(frozen=True)
class TuningTask:
    """A Ray task for one key on one type of GPU."""

    kernels: KernelSet
    gpu_type: str  # "" where nodes name none
    share: float  # of a GPU
    threads: int  # to compile with


@dataclass(frozen=True)
class TuningResult:
    """The outcome of tuning one key on one type of GPU."""

    kernels: KernelSet
    gpu_type: str
    seconds: float = 0.0  # 0: the kernels were there
    error: str | None = None  # one line

    def __str__(self) -> str:
        result = f"failed: {self.error}" if self.error else f"{self.seconds:.1f} s" if self.seconds else "were there"
        arms, kernels = ", ".join(self.kernels.arms), kernel_cache.words(self.kernels.key)
        return f"{arms:<24}  {kernels:<48}  {self.gpu_type or 'GPU':<8}  {result}"


@dataclass
class GpuPool:
    """The CPU cores and GPUs of all nodes with one type of GPU."""

    cpus: float = 0.0
    gpus: float = 0.0


def warm_only(plan: Plan, results: Path, *, address: str | None, kernel_cache: str | Path | None) -> list[TuningResult]:
    """Tune a sweep's kernels for `launch.py --warm`. Raises UserError as `engine.run`, or without a GPU."""
    nowhere = "--warm: kernels are tuned on GPUs, and there is none"
    if not address and not torch.cuda.is_available():
        raise UserError(f"{nowhere} with CUDA on this machine (--address names a cluster)")
    with cluster(address, plan, gpu_packing.largest(plan, prepare_tasks(plan))) as (shape, _):
        if not shape.gpus:
            raise UserError(f"{nowhere} for this sweep's trials (resources.gpus_per_worker, --address)")
        return warm_cluster(plan, directory(kernel_cache, results))


def warm_cluster(plan: Plan, root: Path) -> list[TuningResult]:
    """`warm_up` on the GPUs of the cluster that is up."""
    import ray

    return warm_up(plan, root, gpu_pools(ray.nodes()))


def warm_up(
    plan: Plan, root: Path, pools: Mapping[str, GpuPool], run: Callable[..., Any] | None = None
) -> list[TuningResult]:
    """Tune the arms' kernels that the cache `root` lacks, for every GPU type in `pools`.

    Failures are printed and left to the trials. `run` stands in for `run_on_ray`.
    """
    try:
        kernel_cache.prepare(root)
    except OSError as error:
        what = "it must be a folder of this user's own that can be written to"
        why = f"{error.strerror or error}; {what}"
        raise UserError(f"--kernel-cache {root}: {why}") from None
    gpu_names, kernel_sets = _gpu_names(root), find_kernel_sets(plan)
    results, tasks = [], []
    for gpu_type, pool in pools.items():
        warm = [kernels for kernels in kernel_sets if _is_warm(root, gpu_names.get(gpu_type), kernels)]
        results += [TuningResult(kernels, gpu_type) for kernels in warm]
        tasks += tuning_tasks([kernels for kernels in kernel_sets if kernels not in warm], gpu_type, pool)
    if tasks:
        print(f"tuning the kernels of {len(tasks)} models, once per cluster; {len(results)} are in {root}", flush=True)
    while tasks:
        again = []
        for task, answer in (run or run_on_ray)(tasks, root):
            if isinstance(answer, dict):
                gpu_names[task.gpu_type] = answer["gpu"]
                results.append(TuningResult(task.kernels, task.gpu_type, answer["seconds"]))
            elif task.share < 1:  # among others it may have lacked memory
                again.append(replace(task, share=1.0))
                continue
            else:
                why = reason(str(answer)) or type(answer).__name__
                results.append(TuningResult(task.kernels, task.gpu_type, error=why))
            print(f"  {results[-1]}", flush=True)
        tasks = again
    if gpu_names != _gpu_names(root):
        write_json(root / "gpus.json", gpu_names)
    return sorted(results, key=lambda result: (result.gpu_type, kernel_sets.index(result.kernels)))


def find_kernel_sets(plan: Plan) -> list[KernelSet]:
    """The kernels of all arms on CUDA, each key once. Of searched ranges those at the ends."""
    kernel_sets: dict[str, KernelSet] = {}
    for arm in plan.arms:
        reaching = {key: dimension for key, dimension in arm.space.items() if key.startswith(REACH)}
        for settings in space.corners(reaching):
            trial = kernel_cache.share_of(arm.with_settings(settings), plan.sweep.resources.workers)
            task = build_task(trial.task, batch_size=trial.train.batch_size, seed=trial.train.seed)
            kind, _ = choose(trial.train.step, torch.device("cuda"), 1)
            key = kernel_cache.key_of(trial, task, kind, "cuda")
            rows, steps = key["micro_batch"]
            need = gpu_packing.need(trial, task.vocab_size, key["targets"] / (rows * steps))
            digest, gib = json_digest(key), need.gib + gpu_packing.CONTEXT_GIB
            kernels = kernel_sets.setdefault(digest, KernelSet((), trial, key, gib))
            if arm.name not in kernels.arms:
                kernel_sets[digest] = replace(kernels, arms=(*kernels.arms, arm.name))
    return list(kernel_sets.values())


def gpu_pools(nodes: Iterable[Mapping[str, Any]]) -> dict[str, GpuPool]:
    """Sum the nodes of `ray.nodes()` that are up and have GPUs, by type."""
    pools: dict[str, GpuPool] = {}
    for node in nodes:
        have = node["Resources"]
        if node["Alive"] and have.get("GPU"):
            gpu_type = next((name.removeprefix(TYPE) for name in have if name.startswith(TYPE)), "")
            pool = pools.setdefault(gpu_type, GpuPool())
            pool.cpus, pool.gpus = pool.cpus + have.get("CPU", 0), pool.gpus + have["GPU"]
    return pools


def tuning_tasks(cold: Sequence[KernelSet], gpu_type: str, pool: GpuPool) -> list[TuningTask]:
    """Tasks with shares of GPUs and threads so that many run at once."""
    if not cold:
        return []
    gpus = max(1, int(pool.gpus))
    per_gpu = max(1, min(PER_GPU, math.ceil(len(cold) / gpus), int(pool.cpus // gpus)))
    threads = max(1, int(pool.cpus // min(len(cold), per_gpu * gpus)))
    memory = gpu_packing.gpu_gib({TYPE + gpu_type: 1.0})
    shares = (gpu_packing.fraction(max(1, min(per_gpu, int(memory / kernels.gib)))) for kernels in cold)
    return [TuningTask(kernels, gpu_type, share, threads) for kernels, share in zip(cold, shares, strict=True)]


def run_on_ray(tasks: Sequence[TuningTask], root: Path) -> Iterator[tuple[TuningTask, Any]]:
    """Yield each task as it ends, with what `_rehearse` returned or its exception."""
    import ray

    # a process ends with its task, and its GPU memory with it
    rehearse = ray.remote(max_calls=1, max_retries=0, num_cpus=1)(_rehearse)
    pending = {}
    for task in tasks:
        resources = {TYPE + task.gpu_type: 0.001} if task.gpu_type else {}
        call = rehearse.options(num_gpus=task.share, resources=resources)
        tree = task.kernels.trial.model_dump(mode="json")
        pending[call.remote(tree, str(root), task.threads, os.getcwd(), trust.named())] = task
    end = time.monotonic() + LIMIT_S
    while pending:
        ready, _ = ray.wait(list(pending), timeout=max(0.0, end - time.monotonic()))
        for ref in ready:
            try:
                answer = ray.get(ref)
            except Exception as error:  # its process died, or it raised this
                answer = error
            yield pending.pop(ref), answer
        if not ready:
            break
    for ref, task in pending.items():
        ray.cancel(ref, force=True)
        yield replace(task, share=1.0), TimeoutError(f"not done after {LIMIT_S / 60:.0f} minutes")


def _rehearse(trial: dict[str, Any], root: str, threads: int, cwd: str, trusted: list[str]) -> dict[str, Any]:
    """Tune the kernels of a trial, in a Ray process with (part of) a GPU."""
    from attnlab.training import loop  # not at the top: the launcher does without its 0.6 CPU-seconds

    if os.path.isdir(cwd):  # the launcher's: a sweep file's relative paths mean the same here
        os.chdir(cwd)
    trust.name(trusted)
    device = torch.device("cuda:0")
    autotune.install(threads)
    cache = kernel_cache.use(Path(root), device)
    if cache is None:
        raise OSError(f"{root} cannot be written to here")
    seconds = loop.warm_up(Trial.model_validate(trial), device, 1, cache)
    return {"seconds": seconds, "gpu": torch.cuda.get_device_name(device)}


def _gpu_names(root: Path) -> dict[str, str]:
    """The driver's name of each of Ray's GPU types. It names their folder; lost entries are found out again."""
    file = root / "gpus.json"
    return read_json(file) if file.exists() else {}


def _is_warm(root: Path, gpu: str | None, kernels: KernelSet) -> bool:
    if gpu is None:
        return False
    return kernel_cache.KernelCache(root / kernel_cache.folder_name(gpu)).marker(kernels.key).exists()
