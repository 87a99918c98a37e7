"""How many trials share a GPU, by a rule on their shapes, without a GPU.

A small model's step leaves most of a GPU idle, so `gpus_per_worker: auto` lets n trials share one, the largest n with

    n <= MOST
    n <= GPU's memory / (memory of a trial + CONTEXT_GIB)            they fit side by side
    n <= FULL_TFLOP / floating-point operations of a trial's step    a step that fills the card by itself shares nothing
    n <= ceil(trials that can run at once / GPUs)                    nor is a GPU cut finer than there is use for

for the largest trial of the sweep (`largest`). A trial of several workers gets whole GPUs: NCCL refuses two ranks on
one. D is the width, F the MLP's, L the layers, V the vocabulary. N is the tokens of a micro-batch, S those of a step,
R the fraction of positions that have a target.

    P      = L (MIXER_D2 D^2 + M D F)                      M matrices in an MLP: 3 (swiglu), 2 (gelu), 0
    memory = PARAM_BYTES (P + V D, 2 V D if untied) + N L (WIDTH_BYTES D + MLP_BYTES F) + LOGIT_BYTES R N V + CHUNK_GIB
    step   = 6 S (P + R V D)                               2 forward, 4 backward per matrix parameter and token

The memory is meant as a bound: with D 384, L 6, V 8192, N 16,384 and swiglu it gives 5.8 GiB. An H100's process
reserved 1.9 (standard), 2.2 (gla), 2.7 (kda) and 3.3 (mamba2) for the captured bf16 step, without validation.
`bench/sharing.py` prints estimate and measurement side by side; a trial's `peak_mem_gib` is in its metrics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from attnlab.config.resolved import Plan
from attnlab.config.space import corners
from attnlab.config.sweep import ResourcesConfig
from attnlab.config.trial import Trial
from attnlab.tasks import IGNORE, Task

# Measured on an H100 with captured steps (`bench/sharing.py`, docs/speed.md), all together against one alone:
MOST = 4  # per GPU; steps of 0.026 TFLOP: 2 share 1.6 (standard) and 1.35 (gla), 4 1.68 and 1.36, 8 1.72 and 1.38
FULL_TFLOP = 0.2  # per step; steps of 0.28: 2 share 0.88 and 0.91, since one alone keeps the GPU busy
CONTEXT_GIB = 2.8  # a process's CUDA context and kernels besides PyTorch's allocator; 0.9 under MPS with tuned kernels

MIXER_D2 = 6  # estimate: FLA's layers at their defaults have matrices of 4 to 6 D^2
PARAM_BYTES = 24  # fp32 weight, gradient, two moments; bf16 copy, clipping and update temporaries (estimate)
WIDTH_BYTES = 96  # kept for the backward pass per token, layer and D, bf16; measured: standard 25, mamba2 about 65
MLP_BYTES = 8  # the same per F: gate, up and product in bf16, and a temporary
LOGIT_BYTES, EAGER_LOGIT_BYTES = 8, 16  # validation: fp32 logits and log-softmax; eager training also their gradients
CHUNK_GIB = 0.25  # the chunked loss's logits and their temporaries: 4 x `models.fused.CHUNK_BYTES`
MLP = {"swiglu": (3, 8 / 3), "gelu": (2, 4.0), "none": (0, 0.0)}  # matrices, default F / D (`models.block.mlp_width`)

# Ray's accelerator types -> GiB of one GPU, the smallest of the name; of an unknown type, UNKNOWN_GIB.
MEMORY_GIB = {
    **{"T4": 15, "V100": 16, "P100": 16, "A10G": 22, "L4": 22, "L40S": 44, "A100": 39, "A100-40G": 39, "A100-80G": 79},
    **{"H100": 79, "H20": 95, "RTX-PRO-6000": 94, "H200": 139, "B200": 178, "GB200": 178, "B300": 267, "GB300": 267},
}
UNKNOWN_GIB = 15


@dataclass(frozen=True)
class Need:
    """What a trial takes of its GPU. `gib`: besides the CUDA context. `tflop`: 10^12 operations per optimizer step."""

    gib: float
    tflop: float

    def __str__(self) -> str:
        return f"at most {self.gib:.1f} GiB and {self.tflop:.2g} TFLOP a step, by estimate"


def need(trial: Trial, vocab_size: int, targets_ratio: float = 1.0) -> Need:
    """Estimate memory and operations of one trial's step.

    By the formulas above, for one worker. `targets_ratio`: R.
    """
    model, train = trial.model, trial.train
    matrices, ratio = MLP[model.mlp]
    width = model.d_ff or ratio * model.d_model
    head = vocab_size * model.d_model
    inner = model.n_layers * (MIXER_D2 * model.d_model**2 + matrices * model.d_model * width)
    tokens = math.ceil(train.batch_size / train.grad_accum) * trial.task.seq_len
    activations = tokens * model.n_layers * (WIDTH_BYTES * model.d_model + MLP_BYTES * (width if matrices else 0))
    logits = (EAGER_LOGIT_BYTES if train.step == "eager" else LOGIT_BYTES) * targets_ratio * tokens * vocab_size
    params = inner + head * (1 if model.tie_embeddings else 2)
    size = PARAM_BYTES * params + activations * (2 if train.precision == "fp32" else 1) + logits
    return Need(size / 2**30 + CHUNK_GIB, 6e-12 * trial.tokens_per_step * (inner + targets_ratio * head))


def largest(plan: Plan, tasks: Mapping[str, Task]) -> Need:
    """The most that any trial of a sweep takes, at all corners of its spaces. `tasks`: each arm's, prepared."""
    needs = []
    for arm in plan.arms:
        sizes = {key: dimension for key, dimension in arm.space.items() if not key.startswith("optim")}
        task = tasks[arm.name]
        ratio = float((task.eval_examples(64).targets != IGNORE).mean())
        needs += [need(arm.with_settings(settings), task.vocab_size, ratio) for settings in corners(sizes)]
    return Need(max(n.gib for n in needs), max(n.tflop for n in needs))


