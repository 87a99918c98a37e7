"""What is gained when several processes train small models on one GPU, with and without NVIDIA's MPS.

    python -m bench.sharing [--mixers standard gla] [--processes 1 2 4 8] [--seconds 3]

Two sizes: `mqar` (d_model 64, 2 layers, no MLP, vocabulary 8192, 256 x 256 tokens) and `text` (d_model 256, 4 layers,
swiglu, 32 x 256 random tokens). Each process runs attnlab's step (captured on CUDA) from a common start for a fixed
time, batches and their way to the device included. Printed are the tokens per second of all together and of one
(slowest - fastest), and how many times one alone the whole does. The processes are started once per way and wait while
fewer of them run: the time to start and to compile is in no number. Memory: what a process reserved for the step,
beside `attnlab.plan.gpu_packing`'s estimate for the trial.

MPS is a daemon of this user with a folder of its own, started here and ended at the end; the card's settings stay.
About 3 minutes and at most `--limit-s` on a GPU; `--device cpu` runs the same, tiny.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from attnlab.config.trial import Trial
from attnlab.kernels.cuda import autotune
from attnlab.models import build_model
from attnlab.models.fused import compile_between_kernels
from attnlab.optim import make_optimizer
from attnlab.plan import gpu_packing
from attnlab.tasks import Batch, build_task
from attnlab.training.run import Loss
from attnlab.training.step import Step, choose
from bench.profiling import busy_ms, kernels

SIZES: dict[str, dict[str, Any]] = {
    "mqar": {
        "model": {"d_model": 64, "n_layers": 2, "n_heads": 2, "mlp": "none"},
        "task": {"name": "mqar", "seq_len": 256},
        "train": {"batch_size": 256},
    },
    "text": {
        "model": {"d_model": 256, "n_layers": 4, "n_heads": 4},
        "task": {"name": "text", "seq_len": 256},
        "train": {"batch_size": 32},
    },
}
VOCABULARY, TINY_VOCABULARY = 8192, 64
BURST = 10  # steps between two waits for the device
WARM = 8  # steps before the first measurement: more than are run before a capture


def main() -> None:
    args = arguments()
    args.end = time.monotonic() + args.limit_s
    alone: dict[tuple[str, str], float] = {}
    print("mixer     size  MPS  processes   tokens/s   of each               together : alone", flush=True)
    for mps in (False, True) if args.device == "cuda" else (False,):
        try:
            with daemon() if mps else contextlib.nullcontext(), fleet(args) as members:
                if mps and not served():
                    raise NoMps("its daemon runs, but serves nobody")
                rounds(members, args, mps, alone)
        except NoMps as error:
            print(f"no MPS here: {error}")
        except (TimeoutError, EOFError, RuntimeError) as error:
            print(f"stopped{' with MPS' if mps else ''}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")


class NoMps(Exception):
    """Why it cannot be had, on one line."""


Member = tuple[Any, Connection]  # a process, and the line to it


def rounds(members: list[Member], args: argparse.Namespace, mps: bool, alone: dict[tuple[str, str], float]) -> None:
    """Every size with every number of processes, `args.rounds` times, and its line."""
    for mixer in args.mixers:
        for size in args.sizes:
            seen: dict[int, list[list[float]]] = {n: [] for n in args.processes}
            for _ in range(args.rounds):
                for n in args.processes:
                    seen[n].append(together([line for _, line in members[:n]], f"{mixer} {size}", args))
            for n, rates in seen.items():
                whole = statistics.mean(map(sum, rates))
                base = alone.setdefault((mixer, size), whole)  # the first: without MPS, the fewest processes
                each = [rate for once in rates for rate in once]
                print(
                    f"{mixer:9} {size:5} {'yes' if mps else 'no':4} {n:9} {whole:11,.0f}   "
                    f"{min(each):9,.0f} - {max(each):9,.0f} {whole / base:11.2f}",
                    flush=True,
                )


def together(lines: list[Connection], key: str, args: argparse.Namespace) -> list[float]:
    """Tokens per second of each of some processes that start at the same time."""
    start = time.time() + 0.2
    for line in lines:
        line.send((key, start, args.seconds))
    return [answer(line, args, args.seconds + 60) for line in lines]


def answer(line: Connection, args: argparse.Namespace, patience_s: float) -> Any:
    """What a process says next.

    Raises:
        TimeoutError: it says nothing.
        RuntimeError: it failed.
    """
    if not line.poll(max(0.0, min(patience_s, args.end - time.monotonic()))):
        raise TimeoutError("no answer in time")
    said = line.recv()
    if isinstance(said, str):
        raise RuntimeError(said)
    return said


@contextlib.contextmanager
def fleet(args: argparse.Namespace) -> Iterator[list[Member]]:
    """As many processes as are ever needed, warm; the first starts alone and leaves the others its compiled kernels."""
    spawn = multiprocessing.get_context("spawn")
    members: list[Member] = []

    def start() -> None:
        mine, theirs = spawn.Pipe()
        given = (theirs, args.device, args.mixers, args.sizes, args.profile and not members)
        process = spawn.Process(target=member, args=given, daemon=True)
        process.start()
        theirs.close()  # so that a process that died is an EOFError
        members.append((process, mine))

    try:
        start()
        facts = answer(members[0][1], args, args.limit_s)
        for _ in range(max(args.processes) - 1):
            start()
        for _, line in members[1:]:
            answer(line, args, args.limit_s)
        for line in facts:
            print(line, flush=True)
        yield members
    finally:
        for process, line in members:
            line.close()  # ends its loop
            process.join(20)
            if process.is_alive():
                process.kill()


def member(line: Connection, device_name: str, mixers: list[str], sizes: list[str], profile: bool) -> None:
    """A process: build everything, then run what is asked for until the line closes."""
    torch.set_num_threads(1)
    device = torch.device(device_name, 0) if device_name == "cuda" else torch.device(device_name)
    runs: dict[str, tuple[Callable[[], Any], int]] = {}
    facts: list[str] = []
    try:
        for mixer in mixers:
            for size in sizes:
                runs[f"{mixer} {size}"], fact = ready(trial_of(size, mixer, device), device)
                facts.append(f"{mixer:9} {size:5} {fact}")
                if profile and device.type == "cuda":
                    facts += profiled(runs[f"{mixer} {size}"][0])
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
            beside = (total - free - torch.cuda.memory_reserved(device)) / 2**30
            facts.append(f"a process takes {beside:.2f} GiB beside that (estimate {gpu_packing.CONTEXT_GIB})")
        line.send(facts)
        while True:
            key, start, seconds = line.recv()
            line.send(rate(*runs[key], device, start, seconds))
    except (EOFError, OSError):  # nobody listens any more
        return
    except Exception as error:
        line.send(f"{type(error).__name__}: {error}")


def trial_of(size: str, mixer: str, device: torch.device) -> Trial:
    """The size as named above; on a CPU a small part of its batch."""
    tree = SIZES[size]
    small = {"train": {"batch_size": 2}} if device.type == "cpu" else {}
    return Trial.model_validate({**tree, **small, "model": {**tree["model"], "mixer": mixer}})


def ready(trial: Trial, device: torch.device) -> tuple[tuple[Callable[[], Any], int], str]:
    """A trial's step, warm, with its tokens, and a line on its memory."""
    cuda = device.type == "cuda"
    if cuda:
        autotune.install()
        torch.cuda.init()  # its allocator knows no device before
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_reserved(device) if cuda else 0
    vocabulary = VOCABULARY if cuda else TINY_VOCABULARY
    torch.manual_seed(0)
    model = build_model(trial.model, vocabulary).to(device).train()
    kind, why = choose("auto", device, 1)
    if cuda:
        compile_between_kernels(model)
    optimizer = make_optimizer(model, trial.optim, 1_000_000, device, capturable=cuda)
    autocast = partial(torch.autocast, "cuda", torch.bfloat16) if cuda else contextlib.nullcontext
    step = Step(Loss(model), optimizer, autocast, device, trial.train, trial.optim.clip, 1, kind, why)
    batches = batches_of(trial, vocabulary)
    counter = iter(range(1, 1_000_000))

    def run() -> None:
        step(next(counter), next(batches))

    for _ in range(WARM if cuda else 1):
        run()
    wait(device)
    estimate = gpu_packing.need(trial, vocabulary, 8 / 256 if trial.task.name == "mqar" else 1.0)
    said = f"step {step.kind} {step.why}".strip()
    if cuda:
        reserved = (torch.cuda.max_memory_reserved(device) - before) / 2**30
        n = gpu_packing.sharers(estimate, torch.cuda.get_device_properties(device).total_memory / 2**30)
        said += f"; {reserved:.2f} GiB reserved (estimate {estimate.gib:.2f}); the rule lets {n} share"
    return (run, trial.tokens_per_step), said


