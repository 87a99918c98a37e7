"""Every pair of arms under Holm's correction (Holm 1979, Scand. J. Stat. 6)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from statistics import NormalDist
from typing import Any

from attnlab.ranking.power import POWER, fewest
from attnlab.ranking.tests import ALPHA, Comparison, over_items

MOST = 1_000_000  # an n above this decides nothing in practice

Values = Mapping[str, Mapping[Any, float]]  # by arm, then by seed or item


def holm(pairs: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with `p_holm` over those with a p, and `needed` at the strictest level."""
    from statsmodels.stats.multitest import multipletests  # not at the top: it takes a second

    known = [pair.p for pair in pairs if pair.p is not None]
    corrected = iter(multipletests(known, method="holm")[1] if known else ())
    out = [replace(pair, p_holm=float(next(corrected))) if pair.p is not None else pair for pair in pairs]
    return [replace(pair, needed=None if pair.decided else needed(pair, ALPHA / max(1, len(known)))) for pair in out]


def all_over_items(values: Values) -> list[Comparison]:
    """Every pair of arms on the items that both have, corrected together."""
    pairs = []
    for a, b in combinations(values, 2):
        if both := [i for i in values[a] if i in values[b]]:
            pairs.append(over_items(a, b, [values[a][i] for i in both], [values[b][i] for i in both]))
    return holm(pairs)


def needed(pair: Comparison, alpha: float = ALPHA, shift: float = 0.0) -> int | None:
    """The n per arm that finds the difference seen, less `shift`, with POWER at `alpha`.

    It supposes that the difference and the scatter are as seen. None: that cannot be said, or it is beyond MOST.
    McNemar: Connor 1987, Biometrics 43, equation 3. t-tests: the noncentral t, the scatter from the interval's width.
    """
    middle, n = pair.difference.value - shift, pair.difference.n
    low, high = pair.difference.low, pair.difference.high
    if low is None or high is None or middle == 0 or pair.p is None:
        return None
    if pair.share is not None and shift == 0:
        z, gap = NormalDist().inv_cdf(1 - alpha / 2), abs(middle)
        top = z * math.sqrt(pair.share) + NormalDist().inv_cdf(POWER) * math.sqrt(max(0.0, pair.share - gap**2))
        items = (top / gap) ** 2
        return None if items > MOST else max(math.ceil(items), n + 1)
    from scipy import stats

    # half width = t * sd / sqrt(n): turned round for the scatter of one paired difference (Welch: of the difference)
    welch = pair.test == "Welch's t"
    freedom = 2 * (n - 1) if welch else n - 1
    scatter = (high - low) / 2 / stats.t.ppf(1 - ALPHA / 2, freedom) * math.sqrt(n)
    return fewest_pairs(abs(middle) / scatter, alpha, welch)


def fewest_pairs(effect: float, alpha: float, welch: bool) -> int | None:
    """The smallest n that finds |mean| / scatter = `effect` with POWER (noncentral t)."""
    from scipy import stats

    def power(n: int) -> float:
        freedom = 2 * (n - 1) if welch else n - 1
        return float(stats.nct.sf(stats.t.ppf(1 - alpha / 2, freedom), freedom, effect * math.sqrt(n)))

    return fewest(power, MOST)
