"""One optimizer step (forward, backward, clip, update) and how it is run on its device.

Small models are launch-bound on a GPU: Python starts some thousand kernels of a few microseconds each, one by one. So
there the parts between the mixers (norms, residuals, MLP) are compiled, and the whole step is captured in a CUDA graph
after `WARMUP` steps and replayed. All kinds compute the same function.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from attnlab.config.trial import TrainConfig, refuse_step
from attnlab.optim import Optimizer
from attnlab.tasks import IGNORE, Batch
from attnlab.util.text import one_line

Kind = Literal["captured", "compiled", "eager"]
WARMUP = 3  # steps before capture: they tune and compile kernels, and fill the libraries' handles and workspaces
SPARSE = 0.5  # with targets at fewer positions than this share, the head reads those positions only

logger = logging.getLogger(__name__)


class Feed(NamedTuple):
    """A step's batch as the device gets it, of static shape except for N."""

    inputs: Tensor  # int64 [A, b, T], A micro-batches
    targets: Tensor  # int64 [A, N]
    positions: Tensor | None  # int64 [A, N], flat in [b, T]; None: N is b T, a target at every position
    count: Tensor  # 0-dim, the global batch's targets; on the host or the device

    @property
    def key(self) -> tuple[int, ...]:
        """What a captured graph is fixed to."""
        return tuple(self.targets.shape)


