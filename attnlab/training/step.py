"""One optimizer step: forward, backward, clip, update; how it is run on the device it is on.

Small models are launch-bound on a GPU: Python starts some thousand kernels of a few microseconds each, one by one. So
there the parts between the mixers (norms, residuals, MLP) are compiled, and the whole step is captured in a CUDA graph
after `WARMUP` steps and replayed. All kinds compute the same function; the first steps of a captured run are trained
by the same kernels, launched one by one.
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
SPARSE = 0.5  # with targets at fewer positions than this part, the head reads those positions only

logger = logging.getLogger(__name__)


class Feed(NamedTuple):
    """A step's batch as the device gets it, all of static shape but for the number of micro-batches' targets.

    `inputs` int64 [A, b, T], A micro-batches; `targets` int64 [A, N], `positions` int64 [A, N] or None: N is b T and
    the targets stand at every position, or N is smaller and they stand at these flat positions of [b, T].
    `count`: the global batch's targets, on the host or 0-dim on the device.
    """

    inputs: Tensor
    targets: Tensor
    positions: Tensor | None
    count: Tensor

    @property
    def key(self) -> tuple[int, ...]:
        """What a captured graph is fixed to."""
        return tuple(self.targets.shape)


@dataclass
class Step:
    """Runs steps of one trial on one rank.

    Attributes:
        loss_of: (inputs [b, T], targets [N], positions) -> sum of the loss, under DistributedDataParallel if ranked.
        kind: how; falls from `captured` to `compiled` where the graph cannot be captured, and `why` says so.
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
        """Train on `batch` as optimizer step `step` (1-based).

        Returns:
            This rank's part of the global batch's mean loss, 0-dim fp32 on the device: summed over the ranks it is the
            loss. Nothing here waits for the device.
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
        """For the trial's records."""
        return {"step": self.kind} | ({"step_why": self.why} if self.why else {})

    def _feed(self, batch: Batch) -> Feed:
        """To the device, through pinned memory, without waiting for the copy."""
        parts = self.train.grad_accum
        inputs = batch.inputs.reshape(parts, -1, batch.inputs.shape[1])
        targets = batch.targets.reshape(parts, -1)
        count = torch.tensor(float((targets != IGNORE).sum()))
        if self.world > 1:
            count = count.to(self.device)
            dist.all_reduce(count)
        positions = sparse_positions(targets)
        if positions is not None:
            kept = np.take_along_axis(targets, np.maximum(positions, 0), axis=1)
            targets, positions = np.where(positions < 0, IGNORE, kept), np.maximum(positions, 0)
        move = self._move
        return Feed(move(inputs), move(targets), None if positions is None else move(positions), count)

    def _move(self, array: NDArray[np.int64]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def _compute(self, feed: Feed) -> Tensor:
        """The step itself, on whatever stream is current."""
        total = None
        last = len(feed.inputs) - 1
        for i, (x, y) in enumerate(zip(feed.inputs, feed.targets, strict=True)):
            at = None if feed.positions is None else feed.positions[i]
            with nullcontext() if self.world == 1 or i == last else self.loss_of.no_sync():  # gradients travel once
                with self.autocast():
                    loss = self.loss_of(x, y, at) / feed.count
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
        """Run the step on a stream of its own, as autograd and the allocator want it before a capture."""
        current, second = torch.cuda.current_stream(self.device), _second_stream(self.device)
        second.wait_stream(current)
        with torch.cuda.stream(second):
            total = self._compute(feed)
        current.wait_stream(second)
        return total

    def _capture(self, feed: Feed) -> Tensor:
        """Capture the step and run it, or say why it cannot be captured and go on without."""
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()  # what the warm-up left would lie idle next to the graph's own memory
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
    """One stream for all warm-up steps of all trials: cuBLAS keeps 64 MiB per stream on an H100, the allocator too."""
    return torch.cuda.Stream(device)


class _Graph:
    """A captured step: its inputs and its loss stay where they are."""

    def __init__(self, feed: Feed, compute: Callable[[Feed], Tensor], pool: Any):
        device = feed.inputs.device
        self.feed = Feed(*(None if part is None else torch.empty_like(part, device=device) for part in feed))
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
    """Where the targets stand, if that is at few positions (`SPARSE`); else None.

    Args:
        targets: [A, P], -100 where there is none.

    Returns:
        [A, N] ascending flat positions, the same N for all, rounded up to a multiple of 64 so that batches of similar
        number share a shape; -1 fills up.
    """
    there = targets != IGNORE
    most = -(-int(there.sum(1).max()) // 64) * 64
    if most > SPARSE * targets.shape[1]:
        return None
    positions = np.full((len(targets), most), -1, np.int64)
    for row, found in zip(positions, there, strict=True):
        at = np.flatnonzero(found)
        row[: len(at)] = at
    return positions


def choose(wanted: str, device: torch.device, world: int) -> tuple[Kind, str]:
    """`train.step` -> how the step will be run, and why if not as asked or as fast as could be.

    Raises:
        ValueError: what was asked for cannot be had on this device; one line.
    """
    if wanted == "auto":
        if device.type != "cuda":
            return "eager", ""
        if world > 1:
            return "compiled", "not captured: gradients travel between the workers by hooks"
        return "captured", ""
    refuse_step(wanted, device.type, world)
    kinds: Mapping[str, Kind] = {"captured": "captured", "compiled": "compiled", "eager": "eager"}
    return kinds[wanted], ""
