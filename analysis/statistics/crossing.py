"""At which length one arm becomes faster than another, from repeated measurements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

DRAWS, SEED = 2000, 0

Runs = Mapping[int, Sequence[float]]  # tokens per second of each repeated run, by length


@dataclass(frozen=True)
class Crossing:
    """The length at which two arms are equally fast."""

    a: str
    b: str
    length: float | None  # None: they do not cross at the lengths measured
    low: float | None
    high: float | None
    share: float  # of the resamples in which they cross
    faster: str | None  # at the greatest length; None: neither


def crossing(a: str, b: str, left: Runs, right: Runs) -> Crossing | None:
    """The greatest length at which the runs' medians change order, interpolated on log-log axes.

    The interval is the percentile bootstrap over the repeated runs at each length (DRAWS resamples, seeded), of those
    resamples in which the two cross, if at least half do. None: fewer than two lengths in common.
    """
    lengths = sorted(set(left) & set(right))
    if len(lengths) < 2:
        return None
    rng = np.random.default_rng(SEED)
    logs = np.log([float(n) for n in lengths])
    gaps = np.zeros((DRAWS, len(lengths)))
    seen = np.zeros(len(lengths))
    for i, n in enumerate(lengths):
        x, y = np.asarray(left[n], float), np.asarray(right[n], float)
        seen[i] = math.log(np.median(x)) - math.log(np.median(y))
        gaps[:, i] = np.log(_medians(rng, x)) - np.log(_medians(rng, y))
    zeros = [zero for row in gaps if (zero := _zero(logs, row)) is not None]
    length, share = _zero(logs, seen), len(zeros) / DRAWS
    low, high = np.exp(np.percentile(zeros, [2.5, 97.5])) if length is not None and share >= 0.5 else (None, None)
    faster = a if seen[-1] > 0 else b if seen[-1] < 0 else None
    low, high = (None if end is None else float(end) for end in (low, high))
    return Crossing(a, b, None if length is None else math.exp(length), low, high, share, faster)


def every(speeds: Mapping[str, Runs]) -> list[tuple[Crossing, int]]:
    """Every pair's crossing with the number of common lengths; `speeds`: runs by arm."""
    pairs = [(crossing(a, b, speeds[a], speeds[b]), len(set(speeds[a]) & set(speeds[b])))
             for a, b in combinations(speeds, 2)]  # fmt: skip
    return [(each, n) for each, n in pairs if each]


def _medians(rng: np.random.Generator, runs: np.ndarray) -> np.ndarray:
    return np.median(rng.choice(runs, (DRAWS, len(runs))), axis=1)


def _zero(x: np.ndarray, gap: np.ndarray) -> float | None:
    """The last x at which the line through the points is zero, if any."""
    for i in range(len(x) - 1, 0, -1):
        if gap[i] * gap[i - 1] < 0:
            return float(x[i - 1] + (x[i] - x[i - 1]) * gap[i - 1] / (gap[i - 1] - gap[i]))
    return None
