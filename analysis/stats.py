"""How sure a difference between two arms is."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import mean, variance

# Student's t, two-sided 95 %, for 1, 2, ... degrees of freedom (NIST/SEMATECH e-Handbook, section 1.3.6.7.2).
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
       2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)  # fmt: skip


def welch(a: Sequence[float], b: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of mean(a) - mean(b) by Welch's t (unequal variances; Welch 1947, Biometrika 34).

    Degrees of freedom are rounded down, which errs on the wide side. None where either side has fewer than two
    values or neither varies: then no interval can be estimated.
    """
    if min(len(a), len(b)) < 2:
        return None
    va, vb = variance(a) / len(a), variance(b) / len(b)
    if va + vb == 0:
        return None
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    half = T95[min(max(int(freedom), 1), len(T95)) - 1] * sqrt(va + vb)
    middle = mean(a) - mean(b)
    return middle - half, middle + half