def sharers(need: Need, gpu_gib: float, most: int = MOST) -> int:
    """How many trials share a GPU of `gpu_gib` GiB, at least 1."""
    return max(1, int(min(MOST, most, gpu_gib / (need.gib + CONTEXT_GIB), FULL_TFLOP / need.tflop)))


def gpus_per_worker(resources: ResourcesConfig, need: Need, have: Mapping[str, float], trials: int) -> float:
    """Resolve `resources.gpus_per_worker` for a sweep's trials. `have`: the cluster's resources as Ray names them."""
    if resources.gpus_per_worker != "auto":
        return float(resources.gpus_per_worker)
    gpus = have.get("GPU", 0)
    if not gpus or resources.workers > 1:
        return 1.0 if gpus else 0.0
    at_once = min(trials, have.get("CPU", 0) // resources.cpus_per_worker)
    if resources.max_concurrent != "auto":
        at_once = min(at_once, resources.max_concurrent)
    return fraction(sharers(need, gpu_gib(have), math.ceil(at_once / gpus)))


def fraction(n: int) -> float:
    """The fraction of a GPU for each of n trials. Rounded down to Ray's ten-thousandths, so that n fit."""
    return 10_000 // n / 10_000


def gpu_gib(have: Mapping[str, float]) -> float:
    """Memory of the smallest kind of GPU that a cluster has, from Ray's `accelerator_type:...` resources."""
    kinds = [key.partition(":")[2] for key in have if key.startswith("accelerator_type:")]
    return min((MEMORY_GIB.get(kind, UNKNOWN_GIB) for kind in kinds), default=UNKNOWN_GIB)


def memory_fraction(gpus: float, gpu_gib: float) -> float:
    """The fraction of a GPU that a worker's PyTorch may allocate. It is `gpus` less `CONTEXT_GIB`, at least half."""
    return max(gpus / 2, gpus - CONTEXT_GIB / gpu_gib)


def describe(resources: ResourcesConfig, need: Need) -> str:
    """Say how many trials share a GPU, where there is one."""
    given = resources.gpus_per_worker
    if given != "auto":
        return f"{given:g} per worker, as given ({need})"
    if resources.workers > 1:
        return "one per worker: workers of one trial never share one"
    big, small = (sharers(need, MEMORY_GIB[kind]) for kind in ("H100", "L4"))
    if big == small == 1:
        return f"where there are any, each trial has one to itself ({need})"
    return f"where there are any, up to {big} trials share one of 80 GB, {small} one of 24 GB ({need})"
