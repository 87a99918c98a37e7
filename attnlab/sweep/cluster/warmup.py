"""Before the slots take the GPUs, the kernels of all arms are tuned side by side: a Ray task per key and GPU type."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attnlab.config import space
from attnlab.config.resolved import Plan
from attnlab.config.trial import Trial
from attnlab.plan import gpu_packing
from attnlab.plan.prepare import prepare_tasks
from attnlab.sweep.cluster.session import cluster
from attnlab.tasks import build_task
from attnlab.training import kernel_cache
from attnlab.training.kernel_cache import directory
from attnlab.util.errors import UserError
from attnlab.util.files import read_json, write_json

PER_GPU = 8  # tasks on one GPU at a time, at most: all but the timing of kernels is the CPU's work
LIMIT_S = 3600.0  # for all of it; what is missing then is left to the trials
TYPE = "accelerator_type:"  # begins Ray's resource that names the type of a node's GPUs
REACH = ("model", "task", "train", "optim.name")  # searched settings that may change kernels begin so


@dataclass(frozen=True)
class Wanted:
    """Kernels that trials of `arms` need: `trial` is one rank's share of one of them, `gib` what it takes of a GPU."""

    arms: tuple[str, ...]
    trial: Trial
    key: Mapping[str, Any]
    gib: float


@dataclass(frozen=True)
class Tuning:
    """What is asked of Ray for one key on one type of GPU ("" where nodes name none)."""

    wanted: Wanted
    type: str
    share: float  # of a GPU
    threads: int  # that compile


@dataclass(frozen=True)
class Outcome:
    """How it went: the seconds it took, 0 if the kernels were there; or why it failed, on one line."""

    wanted: Wanted
    type: str
    seconds: float = 0.0
    error: str | None = None

    def __str__(self) -> str:
        said = f"failed: {self.error}" if self.error else f"{self.seconds:.1f} s" if self.seconds else "were there"
        arms, kernels = ", ".join(self.wanted.arms), kernel_cache.words(self.wanted.key)
        return f"{arms:<24}  {kernels:<48}  {self.type or 'GPU':<8}  {said}"


@dataclass
class Gpus:
    """The CPU cores and GPUs of all nodes with one type of GPU."""

    cpus: float = 0.0
    gpus: float = 0.0


def alone(plan: Plan, results: Path, *, address: str | None, kernel_cache: str | Path | None) -> list[Outcome]:
    """`launch.py --warm`: warm the kernels of a sweep and start none of its trials.

    Raises:
        UserError: as `engine.run`; or there is no GPU for its trials.
    """
    import torch

    nowhere = "--warm: kernels are tuned on GPUs, and there is none"
    if not address and not torch.cuda.is_available():
        raise UserError(f"{nowhere} with CUDA on this machine (--address names a cluster)")
    with cluster(address, plan, gpu_packing.largest(plan, prepare_tasks(plan))) as (shape, _):
        if not shape.gpus:
            raise UserError(f"{nowhere} for this sweep's trials (resources.gpus_per_worker, --address)")
        return before_slots(plan, directory(kernel_cache, results))


def before_slots(plan: Plan, root: Path) -> list[Outcome]:
    """`warm_up` on the GPUs of the cluster that is up."""
    import ray

    return warm_up(plan, root, gpus_of(ray.nodes()))


def warm_up(plan: Plan, root: Path, found: Mapping[str, Gpus], run: Callable[..., Any] | None = None) -> list[Outcome]:
    """Have the kernels of all arms in the cache `root`, for every type of GPU in `found`. What fails is told and left
    to the trials, which then fail or tune by themselves.

    Args:
        run: in place of `on_ray`.
    """
    try:
        kernel_cache.prepare(root)
    except OSError as error:
        raise UserError(
            f"--kernel-cache {root}: {error.strerror}; it must be a folder that can be written to"
        ) from None
    names, everything = _names(root), wanted(plan)
    at_hand = [Outcome(each, kind) for kind in found for each in everything if _is_warm(root, names.get(kind), each)]
    warmed = {(outcome.type, id(outcome.wanted)) for outcome in at_hand}
    plans = []
    for kind, gpus in found.items():
        plans += planned([each for each in everything if (kind, id(each)) not in warmed], kind, gpus)
    if plans:
        _say(f"tuning the kernels of {len(plans)} models, once per cluster; {len(at_hand)} are in {root}")
    outcomes = at_hand
    while plans:
        again = []
        for plan, came in (run or on_ray)(plans, root):
            if isinstance(came, dict):
                names[plan.type] = came["gpu"]
                outcomes.append(Outcome(plan.wanted, plan.type, came["seconds"]))
            elif plan.share < 1:  # among others it may have lacked memory
                again.append(replace(plan, share=1.0))
                continue
            else:
                outcomes.append(Outcome(plan.wanted, plan.type, error=_one_line(came)))
            _say(f"  {outcomes[-1]}")
        plans = again
    if names != _names(root):
        write_json(root / "gpus.json", names)
    return sorted(outcomes, key=lambda outcome: (outcome.type, everything.index(outcome.wanted)))


