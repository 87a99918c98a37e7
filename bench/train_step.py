"""A training step of every mixer on one GPU, run the ways people run it, side by side in one process.

    python -m bench.train_step gla standard [--d-model 384 --n-layers 6 --n-heads 8 --batch-size 32 --seq-len 512]

* eager: FLA's layers in a decoder as anyone would write it, fused AdamW, bf16 autocast; with attnlab's rotary kernel
  and selective scan, as its layers are;
* hf: FLA's own language model with its fused norms, MLP and linear cross-entropy, where there is one for the mixer;
* compile: torch.compile of the eager model's loss;
* compiled, captured: attnlab's step;
* inner: captured, with what the mixer does between its kernels compiled; attnlab's own where that pays.

All train on the same random tokens with clipping and a schedule. Milliseconds are medians over interleaved rounds; the
ratio is eager's time over the path's. MFU counts 6 floating-point operations per matrix parameter and token (the
mixers' own work beside their projections is not in it) of 989 TFLOP/s (H100 SXM, dense bf16). Memory is what the
process reserved for the path, its graph's included.

With `--together N` as many mixers are made ready at the same time, each in a process of its own, and measured in turn:
while one is measured, the others are stopped, their compilers too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from attnlab.config.trial import ModelConfig, OptimConfig, TrainConfig
from attnlab.kernels.cuda import autotune
from attnlab.models import build_model, check_mixer, fused
from attnlab.optim import make_optimizer
from attnlab.tasks import Batch
from attnlab.training import kernel_cache
from attnlab.training.run import Loss
from attnlab.training.step import Step
from bench.profiling import busy_ms, kernels, require_gpu

PEAK = 989e12
PATHS = ("eager", "hf", "compile", "compiled", "captured", "inner")
READY = "ready"
HF = {  # mixer -> FLA's model_type
    **{name: name for name in ("gla", "retnet", "mamba", "mamba2", "gated_deltanet", "kda", "hgrn", "hgrn2", "rwkv6")},
    **{name: name for name in ("rwkv7", "gsa", "abc", "comba", "lightnet", "gated_deltaproduct", "rodimus", "mla")},
    **{"standard": "transformer", "deltanet": "delta_net", "linear": "linear_attn", "path": "path_attn"},
    **{"forgetting": "forgetting_transformer", "mesa": "mesa_net", "log_linear_mamba2": "log_linear_mamba2"},
}  # fmt: skip
autocast = partial(torch.autocast, "cuda", torch.bfloat16)


def main() -> None:
    args = arguments()
    require_gpu()
    if not args.turn:
        print("mixer              path       ms/step  ratio   tokens/s    MFU   GiB  first step s", flush=True)
    if args.together > 1:
        return Parade(args).run()
    autotune.install()
    if args.kernel_cache:
        kernel_cache.use(args.kernel_cache, "cuda")
    for name in args.mixers:
        try:
            measure(name, args)
        except Exception as error:
            print(f"{name:18} {type(error).__name__}: {' '.join(str(error).split())[:160]}", flush=True)


def measure(name: str, args: argparse.Namespace) -> None:
    """Build each path, then time them in turn."""
    runs: dict[str, Callable[[], Any]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for path in args.paths:
        try:
            runs[path], facts[path] = ready(path, name, args)
        except Absent:
            continue
        except Exception as error:
            print(f"{name:18} {path:9} {type(error).__name__}: {' '.join(str(error).split())[:160]}", flush=True)
    if args.turn:
        print(READY, flush=True)
        sys.stdin.readline()
    times: dict[str, list[float]] = {path: [] for path in runs}
    for _ in range(args.rounds):
        for path, run in runs.items():
            times[path].append(seconds(run, args.steps))
    if args.profile:
        profile(runs[args.paths[-1]])
    for path, taken in times.items():
        ms = statistics.median(taken) * 1e3
        base = statistics.median(times.get("eager", taken)) * 1e3
        rate = args.batch_size * args.seq_len / ms * 1e3
        row = {"mixer": name, "path": path, "ms": ms, "ratio": base / ms, "tokens_per_s": rate, **facts[path]}
        row["mfu"] = 6 * row.pop("matrix_params") * rate / PEAK
        keep = {k: v for k, v in vars(args).items() if k in ("d_model", "n_layers", "n_heads", "batch_size", "seq_len")}
        if args.out:
            with args.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row | keep) + "\n")
        print(
            f"{name:18} {path:9} {ms:8.2f} {row['ratio']:6.2f} {rate:10,.0f} {row['mfu']:6.1%} {row['gib']:5.1f} "
            f"{row['first_s']:6.1f}  {row['kind']}",
            flush=True,
        )


class Parade:
    """Mixers made ready side by side and measured one after another."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.places = threading.Semaphore(args.together)
        self.turn = threading.Lock()
        self.there: set[subprocess.Popen[str]] = set()

    def run(self) -> None:
        threads = [threading.Thread(target=self.one, args=(name,)) for name in self.args.mixers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def one(self, name: str) -> None:
        """A mixer, in its own process."""
        again = [word for word in sys.argv[1:] if word not in self.args.mixers]
        command = [sys.executable, "-m", "bench.train_step", name, *again, "--together", "1", "--turn"]
        with self.places:
            with self.turn:
                child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                self.there.add(child)
            assert child.stdin and child.stdout
            for line in child.stdout:
                if line.strip() == READY:
                    break
                print(line, end="", flush=True)
            with self.turn, self.alone(child):
                with contextlib.suppress(BrokenPipeError):
                    child.stdin.write("go\n")
                    child.stdin.flush()
                for line in child.stdout:
                    print(line, end="", flush=True)
                child.wait()
                self.there.discard(child)

    @contextlib.contextmanager
    def alone(self, child: subprocess.Popen[str]) -> Iterator[None]:
        """The other processes, and theirs, stand still."""
        others = [psutil.Process(other.pid) for other in self.there if other is not child and other.poll() is None]
        everyone = [process for other in others for process in (other, *other.children(recursive=True))]
        for process in everyone:
            with contextlib.suppress(psutil.Error):
                process.suspend()
        try:
            yield
        finally:
            for process in everyone:
                with contextlib.suppress(psutil.Error):
                    process.resume()


def profile(run: Callable[[], Any]) -> None:
    """The kernels of a step by the time they take, and how long the GPU was busy."""
    found = kernels(run)
    print(f"busy {busy_ms(found):.2f} ms/step, {sum(kernel.launches for kernel in found):.0f} kernels")
    for kernel in found[:14]:
        print(f"  {kernel.ms:7.3f} ms {kernel.launches:4.0f} x  {kernel.name[:90]}")


class Absent(Exception):
    """There is no such path for this mixer."""


def ready(path: str, name: str, args: argparse.Namespace) -> tuple[Callable[[], Any], dict[str, Any]]:
    """A path's step, warm, and what it took."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before, start = torch.cuda.memory_reserved(), time.perf_counter()
    torch.manual_seed(0)
    run, model, kind = (hf if path == "hf" else backbone)(path, name, args)
    run()
    torch.cuda.synchronize()
    first = time.perf_counter() - start
    for _ in range(5):
        run()
    torch.cuda.synchronize()
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n)
    gib = (torch.cuda.max_memory_reserved() - before) / 2**30
    return run, {"first_s": first, "gib": gib, "matrix_params": matrices, "kind": kind()}


def backbone(path: str, name: str, args: argparse.Namespace) -> tuple[Callable[[], Any], Any, Callable[[], str]]:
    """Our decoder's step: with our machinery, or as anyone would write it."""
    model = build_model(shape(name, args), args.vocab_size).cuda().train()
    captured = path in ("captured", "inner")
    optimizer = make_optimizer(model, OptimConfig(name=args.optim), 10_000, "cuda", capturable=captured)
    batches = tokens(args)
    if path in ("eager", "compile"):
        model.backbone.fused = as_written()
        loss_of: Any = torch.compile(Loss(model)) if path == "compile" else Loss(model)

        def run() -> None:
            x, y = next(batches)
            with autocast():
                loss = loss_of(torch.from_numpy(x).cuda(), torch.from_numpy(y).cuda()) / y.size
            loss.backward()
            optimizer.clip(1.0)
            optimizer.step()
            optimizer.zero_grad()

        return run, model, lambda: path
    fused.compile_between_kernels(model)
    if path == "inner":
        fused.compile_mixers(block for block in model.backbone.blocks if not block.compiled)
    kind: Any = "captured" if captured else path
    step = Step(Loss(model), optimizer, autocast, torch.device("cuda", 0), TrainConfig(), 1.0, 1, kind)
    counter = iter(range(1, 10_000))
    return lambda: step(next(counter), Batch(*next(batches))), model, lambda: f"{step.kind} {step.why}"[:150]


def shape(name: str, args: argparse.Namespace) -> ModelConfig:
    """With the heads asked for, or the first number near it that the mixer takes."""
    for heads in (args.n_heads, 6, 12, 16, 4):
        model = ModelConfig(d_model=args.d_model, n_layers=args.n_layers, n_heads=heads, mlp=args.mlp, mixer=name)
        if not (problems := check_mixer(model.mixer[0], model)):
            return model
    raise ValueError("; ".join(problems))


def as_written() -> fused.Fused:
    """Without the parts' own rounding: autocast rounds what each matrix reads."""

    def embedding(embed: nn.Embedding, dropout: nn.Module, norm: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor]:
        x = dropout(embed(ids))
        return x, norm(x)

    def residual(block: Any, norm: nn.Module, x: Tensor, mixed: Tensor) -> tuple[Tensor, Tensor]:
        x = block.after(x, mixed)
        return x, norm(x)

    return fused.Fused(embedding, residual, fused.loss)


def hf(path: str, name: str, args: argparse.Namespace) -> tuple[Callable[[], Any], Any, Callable[[], str]]:
    """FLA's own model, with the fused parts that it has."""
    if name not in HF:
        raise Absent
    from transformers import AutoConfig, AutoModelForCausalLM

    tree = {"hidden_size": args.d_model, "num_hidden_layers": args.n_layers, "vocab_size": args.vocab_size}
    tree |= {"num_heads": args.n_heads, "use_cache": False, "fuse_norm": True, "fuse_swiglu": True}
    tree |= {"fuse_linear_cross_entropy": True, "fuse_cross_entropy": False}
    if name in ("gated_deltanet", "comba", "gated_deltaproduct", "kda", "mesa"):
        tree["head_dim"] = args.d_model // args.n_heads
    if name in ("mamba2", "log_linear_mamba2"):
        tree["head_dim"] = 2 * args.d_model // args.n_heads
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(HF[name], **tree)).cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, fused=True)
    batches = tokens(args)

    def run() -> None:
        x, _ = next(batches)
        x = torch.from_numpy(x).cuda()
        with autocast():
            loss = model(input_ids=x, labels=x).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return run, model, lambda: "hf"


def tokens(args: argparse.Namespace) -> Iterator[tuple[Any, Any]]:
    """Random batches, a few of them again and again."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(args.vocab_size, size=(args.batch_size, args.seq_len + 1)) for _ in range(4)]
    while True:
        for row in rows:
            yield row[:, :-1], row[:, 1:]


def seconds(run: Callable[[], Any], steps: int) -> float:
    """Per step."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("mixers", nargs="+")
    parser.add_argument("--paths", nargs="+", default=list(PATHS), choices=PATHS)
    parser.add_argument("--d-model", type=int, default=384)
    parser.add_argument("--n-layers", type=int, default=6)
    parser.add_argument("--n-heads", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--mlp", default="swiglu", choices=("swiglu", "gelu", "none"))
    parser.add_argument("--optim", default="adamw", choices=("adamw", "muon"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--together", type=int, default=1, help="mixers made ready side by side; each holds its memory")
    parser.add_argument("--turn", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--profile", action="store_true", help="the last path's kernels, by time")
    parser.add_argument("--kernel-cache", type=Path, metavar="DIR", help="default: Triton's own")
    parser.add_argument("--out", type=Path, help="append a JSON line per path")
    return parser.parse_args()


if __name__ == "__main__":
    main()