def profiled(run: Callable[[], Any]) -> list[str]:
    """What the GPU does in a step of a process that has it alone."""
    found = kernels(run, 20)
    lines = [f"  the GPU is busy for {busy_ms(found):.3f} ms of a step, {sum(k.launches for k in found):.0f} launches"]
    return lines + [f"  {kernel.ms:7.3f} ms {kernel.launches:4.0f} x  {kernel.name[:90]}" for kernel in found[:8]]


def batches_of(trial: Trial, vocabulary: int) -> Iterator[Batch]:
    """MQAR's own, fresh ones at every step; for text a few random ones again and again."""
    size, length = trial.train.batch_size, trial.task.seq_len
    if trial.task.name == "mqar":
        task = build_task(
            trial.task.model_copy(update={"vocab_size": vocabulary, "n_pairs": 8}), batch_size=size, seed=os.getpid()
        )
        step = 0
        while True:
            yield task.batch(step)
            step += 1
    rows = np.random.default_rng(0).integers(vocabulary, size=(4, size, length + 1))
    while True:
        for row in rows:
            yield Batch(row[:, :-1], row[:, 1:])


def rate(run: Callable[[], Any], tokens: int, device: torch.device, start: float, seconds: float) -> float:
    """Tokens per second from `start` (Unix time) on."""
    while time.time() < start:
        time.sleep(1e-4)
    steps = 0
    while time.time() < start + seconds:
        for _ in range(BURST if device.type == "cuda" else 1):
            run()
            steps += 1
        wait(device)
    return steps * tokens / (time.time() - start)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def daemon() -> Iterator[None]:
    """MPS, for the processes started inside.

    Raises:
        NoMps: it is not installed, or does not start.
    """
    if not shutil.which("nvidia-cuda-mps-control"):
        raise NoMps("nvidia-cuda-mps-control is not installed")
    folder = tempfile.mkdtemp(prefix="mps-")  # short: sockets' paths are at most 107 characters
    names = {"CUDA_MPS_PIPE_DIRECTORY": f"{folder}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log"}
    before = {name: os.environ.get(name) for name in names}
    for path in names.values():
        os.mkdir(path)
    os.environ |= names
    try:
        done = control(["-d"])
        if done is None or done.returncode:
            raise NoMps(" ".join((done.stdout + done.stderr).split())[:200] if done else "its daemon does not answer")
        try:
            yield
        finally:
            control([], "quit\n")
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        shutil.rmtree(folder, ignore_errors=True)


