"""Modular arithmetic: what is the expression's value modulo m? With or without brackets.

Grazzi et al. 2024, "Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues" (arXiv 2411.12537), section
5.1, with and without brackets, modulo 5, trained on up to 40 tokens and tested on longer ones; the grammar is that of
Deletang et al. 2023, "Neural Networks and the Chomsky Hierarchy" (arXiv 2207.02098). With `modulus=5, seq_len=8`:

                2    +    3    *    4    =
    inputs      3    6    4    8    5   11    0    0
    targets  -100 -100 -100 -100 -100    5 -100 -100

0 is padding, 1 to m are the numbers 0 to m - 1; then come + - * ( ) and =, at which the value, 4 here, is to be told.
* goes before + and -. With brackets, ((-2)*(3+(4))) say, every operation has its pair. At another length T the
expressions are as long as fit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attnlab.tasks._generated import Generated
from attnlab.tasks.base import IGNORE, Batch
from attnlab.util.text import quoted

Ints = NDArray[np.int64]
PAD, ZERO = 0, 1
OPERATORS = "+-*"
SYMBOLS = "+-*()="  # their ids follow the numbers'


class Task(Generated):
    """Modular arithmetic.

    Args:
        modulus: m.
        brackets: nested and fully bracketed, instead of a flat sum of products.
        operators: those of + - * that occur; each is as likely.
        min_length: tokens of a training expression before its =, at least; `seq_len` - 1 is the most.
    """

    settings = ("modulus", "brackets", "operators", "min_length")
    least = {"modulus": 2, "min_length": 1}

    def __init__(
        self,
        *,
        modulus: int = 5,
        brackets: bool = False,
        operators: str = OPERATORS,
        min_length: int = 3,
        **common: Any,
    ):
        super().__init__(**common)
        self.modulus, self.brackets, self.operators, self.min_length = modulus, brackets, operators, min_length
        self.answers, self.vocab_size = modulus, ZERO + modulus + len(SYMBOLS)

    def check(self) -> list[str]:
        """Operators that are none, besides the common ones."""
        problems = super().check()
        if not self.operators or set(self.operators) - set(OPERATORS) or len(set(self.operators)) < len(self.operators):
            problems.append(f"operators: some of {OPERATORS}, each once, not {quoted(self.operators)}")
        return problems

    def fits(self, seq_len: int) -> str | None:
        """The shortest expression and its =."""
        least = self.min_length + 1 + (not self.brackets and self.min_length % 2 == 0)
        return f"min_length: {self.min_length} needs seq_len {least}, not {seq_len}" if seq_len < least else None

    def id_of(self, symbol: str) -> int:
        """The token of one of `SYMBOLS`."""
        return ZERO + self.modulus + SYMBOLS.index(symbol)

    def draw(self, rng: np.random.Generator, n: int, validation: bool) -> Batch:
        """Draw n rows."""
        most = self.seq_len - 1
        low = most if self.other_length else self.min_length
        if self.brackets:
            length = rng.integers(low, most + 1, size=n)
            tokens, value = self._nested(rng, length)
        else:  # lengths are odd
            length = 2 * rng.integers((low - self.other_length) // 2, (most - 1) // 2 + 1, size=n) + 1
            tokens, value = self._flat(rng, length)
        rows = np.arange(n)
        inputs, targets = np.full((n, self.seq_len), PAD), np.full((n, self.seq_len), IGNORE)
        inputs[:, :most] = np.where(np.arange(most) < length[:, None], tokens, PAD)
        inputs[rows, length] = self.id_of("=")
        targets[rows, length] = ZERO + value
        return Batch(inputs, targets)

    def _operators(self, rng: np.random.Generator, size: tuple[int, ...]) -> Ints:
        """Places in `OPERATORS`."""
        return np.array([OPERATORS.index(o) for o in self.operators])[rng.integers(len(self.operators), size=size)]

    def _flat(self, rng: np.random.Generator, length: Ints) -> tuple[Ints, Ints]:
        """Draw expressions without brackets: tokens [n, T - 1], `length` of which count; values [n]."""
        n, most = len(length), self.seq_len - 1
        numbers = rng.integers(self.modulus, size=(n, (most + 1) // 2))
        operators = self._operators(rng, (n, most // 2))
        tokens = np.empty((n, most), np.int64)
        tokens[:, ::2], tokens[:, 1::2] = ZERO + numbers, ZERO + self.modulus + operators
        # every prefix's value, a column at a time: the sum of the products that ended, and the product that goes on
        total, product = np.zeros(n, np.int64), numbers[:, 0]
        values = [product]
        for number, operator in zip(numbers[:, 1:].T, operators.T, strict=False):
            times = operator == 2
            total = np.where(times, total, total + product) % self.modulus
            product = np.where(times, product * number, np.where(operator == 1, -number, number)) % self.modulus
            values.append((total + product) % self.modulus)
        return tokens, np.stack(values, axis=1)[np.arange(n), length // 2]

    def _nested(self, rng: np.random.Generator, length: Ints) -> tuple[Ints, Ints]:
        """Draw expressions with brackets, as `_flat`.

        Deletang et al.'s grammar: a span of 1 to 4 tokens is d, -d, (d) or (-d); a longer one is (left o right), split
        anywhere. All rows' spans of one depth are made at once.
        """
        n, most = len(length), self.seq_len - 1
        tokens = np.full(n * most, PAD)
        levels: list[Level] = []
        start, span = np.arange(n) * most, length
        while len(start):
            leaf = span < 5
            first, size = start[leaf], span[leaf]
            number = rng.integers(self.modulus, size=len(first))
            minus, bracket = size % 2 == 0, size > 2
            tokens[first[bracket]], tokens[(first + size - 1)[bracket]] = self.id_of("("), self.id_of(")")
            tokens[(first + bracket)[minus]] = self.id_of("-")
            tokens[first + bracket + minus] = ZERO + number
            first, size = start[~leaf], span[~leaf]
            left = rng.integers(1, np.maximum(size - 3, 2))
            operator = self._operators(rng, (len(first),))
            tokens[first], tokens[first + size - 1] = self.id_of("("), self.id_of(")")
            tokens[first + 1 + left] = ZERO + self.modulus + operator
            levels.append(Level(leaf, np.where(minus, -number, number), operator))
            start, span = np.concatenate([first + 1, first + 2 + left]), np.concatenate([left, size - 3 - left])
        value = np.empty(0, np.int64)
        for level in reversed(levels):  # `value` is of the level below: all left parts, then all right parts
            a, b = np.split(value, 2)
            value = np.empty(len(level.leaf), np.int64)
            value[level.leaf] = level.number % self.modulus
            value[~level.leaf] = np.choose(level.operator, [a + b, a - b, a * b]) % self.modulus
        return tokens.reshape(n, most), value


class Level(NamedTuple):
    """The spans of one depth: which are leaves, the leaves' numbers (signed), the others' operators."""

    leaf: NDArray[np.bool_]
    number: Ints
    operator: Ints
