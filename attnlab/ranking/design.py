"""The design of a comparison: which arm has runs of which seeds, and what can be estimated of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Values = Mapping[str, Mapping[int, float]]  # by arm, then by seed
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Design:
    """Which arm has which seeds: rows of a regression, arms first, then seeds but the first."""

    arms: tuple[str, ...]
    cells: tuple[tuple[int, int], ...]  # (arm, seed) by position, one per value
    by_seed: bool

    @classmethod
    def of(cls, values: Values) -> Design:
        """The model with seeds if it tells every two arms apart and leaves scatter to judge by, else without."""
        arms = tuple(values)
        seeds = sorted({seed for by_seed in values.values() for seed in by_seed})
        cells = tuple((i, seeds.index(seed)) for i, arm in enumerate(arms) for seed in sorted(values[arm]))
        both = cls(arms, cells, by_seed=True)
        return both if both.freedom > 0 and both.ties_all else cls(arms, cells, by_seed=False)

    @cached_property
    def matrix(self) -> Floats:
        """[values, parameters], float64."""
        seeds = 1 + max((seed for _, seed in self.cells), default=0) if self.by_seed else 1
        out = np.zeros((len(self.cells), len(self.arms) + seeds - 1))
        for row, (arm, seed) in enumerate(self.cells):
            out[row, arm] = 1.0
            if self.by_seed and seed:
                out[row, len(self.arms) + seed - 1] = 1.0
        return out

    @cached_property
    def inverse(self) -> Floats:
        """The pseudo-inverse of X'X, by which the parameters' errors go."""
        return np.asarray(np.linalg.pinv(self.matrix.T @ self.matrix, hermitian=True), np.float64)

    @cached_property
    def freedom(self) -> int:
        """Residual degrees of freedom."""
        return len(self.cells) - int(np.linalg.matrix_rank(self.matrix))

    @cached_property
    def ties_all(self) -> bool:
        """Whether the difference of every two arms can be estimated."""
        reachable = self.inverse @ self.matrix.T @ self.matrix
        return all(np.allclose(self.contrast(i, 0) @ reachable, self.contrast(i, 0)) for i in range(len(self.arms)))

    def contrast(self, a: int, b: int) -> Floats:
        """The weights of the parameters in arm `a` minus arm `b`."""
        out = np.zeros(self.matrix.shape[1])
        out[a] += 1.0
        out[b] -= 1.0
        return out

    def unscaled_error(self, a: int, b: int) -> float:
        """The standard error of that difference, in residual standard deviations."""
        contrast = self.contrast(a, b)
        return math.sqrt(float(contrast @ self.inverse @ contrast))

    def correlations(self, pairs: Sequence[tuple[int, int]]) -> Floats:
        """Of the estimates of those differences [pairs, pairs]."""
        contrasts = np.stack([self.contrast(a, b) for a, b in pairs])
        covariance = contrasts @ self.inverse @ contrasts.T
        scale = np.sqrt(np.diag(covariance))
        return np.asarray(covariance / np.outer(scale, scale))

    def residuals(self, values: Floats) -> Floats:
        """What the model leaves of values [..., values]."""
        return values - values @ self.matrix @ self.inverse @ self.matrix.T

    def squares(self, values: Floats) -> Floats:
        """Sums of the residuals' squares by arm [..., arms] of values [..., values]."""
        mine = np.array([[arm == i for i in range(len(self.arms))] for arm, _ in self.cells], float)
        return np.asarray(self.residuals(values) ** 2 @ mine)
