"""One kernel cache per cluster: every process uses what the first tunes and compiles.

    DIR/<GPU>-torch<version>-triton<version>-fla<version>-choices<version>/
        triton/      TRITON_CACHE_DIR: compiled kernels, and what the autotuner chose
        inductor/    TORCHINDUCTOR_CACHE_DIR: the compiled parts between the mixers
        warm/        <digest>.json: the kernels of this key are there; <digest>.lock: held by who makes them

A mixer's first step tunes its kernels for minutes. `KernelCache.ensure` lets one process do that for all: it rehearses
the step under the key's file lock and leaves a marker, for which the others wait.

Triton and Inductor rename files into place, so any number of processes may write to one folder. Triton records absolute
paths, so every node must see DIR under the same path. To start afresh, remove DIR. Inductor unpickles its files and
Triton runs them, hence `attnlab.training.kernel_folder`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from attnlab.config.trial import Trial
from attnlab.kernels.cuda import autotune
from attnlab.training.environment import version_of
from attnlab.training.kernel_folder import VARIABLE, directory, keep_inductor_private, prepare
from attnlab.util import private
from attnlab.util.files import json_digest, write_json
from attnlab.version import __version__

WAIT_S = 1200.0  # at most for another process's rehearsal; KDA took 251 s with Triton's own tuner, four side by side
POLL_S = 0.5

__all__ = ["VARIABLE", "KernelCache", "directory", "prepare", "use"]  # of kernel_folder, beside its own
logger = logging.getLogger(__name__)
_used: KernelCache | None = None  # of this process


def folder_name(gpu: str) -> str:
    """The folder within DIR for a GPU, the installed versions and `CHOICES` of kernels."""
    packages = {"torch": "torch", "triton": "triton", "fla": "flash-linear-attention"}
    versions = (f"{short}{version_of(name) or 'none'}" for short, name in packages.items())
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", "-".join([gpu, *versions, f"choices{autotune.CHOICES}"]))


def use(root: Path, device: str | torch.device) -> KernelCache | None:
    """Make this process keep its kernels under `root` (DIR).

    It sets TRITON_CACHE_DIR and TORCHINDUCTOR_CACHE_DIR, unless the user has, and is to be called before the first
    kernel runs.

    Returns:
        None, with nothing done, on CPU; if `root` cannot be written to or others can, which is logged; and for another
        `root` than the first of this process, because kernels in its memory would not be written there.
    """
    global _used
    device = torch.device(device)
    keep_inductor_private()
    if device.type != "cuda":
        return None
    cache = KernelCache(root.resolve() / folder_name(torch.cuda.get_device_name(device)))
    if _used not in (None, cache):
        logger.warning("kernel cache %s: this process keeps to the one it began with, %s", cache.folder, _used)
        return None
    folders = {"TRITON_CACHE_DIR": cache.folder / "triton", "TORCHINDUCTOR_CACHE_DIR": cache.folder / "inductor"}
    folders = {name: folder for name, folder in folders.items() if _ours(os.environ.get(name), folder)}
    try:
        prepare(root)
        for folder in (cache.folder, *folders.values(), cache.folder / "warm"):
            private.make(folder)
            if not os.access(folder, os.W_OK):
                raise PermissionError(f"{folder} cannot be written to")
    except OSError as error:
        logger.warning("kernel cache %s is not used, and kernels are kept where Triton keeps them: %s", root, error)
        return None
    os.environ.update({name: str(folder) for name, folder in folders.items()})
    _used = cache
    return cache


def _ours(value: str | None, folder: Path) -> bool:
    """Whether a variable is unset, or names such a folder because attnlab set it, in this or a parent process."""
    return value is None or Path(value).parts[-2:] == folder.parts[-2:]


def share_of(trial: Trial, world: int) -> Trial:
    """What one of `world` workers computes of each step, as a trial for one worker."""
    train = trial.train.model_copy(update={"batch_size": trial.train.batch_size // world})
    return trial.model_copy(update={"train": train})


def key_of(trial: Trial, task: Any, kind: str, device: str) -> dict[str, Any]:
    """What the kernels of a one-worker trial depend on, as JSON.

    That leaves out values (seed, rates, lengths of the run) and dropout, for which Inductor only compiles the parts
    between the mixers again, in seconds.

    Args:
        task: the trial's (an `attnlab.tasks.Task`), for its first batch and vocabulary.
        kind: how its step is run; see `attnlab.training.step.choose`.
        device: `cuda` or `cpu`.
    """
    batch, parts = task.batch(0), trial.train.grad_accum
    targets = int((batch.targets >= 0).reshape(parts, -1).sum(1).max())
    precision = trial.train.precision
    model = trial.model.model_dump(mode="json", exclude={"dropout", "tie_embeddings", "n_layers", "mixer"})
    return {
        "model": model | {"mixer": [trial.model.mixer_at(i).model_dump() for i in range(trial.model.n_layers)]},
        "vocab_size": task.vocab_size,
        "micro_batch": [len(batch.inputs) // parts, batch.inputs.shape[1]],
        "eval_seq_lens": [variant.seq_len for variant in task.lengths().values()],
        "targets": -(-targets // 64) * 64,  # as `attnlab.training.step` rounds the head's rows
        "precision": precision if precision != "auto" else "bf16" if device == "cuda" else "fp32",
        "optimizer": trial.optim.name,
        "step": kind,
        "attnlab": __version__,
    }


def mixers_in(key: Mapping[str, Any]) -> str:
    """The names of a key's mixers, each once: `gla + standard`."""
    return " + ".join(dict.fromkeys(mixer["name"] for mixer in key["model"]["mixer"]))


