"""What every task gives training, evaluation and the report.

A task is one file in this folder with a class `Task(base.Task)`; the file's name is the task's name. The signature of
its `__init__` is its schema: keyword-only, every argument annotated; `**common` stands for its parent's. A file
whose name begins with an underscore is no task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attnlab.config.trial import Mode

IGNORE = -100  # the target of a position that predicts nothing; PyTorch's cross_entropy ignores it by default

Readout = Literal["last"] | None


class Batch(NamedTuple):
    """`inputs` and `targets` [B, T]: position t must predict `targets[b, t]`, -100 for nothing."""

    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]


class Task(ABC):
    """One learning problem; constructing is cheap, `prepare` does the work when needed.

    Args:
        seq_len: T, positions per example; every batch has exactly this many.
        batch_size: B, examples per optimizer step over all workers.
        seed: orders (or draws) the training examples. Validation never depends on it.
    """

    vocab_size: int  # token ids; inputs and targets lie in [0, vocab_size)
    metrics: tuple[str, ...]  # what the evaluation of this task gives
    # which value of a metric is better, by its name before `_T512`; of one that is not here a sweep says its `mode`
    better: Mapping[str, Mode] = MappingProxyType({"val_loss": "min", "val_bpb": "min", "val_accuracy": "max"})
    kind_names: tuple[str, ...] = ()  # of the targets, where they are of several kinds
    readout: Readout = None  # "last": every target is answered out of the last position (`attnlab.models.readout`)
    bytes_per_token: float | None = None  # of the validation split; None where the tokens are no text
    eos_id: int | None = None  # the token that ends a document; None where there are no documents

    def __init__(self, *, seq_len: int, batch_size: int, seed: int):
        self.seq_len, self.batch_size, self.seed = seq_len, batch_size, seed
        self.missing: dict[str, str] = {}  # metrics that the data turn out not to give: name -> why

    def notes(self) -> list[str]:
        """What a user should know of the data, a line each; after `prepare`."""
        return []

    def hashes(self) -> dict[str, str]:
        """Hashes of the files that the data are made of, by what they are; of a text `corpus` and `tokenizer`.

        Nothing is tokenised. Raises ValueError or OSError if the files cannot be read.
        """
        return {}

    def regrouped(self) -> str:
        """How the data are divided now, if versions that recorded no hashes did it in another way; else "".

        Nothing is tokenised. Raises as `hashes`.
        """
        return ""

    def check(self) -> list[str]:
        """What is wrong with the settings' values, one line each; no download, no tokenising."""
        return []

    def prepare(self) -> None:  # noqa: B027 -- a task that computes its examples has nothing to prepare
        """Download, tokenise, fill the cache; everything below calls it when it has to."""

    @abstractmethod
    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The examples of `rank` at optimizer step `step`, [B / world, T].

        Pure in (seed, step, rank, world). The global batch of a step is the same for every world size; rank r gets its
        r-th contiguous part.

        Raises:
            ValueError: `batch_size` is no multiple of `world`.
        """

    @abstractmethod
    def eval_examples(self, limit: int | None = None) -> Batch:
        """The fixed validation examples [N, T]; with `limit`, at most so many, representative of all."""

    def eval_batches(self, batch_size: int, max_batches: int | None = None) -> Iterator[Batch]:
        """The validation examples in a fixed order, every batch of shape [batch_size, T].

        Static shapes let a captured CUDA graph serve every batch, so the last one is filled up with rows whose
        inputs are 0 and whose targets are all -100: whoever averages must count targets, not rows.
        """
        examples = self.eval_examples(None if max_batches is None else max_batches * batch_size)
        for start in range(0, len(examples.inputs), batch_size):
            rows = Batch(*(a[start : start + batch_size] for a in examples))
            if missing := batch_size - len(rows.inputs):
                below = ((0, missing), (0, 0))
                rows = Batch(np.pad(rows.inputs, below), np.pad(rows.targets, below, constant_values=IGNORE))
            yield rows

    def kinds(self, batch: Batch) -> NDArray[np.int64]:
        """The kind of each target of `batch`, as an index into `kind_names`: [B, T].

        It means nothing elsewhere. Each kind k becomes `val_accuracy_<k>`. Called only if there are `kind_names`.
        """
        raise NotImplementedError

    def lengths(self) -> dict[str, Task]:
        """What is evaluated: the ending of the metrics' names -> the task at that length.

        "" is the training length, "_T512" the same task with rows of 512 positions.
        """
        return {"": self}

    def baselines(self) -> dict[str, float]:
        """Scores that take no model, to hold a result against; losses in nats per target."""
        return {}

    def tokenizer_json(self) -> str | None:
        """The text of `tokenizer.json` for an exported model; None where the tokens are no text."""
        return None

    def leakage(self) -> dict[str, Any]:
        """How much of validation occurs in training, JSON-able; empty: not known.

        `attnlab.plan.guards.leakage` reads it. Of text see `tasks.text`, of drawn rows `tasks._generated`.
        """
        return {}

    def describe(self) -> dict[str, Any]:
        """JSON-able facts for the report."""
        return {"seq_len": self.seq_len, "vocab_size": self.vocab_size}

    def _slice(self, rank: int, world: int) -> slice:
        """Rank's part of the global batch."""
        if self.batch_size % world:
            raise ValueError(f"batch_size {self.batch_size} cannot be split evenly over {world} workers")
        rows = self.batch_size // world
        return slice(rank * rows, (rank + 1) * rows)
