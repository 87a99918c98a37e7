"""What synthetic tasks share: drawing rows, holding some out, evaluation at other lengths.

**Held out.** A hash of its inputs puts one row in `HELD_OUT` on the validation side: training draws such rows again,
validation all others, so a validation row never occurs in training, whatever the seed, step or training set. Zeros at
a row's end do not change its hash. Where a task has so few rows that the hash cannot part them (`describe()` then says
`held_out: false`), both sides draw from all of them. Validation rows are distinct, so there may be fewer than `n_eval`.

**Other lengths.** `eval_seq_lens: [512, 1024]` evaluates at these lengths too; every metric appears once more with the
length at its end: `val_loss_T512`, `val_accuracy_T512`, and for a kind of target `val_accuracy_<kind>_T512`.
"""

from __future__ import annotations

import copy
import itertools
import math
from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnlab.data.sampler import EpochOrder
from attnlab.tasks import base
from attnlab.tasks.base import Batch

FRESH, POOL, EVAL, PROBE, HASH = 1, 2, 3, 4, 5  # first words of the seeds: streams that share no generator state
HELD_OUT = 16  # one row in so many is for validation
CHUNK = 4096  # rows drawn at once for a training set
LOOKED_AT = 1 << 22  # training tokens looked at for validation rows
ROUNDS = 500  # of drawing again; (15/16)^500 = 1e-14 of the rows of a task that has enough are then still missing