def control(options: list[str], say: str = "") -> subprocess.CompletedProcess[str] | None:
    """Run its control program; None if it does not answer."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as heard:  # the daemon would inherit a pipe and hold it open
        try:
            done = subprocess.run(
                ["nvidia-cuda-mps-control", *options], input=say, stdout=heard, stderr=heard, text=True, timeout=15
            )
        except (subprocess.TimeoutExpired, OSError):
            return None
        heard.seek(0)
        return subprocess.CompletedProcess(done.args, done.returncode, heard.read(), "")


def served() -> bool:
    """Whether MPS has a server, which it starts for its first client."""
    done = control([], "get_server_list\n")
    return bool(done and done.stdout.strip())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cuda", "cpu"))
    parser.add_argument("--mixers", nargs="+", default=["standard", "gla"])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--processes", nargs="+", type=int, help="default: 1 2 4 8; on a CPU 1 2")
    parser.add_argument("--seconds", type=float, help="of each measurement; default: 3; on a CPU 1")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="the kernels of a step, in a process that is alone")
    parser.add_argument("--limit-s", type=float, default=420.0, help="of everything; then what is missing is left out")
    args = parser.parse_args()
    cpu = args.device == "cpu"
    args.processes = sorted(args.processes or ((1, 2) if cpu else (1, 2, 4, 8)))
    args.seconds = args.seconds or (1.0 if cpu else 3.0)
    return args


if __name__ == "__main__":
    main()