@dataclass
class Step:
    """Runs steps of one trial on one rank.

    Attributes:
        loss_of: (inputs [b, T], targets [N], positions) -> sum of the loss, under DistributedDataParallel if ranked.
        kind: how a step is run; `compiled` instead of `captured` if the graph cannot be captured, as `why` says.
    """

    loss_of: nn.Module
    optimizer: Optimizer
    autocast: Callable[[], AbstractContextManager[Any]]
    device: torch.device
    train: TrainConfig
    clip: float | None
    world: int = 1
    kind: Kind = "eager"
    why: str = ""
    _warm: dict[tuple[int, ...], int] = field(default_factory=dict)
    _graphs: dict[tuple[int, ...], _Graph] = field(default_factory=dict)

    def __call__(self, step: int, batch: Batch) -> Tensor:
        """Train on `batch` as optimizer step `step` (1-based), without waiting for the device.

        Returns this rank's share of the global batch's mean loss, 0-dim fp32; the ranks' sum is the loss.
        """
        feed = self._feed(batch)
        self.optimizer.set_lr(step)
        if self.kind != "captured":
            return self._compute(feed)
        if graph := self._graphs.get(feed.key):
            return graph.replay(feed)
        self._warm[feed.key] = self._warm.get(feed.key, 0) + 1
        if self._warm[feed.key] <= WARMUP:
            return self._compute_on_second_stream(feed)
        return self._capture(feed)

    def describe(self) -> dict[str, str]:
        """How the step is run, for the trial's records."""
        return {"step": self.kind} | ({"step_why": self.why} if self.why else {})

    def _feed(self, batch: Batch) -> Feed:
        """Move a batch to the device, through pinned memory, without waiting for the copy."""
        inputs = batch.inputs.reshape(self.train.grad_accum, -1, batch.inputs.shape[1])
        targets = batch.targets.reshape(self.train.grad_accum, -1)
        count = torch.tensor(float((targets != IGNORE).sum()))
        if self.world > 1:
            count = count.to(self.device)
            dist.all_reduce(count)
        positions = sparse_positions(targets)
        if positions is not None:
            fill, positions = positions < 0, np.maximum(positions, 0)
            targets = np.where(fill, IGNORE, np.take_along_axis(targets, positions, axis=1))
        move = self._move
        return Feed(move(inputs), move(targets), None if positions is None else move(positions), count)

    def _move(self, array: NDArray[np.int64]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def _compute(self, feed: Feed) -> Tensor:
        """Run the step itself, on whatever stream is current."""
        total, last = None, len(feed.inputs) - 1
        for i, (x, y) in enumerate(zip(feed.inputs, feed.targets, strict=True)):
            positions = None if feed.positions is None else feed.positions[i]
            with nullcontext() if self.world == 1 or i == last else self.loss_of.no_sync():  # gradients travel once
                with self.autocast():
                    loss = self.loss_of(x, y, positions) / feed.count
                # DistributedDataParallel divides the gradients by `world`
                (loss if self.world == 1 else loss * self.world).backward()
            total = loss.detach() if total is None else total + loss.detach()
        if self.clip:
            self.optimizer.clip(self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        assert total is not None
        return total

    def _compute_on_second_stream(self, feed: Feed) -> Tensor:
        """Run the step on a second stream, as autograd and the allocator require before a capture."""
        current, second = torch.cuda.current_stream(self.device), _second_stream(self.device)
        second.wait_stream(current)
        with torch.cuda.stream(second):
            total = self._compute(feed)
        current.wait_stream(second)
        return total

    def _capture(self, feed: Feed) -> Tensor:
        """Capture the step and run it, or log why it cannot be captured and go on."""
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()  # what the warm-up left would lie idle next to the graph's memory
        pool = next((graph.graph.pool() for graph in self._graphs.values()), None)
        try:
            graph = _Graph(feed, self._compute, pool)
        except Exception as error:
            self.kind, self.why = "compiled", one_line(f"not captured: {type(error).__name__}: {error}")[:300]
            logger.warning("the training step cannot be captured as a CUDA graph, and goes on without: %s", self.why)
            torch.cuda.synchronize(self.device)
            self.optimizer.zero_grad()
            return self._compute(feed)
        self._graphs[feed.key] = graph
        return graph.replay(feed)


@functools.cache
def _second_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all trials' warm-up. cuBLAS keeps 64 MiB per stream on an H100, the allocator too."""
    return torch.cuda.Stream(device)


class _Graph:
    """A captured step, with its inputs and its loss at fixed addresses."""

    def __init__(self, feed: Feed, compute: Callable[[Feed], Tensor], pool: Any):
        device = feed.inputs.device
        self.feed = Feed(*(None if tensor is None else torch.empty_like(tensor, device=device) for tensor in feed))
        self._fill(feed)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool):
            self.loss = compute(self.feed)

    def _fill(self, feed: Feed) -> None:
        for mine, new in zip(self.feed, feed, strict=True):
            if mine is not None:
                mine.copy_(new, non_blocking=True)

    def replay(self, feed: Feed) -> Tensor:
        """Run the captured step on `feed`; the loss is overwritten by the next replay."""
        self._fill(feed)
        self.graph.replay()
        return self.loss


def sparse_positions(targets: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The positions of targets [A, P] (IGNORE: none), if they are few (`SPARSE`); else None.

    Returns [A, N] ascending flat positions, filled up with -1. N is a multiple of 64, so that batches share shapes.
    """
    is_target = targets != IGNORE
    most = -(-int(is_target.sum(1).max()) // 64) * 64
    if most > SPARSE * targets.shape[1]:
        return None
    positions = np.full((len(targets), most), -1, np.int64)
    for row, mask in zip(positions, is_target, strict=True):
        row[: mask.sum()] = np.flatnonzero(mask)
    return positions


def choose(wanted: str, device: torch.device, world: int) -> tuple[Kind, str]:
    """How `train.step` will be run, and why if slower than it could be. Raises ValueError if it cannot be."""
    if wanted == "auto":
        if device.type != "cuda":
            return "eager", ""
        hooks = "not captured: gradients travel between the workers by hooks"
        return ("compiled", hooks) if world > 1 else ("captured", "")
    refuse_step(wanted, device.type, world)
    kinds: Mapping[str, Kind] = {"captured": "captured", "compiled": "compiled", "eager": "eager"}
    return kinds[wanted], ""