class Generated(base.Task):
    """A task whose rows are drawn at random; a subclass says how, in `draw`.

    Args:
        n_train: the training set's size, the same set for every seed; None draws fresh rows at every step.
        n_eval: validation rows, at each length; at most, where the task has few.
        eval_seq_lens: lengths to evaluate at besides `seq_len`.
    """

    settings: tuple[str, ...] = ()  # of the task itself, which `describe` lists
    least: Mapping[str, int] = {}  # setting -> its least value
    answers: int = 0  # tokens among which a guess would be uniform; 0: not known

    def __init__(
        self,
        *,
        seq_len: int,
        batch_size: int,
        seed: int,
        n_train: int | None = None,
        n_eval: int = 1024,
        eval_seq_lens: list[int] | None = None,
    ):
        super().__init__(seq_len=seq_len, batch_size=batch_size, seed=seed)
        self.n_train, self.n_eval, self.eval_seq_lens = n_train, n_eval, tuple(eval_seq_lens or ())
        self.train_seq_len = seq_len

    @abstractmethod
    def draw(self, rng: np.random.Generator, n: int, validation: bool) -> Batch:
        """Draw n random rows of `self.seq_len` positions, int64 [n, T] each.

        A task with strings of several lengths draws them as long as possible where `self.other_length`, so that
        `_T512` tells of strings that fill 512 positions.
        """

    def fits(self, seq_len: int) -> str | None:
        """What forbids rows of `seq_len` positions, as `setting: what is right`, or None."""
        return None

    @property
    def other_length(self) -> bool:
        """Whether this is the task at a length other than the training length."""
        return self.seq_len != self.train_seq_len

    @property
    def metrics(self) -> tuple[str, ...]:  # type: ignore[override]
        """Loss, accuracy and accuracy per kind, at each length."""
        names = ("val_loss", "val_accuracy", *(f"val_accuracy_{kind}" for kind in self.kind_names))
        return tuple(name + ending for ending in ("", *(f"_T{n}" for n in self.eval_seq_lens)) for name in names)

    def check(self) -> list[str]:
        """Sizes below 1, and lengths that no row could have."""
        least = {**self.least, "n_eval": 1}
        problems = [f"{k}: at least {n}, not {getattr(self, k)}" for k, n in least.items() if getattr(self, k) < n]
        if self.n_train is not None and self.n_train < 1:
            problems.append(f"n_train: at least 1 (null for fresh examples), not {self.n_train}")
        if problem := self.fits(self.seq_len):
            problems.append(problem)
        for n in self.eval_seq_lens:
            if n == self.seq_len:
                problems.append(f"eval_seq_lens: {n} is seq_len, which val_accuracy tells of")
            elif n < 1 or self.eval_seq_lens.count(n) > 1:
                problems.append(f"eval_seq_lens: distinct lengths of at least 1, not {list(self.eval_seq_lens)}")
                break
            elif not problems and (problem := self.fits(n)):
                problems.append(f"eval_seq_lens: {n} is too short; {problem}")
        return problems

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """Training rows [B / world, T].

        Each rank draws the global batch and keeps its part: the draw costs less than a step, and makes the batch the
        same for every world size.
        """
        share = self._slice(rank, world)
        if self.n_train is None:
            rows = self._side(np.random.default_rng([FRESH, self.seed, step]), self.batch_size, validation=False)
            return Batch(*(a[share] for a in rows))
        index = self._order.take(step * self.batch_size + share.start, share.stop - share.start)
        return Batch(*(a[index].astype(np.int64) for a in self._pool))

    def eval_examples(self, limit: int | None = None) -> Batch:
        """The first `limit` validation rows, all distinct; rows are independent, so any part represents all."""
        return Batch(*(a[:limit] for a in self._validation))

    def lengths(self) -> dict[str, base.Task]:
        """The task at each length it is evaluated at."""
        return {"": self, **self._twins}

    @cached_property
    def _twins(self) -> dict[str, Generated]:
        twins = {}
        for n in self.eval_seq_lens:
            twin = copy.copy(self)
            for cached in ("_validation", "held_out"):  # what was computed for this length
                twin.__dict__.pop(cached, None)
            twin.seq_len = n
            twins[f"_T{n}"] = twin
        return twins

    @cached_property
    def held_out(self) -> bool:
        """Whether validation rows of this length are kept from training.

        They are not where so few rows exist that the hash cannot part them, which 1024 of them show.
        """
        share = self._is_held(self.draw(np.random.default_rng([PROBE]), 1024, False)).mean()
        return bool(1 / 4 < share * HELD_OUT < 4)

    @cached_property
    def _validation(self) -> Batch:
        rows = self._side(np.random.default_rng([EVAL]), self.n_eval, validation=True)
        _, first = np.unique(_hash(rows.inputs), return_index=True)
        return Batch(*(np.ascontiguousarray(a[np.sort(first)]) for a in rows))

    @cached_property
    def _pool(self) -> Batch:
        """The fixed training set, which a seed only orders; int32 to halve its memory."""
        assert self.n_train is not None
        rng = np.random.default_rng([POOL])
        sizes = [min(CHUNK, self.n_train - start) for start in range(0, self.n_train, CHUNK)]
        parts = [self._side(rng, size, validation=False) for size in sizes]
        return Batch(*(np.concatenate([p[i].astype(np.int32) for p in parts]) for i in (0, 1)))

    @cached_property
    def _order(self) -> EpochOrder:
        assert self.n_train is not None
        return EpochOrder(self.n_train, self.seed)

    def _side(self, rng: np.random.Generator, n: int, validation: bool) -> Batch:
        """Draw n rows of the training or the validation side."""
        rows = self.draw(rng, n, validation)
        if not self.held_out:
            return rows
        wrong = np.flatnonzero(self._is_held(rows) != validation)
        for _ in range(ROUNDS):
            if not len(wrong):
                break
            again = self.draw(rng, len(wrong), validation)
            for a, b in zip(rows, again, strict=True):
                a[wrong] = b
            wrong = wrong[self._is_held(again) != validation]
        return Batch(*(np.delete(a, wrong, axis=0) for a in rows)) if len(wrong) else rows

    def _is_held(self, rows: Batch) -> NDArray[np.bool_]:
        """Which rows [n, T] are on the validation side, bool [n]."""
        held: NDArray[np.bool_] = _hash(rows.inputs) % np.uint64(HELD_OUT) == 0
        return held

    def baselines(self) -> dict[str, float]:
        """A uniform guess among the `answers`."""
        return {"chance_accuracy": 1 / self.answers, "chance_loss": math.log(self.answers)} if self.answers else {}

    def leakage(self) -> dict[str, Any]:
        """How much of validation occurs among rows of training.

        Returns:
            `held_out`; `windows`: validation rows at all lengths; `in_training`: the share of them that occur among
            `looked_at` rows of training, all of them where there is a training set of at most so many, else the first.
        """
        validation = np.concatenate([_hash(task.eval_examples().inputs) for task in self.lengths().values()])
        fresh = min(CHUNK, max(256, LOOKED_AT // self.seq_len))
        rows, steps = max(fresh, min(self.n_train or 0, 64 * CHUNK)), itertools.count()
        seen = np.empty(0, np.uint64)
        while len(seen) < rows:
            seen = np.append(seen, _hash(self.batch(next(steps)).inputs))
        counts = {"held_out": self.describe()["held_out"], "windows": len(validation), "looked_at": len(seen)}
        return counts | {"in_training": float(np.isin(validation, seen).mean())}

    def describe(self) -> dict[str, Any]:
        """The settings, and whether validation is held out."""
        return super().describe() | {
            "n_train": self.n_train,
            "n_eval": len(self.eval_examples().inputs),
            "eval_seq_lens": list(self.eval_seq_lens),
            "held_out": all(task.held_out for task in (self, *self._twins.values())),
            **{name: getattr(self, name) for name in self.settings},
        }


def _hash(inputs: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Hash rows of tokens, [n, T] -> [n]: a random linear map modulo 2^64.

    Zeros at a row's end add nothing. Its bits are then mixed by splitmix64's finaliser (Steele, Lea and Flood 2014,
    OOPSLA).
    """
    weights = np.random.default_rng([HASH]).integers(2**64, size=inputs.shape[1], dtype=np.uint64)
    h = inputs.astype(np.uint64) @ weights
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))