def words(key: Mapping[str, Any]) -> str:
    """A key in words: `gla (d_model 384, 32 x 512, bf16)`."""
    rows, steps = key["micro_batch"]
    return f"{mixers_in(key)} (d_model {key['model']['d_model']}, {rows} x {steps}, {key['precision']})"


@dataclass(frozen=True)
class KernelCache:
    """The folder for one GPU and the installed versions."""

    folder: Path

    def __str__(self) -> str:
        return str(self.folder)

    def marker(self, key: Mapping[str, Any]) -> Path:
        """The file that exists when the kernels of `key` are here."""
        return self.folder / "warm" / f"{json_digest(key, 16)}.json"

    def ensure(self, key: Mapping[str, Any], rehearse: Callable[[], None], wait_s: float = WAIT_S) -> float:
        """Make the kernels of `key` by `rehearse()`, or wait for another process that makes them.

        Returns the seconds it took, 0 when they were there. What `rehearse` raises is raised, and no marker is left.
        """
        marker = self.marker(key)
        if marker.exists():
            return 0.0
        start = time.perf_counter()
        marker.parent.mkdir(parents=True, exist_ok=True)
        with _alone(marker.with_suffix(".lock"), words(key), wait_s):
            if not marker.exists():
                logger.warning("kernels of %s are being tuned, once per cluster; into %s", words(key), self)
                self._make(key, rehearse)
        return time.perf_counter() - start

    def _make(self, key: Mapping[str, Any], rehearse: Callable[[], None]) -> None:
        start = time.perf_counter()
        with untouched_randomness():
            rehearse()
        seconds = round(time.perf_counter() - start, 3)
        record = {"mixer": mixers_in(key), "seconds": seconds, "host": socket.gethostname(), "shapes": key}
        try:
            write_json(self.marker(key), record)
        except OSError as error:  # a full disk: the next process tunes again
            logger.warning("kernels of %s are tuned, but that cannot be noted: %s", words(key), error)
        logger.warning("kernels of %s are tuned, in %.1f s", words(key), seconds)


@contextlib.contextmanager
def _alone(lock_file: Path, what: str, wait_s: float) -> Iterator[None]:
    """Hold the lock, or after `wait_s` go on without.

    To tune kernels twice only costs time. The lock (flock) ends with its process. If a host is gone, an NFSv4 server
    frees its locks after their lease (90 s by default), an NFSv3 server never. Without flock, `filelock` uses a file's
    existence, which a killed process leaves behind. There `wait_s` bounds the wait.
    """
    lock = FileLock(lock_file)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("kernels of %s are being tuned by another process; waiting for it (%s)", what, lock_file)
            lock.acquire(timeout=wait_s, poll_interval=POLL_S)
    except Timeout:
        logger.warning("waited %.0f s in vain for the kernels of %s; tuning them here too", wait_s, what)
    except (OSError, NotImplementedError) as error:
        logger.warning("%s cannot be locked (%s); other processes may tune the same kernels", lock_file, error)
    try:
        yield
    finally:
        if lock.is_locked:
            lock.release()


@contextlib.contextmanager
def untouched_randomness() -> Iterator[None]:
    """Restore every random generator's state afterwards."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