def wanted(plan: Plan) -> list[Wanted]:
    """The kernels of all arms on CUDA, each key once; of a searched range that reaches them, those at its ends."""
    import torch

    from attnlab.training.step import choose

    found: dict[str, Wanted] = {}
    for arm in plan.names:
        reaching = {key: dimension for key, dimension in plan.arm(arm).space.items() if key.startswith(REACH)}
        for settings in space.corners(reaching):
            trial = kernel_cache.share_of(plan.arm(arm).with_settings(settings), plan.sweep.resources.workers)
            task = build_task(trial.task, batch_size=trial.train.batch_size, seed=trial.train.seed)
            kind, _ = choose(trial.train.step, torch.device("cuda"), 1)
            key = kernel_cache.key_of(trial, task, kind, "cuda")
            rows, steps = key["micro_batch"]
            gib = (
                gpu_packing.need(trial, task.vocab_size, key["targets"] / (rows * steps)).gib + gpu_packing.CONTEXT_GIB
            )
            same = found.setdefault(kernel_cache.digest(key), Wanted((), trial, key, gib))
            if arm not in same.arms:
                found[kernel_cache.digest(key)] = replace(same, arms=(*same.arms, arm))
    return list(found.values())


def gpus_of(nodes: Iterable[Mapping[str, Any]]) -> dict[str, Gpus]:
    """`ray.nodes()` -> the nodes that are up and have GPUs, summed by type."""
    found: dict[str, Gpus] = {}
    for node in nodes:
        have = node["Resources"]
        if node["Alive"] and have.get("GPU"):
            kind = next((name.removeprefix(TYPE) for name in have if name.startswith(TYPE)), "")
            at = found.setdefault(kind, Gpus())
            at.cpus, at.gpus = at.cpus + have.get("CPU", 0), at.gpus + have["GPU"]
    return found


def planned(cold: Sequence[Wanted], kind: str, have: Gpus) -> list[Tuning]:
    """Each task's part of a GPU and its threads, so that as many run at once as cores and memory hold."""
    if not cold:
        return []
    gpus = max(1, int(have.gpus))
    per_gpu = max(1, min(PER_GPU, math.ceil(len(cold) / gpus), int(have.cpus // gpus)))
    threads = max(1, int(have.cpus // min(len(cold), per_gpu * gpus)))
    memory = gpu_packing.gpu_gib({TYPE + kind: 1.0})
    return [
        Tuning(each, kind, gpu_packing.fraction(max(1, min(per_gpu, int(memory / each.gib)))), threads) for each in cold
    ]


def on_ray(plans: Sequence[Tuning], root: Path) -> Iterator[tuple[Tuning, Any]]:
    """Run all plans; yields each as it ends, with what `_rehearse` gave or the exception that ended it."""
    import ray

    # a process ends with its task, and its GPU memory with it
    task = ray.remote(max_calls=1, max_retries=0, num_cpus=1)(_rehearse)
    pending = {}
    for plan in plans:
        where = {TYPE + plan.type: 0.001} if plan.type else {}
        options = task.options(num_gpus=plan.share, resources=where)
        tree = plan.wanted.trial.model_dump(mode="json")
        pending[options.remote(tree, str(root), plan.threads, os.getcwd())] = plan
    end = time.monotonic() + LIMIT_S
    while pending:
        ready, _ = ray.wait(list(pending), timeout=max(0.0, end - time.monotonic()))
        for ref in ready:
            try:
                came = ray.get(ref)
            except Exception as error:  # its process died, or what it raised
                came = error
            yield pending.pop(ref), came
        if not ready:
            break
    for ref, plan in pending.items():
        ray.cancel(ref, force=True)
        yield replace(plan, share=1.0), TimeoutError(f"not done after {LIMIT_S / 60:.0f} minutes")


def _rehearse(trial: dict[str, Any], root: str, threads: int, cwd: str) -> dict[str, Any]:
    """In a process of Ray's that has (part of) a GPU."""
    import torch

    from attnlab.kernels.cuda import autotune
    from attnlab.training import loop

    if os.path.isdir(cwd):  # the launcher's: a sweep file's relative paths mean the same here
        os.chdir(cwd)
    device = torch.device("cuda:0")
    autotune.install(threads)
    cache = kernel_cache.use(Path(root), device)
    if cache is None:
        raise OSError(f"{root} cannot be written to here")
    seconds = loop.warm_up(Trial.model_validate(trial), device, 1, cache)
    return {"seconds": seconds, "gpu": torch.cuda.get_device_name(device)}


def _names(root: Path) -> dict[str, str]:
    """DIR/gpus.json: what the driver calls GPUs of a type of Ray's, so that their folder is found without asking one.
    Of two sweeps that write it at once, one's entries may be lost; they are found out again."""
    file = root / "gpus.json"
    return read_json(file) if file.exists() else {}


def _is_warm(root: Path, gpu: str | None, each: Wanted) -> bool:
    return gpu is not None and kernel_cache.KernelCache(root / kernel_cache.folder_name(gpu)).marker(each.key).exists()


def _say(line: str) -> None:
    print(line, flush=True)


def _one_line(error: BaseException) -> str:
    """The last line that names an exception, which of a remote traceback is the one raised (CUDA's go on with advice,
    the same for every error); else the last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Exit|Interrupt): ", line)]
    return (named or lines or [type(error).__name__])[-1]
