"""One measurement: a workload of one model at one length, timed, with its memory.

On CUDA the memory is what PyTorch's allocator reserved at most in the timed runs. On a CPU nothing counts it, so each
measurement runs in a process of its own (`analysis.efficiency.isolated`). There it is the peak resident set
(`getrusage`) less the resident set before the model was built. That holds weights, gradients, optimizer state,
activations, buffers and what the C allocator keeps of freed memory, but neither Python nor the libraries.
"""

from __future__ import annotations

import gc
import resource
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from analysis.efficiency.peaks import peak_of
from attnlab.config.trial import TrainConfig, Trial
from attnlab.models import assemble
from attnlab.models.cost.flops import flops_per_token
from attnlab.models.fused import compile_between_kernels
from attnlab.optim import make_optimizer
from attnlab.tasks import Batch
from attnlab.training.run import Loss
from attnlab.training.step import Step, choose
from attnlab.util.errors import UserError
from attnlab.util.text import one_line

REPEATS, WARM = 5, {"cuda": 5, "cpu": 1}  # CUDA: attnlab's step captures after its third
DECODED = 8  # tokens a run of decoding makes
DECODE_BATCH = {"cuda": 8, "cpu": 1}


@dataclass(frozen=True)
class Case:
    """What is measured."""

    trial: Trial
    vocab: int
    batch: int
    length: int
    device: str  # cpu or cuda
    dtype: str  # float32 or bfloat16, of the autocast
    threads: int  # of the CPU


def run(case: Case, workload: str) -> dict[str, Any]:
    """Measure one workload (a key of `analysis.efficiency.results.WORKLOADS`).

    Returns:
        `runs`, `tokens_per_s`, `peak_bytes`, and `took_s`, the seconds of all runs but the first; `mfu` for `train`,
        `cache_bytes` for `decode`; or `error`, one line.
    """
    try:
        if case.device == "cpu":
            _settle(case)
        return {"train": _train, "prefill": _prefill, "decode": _decode}[workload](case, Memory(case.device))
    except UserError as error:
        return {"error": one_line(error)}
    except Exception as error:  # of a mixer's author or of CUDA: reported, and the rest goes on
        line = one_line(f"{type(error).__name__}: {error}")[:200]
        return {"error": "out of memory" if isinstance(error, torch.OutOfMemoryError) else line}
    finally:
        gc.collect()
        if case.device == "cuda":
            torch.cuda.empty_cache()


def _settle(case: Case) -> None:
    """Make the libraries' first allocations, which the model does not count for."""
    torch.set_num_threads(case.threads)
    (torch.ones(256, 256) @ torch.ones(256, 256)).sum()
    _model(case)


class Memory:
    """Peak memory from here on."""

    def __init__(self, device: str):
        self.device = device
        self.before = resident() if device == "cpu" else 0

    def warm(self) -> None:
        """Forget, on CUDA, what warming up took; a CPU's peak cannot be reset."""
        if self.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        """Bytes at most."""
        if self.device == "cuda":
            return torch.cuda.max_memory_reserved()
        return max(0, _peak_resident() - self.before)


def resident() -> int:
    """Bytes of this process in memory now, or at most so far without /proc."""
    try:
        with open("/proc/self/statm", encoding="utf-8") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return _peak_resident()


def _peak_resident() -> int:
    """Bytes of this process in memory at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _train(case: Case, memory: Memory) -> dict[str, Any]:
    """Take optimizer steps on random tokens, as a trial does: captured on CUDA."""
    model, device = _model(case).train(), torch.device(case.device)
    kind, _ = choose("auto", device, 1)
    if device.type == "cuda":
        compile_between_kernels(model)
    optimizer = make_optimizer(model, case.trial.optim, 1000, device.type, capturable=kind == "captured")
    train = TrainConfig(batch_size=case.batch, grad_accum=1)
    step = Step(Loss(model), optimizer, partial(_autocast, case), device, train, case.trial.optim.clip, 1, kind)
    draw = np.random.default_rng(0).integers(case.vocab, size=(case.batch, case.length + 1))
    data, counter = Batch(draw[:, :-1], draw[:, 1:]), iter(range(1, 1000))
    measured = _timed(case, lambda: step(next(counter), data), case.batch * case.length, memory)
    peak = peak_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    per_token = flops_per_token(case.trial.model, case.length, case.vocab) if peak else None
    return measured | {"mfu": per_token * measured["tokens_per_s"] / peak if peak and per_token else None}


def _prefill(case: Case, memory: Memory) -> dict[str, Any]:
    """Read a prompt, with the logits of its last position."""
    model = _model(case).eval()
    prompt = _tokens(case, case.batch, case.length)
    with torch.inference_mode(), _autocast(case):
        return _timed(case, lambda: model.head(model.backbone.hidden(prompt)[:, -1]), case.batch * case.length, memory)


def _decode(case: Case, memory: Memory) -> dict[str, Any]:
    """Decode after a prompt of that length, which a CPU's memory figure includes."""
    model, rows = _model(case).eval(), DECODE_BATCH[case.device]
    if not model.backbone.cached:
        return {"error": "a mixer of this model keeps no state, so each token reads the whole text"}
    with torch.inference_mode(), _autocast(case):
        cache = model.backbone(_tokens(case, rows, case.length), use_cache=True).past_key_values
        size, new = tensor_bytes(cache) // rows, _tokens(case, rows, 1)

        def decode() -> None:
            for _ in range(DECODED):
                model.head(model.backbone(new, past_key_values=cache, use_cache=True).last_hidden_state[:, -1])

        return _timed(case, decode, rows * DECODED, memory) | {"cache_bytes": size}


def _model(case: Case) -> Any:
    torch.manual_seed(0)
    return assemble(case.trial.model, case.vocab).to(case.device)


def _tokens(case: Case, rows: int, columns: int) -> torch.Tensor:
    return torch.randint(case.vocab, (rows, columns), generator=torch.Generator().manual_seed(0)).to(case.device)


def _autocast(case: Case) -> AbstractContextManager[Any]:
    """As in training."""
    half = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(case.dtype)
    return torch.autocast(case.device, half) if half else nullcontext()


def _timed(case: Case, run: Callable[[], Any], tokens: int, memory: Memory) -> dict[str, Any]:
    """Tokens per second of REPEATS runs after WARM ones, and the memory at most."""

    def wait() -> None:
        if case.device == "cuda":
            torch.cuda.synchronize()

    run()
    wait()
    begin = time.perf_counter()
    for _ in range(WARM[case.device] - 1):
        run()
    memory.warm()
    rates = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        wait()
        rates.append(tokens / (time.perf_counter() - start))
    figures = {"runs": rates, "tokens_per_s": statistics.median(rates), "peak_bytes": memory.peak()}
    return figures | {"took_s": time.perf_counter() - begin}


def tensor_bytes(value: Any, seen: set[int] | None = None) -> int:
    """Bytes of all tensors that a cache holds, each once."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if not isinstance(value, (dict, list, tuple)):
        value = getattr(value, "__dict__", {})
    return sum(tensor_bytes(v, seen) for v in (value.values() if isinstance(value, dict) else value))
