"""All arms in one linear model: every pair's difference, its simultaneous interval and its p.

    value of an arm and a seed = arm + seed + error     where seeds tie all arms together
                               = arm + error            else, as where no two arms have a seed in common

    pooled      One variance for all arms, from the residuals. p and intervals of all pairs together are Tukey's (1949,
                Biometrics 5), for unequal numbers Kramer's (1956, Biometrics 12; conservative: Hayter 1984, Ann. Stat.
                12), and against a baseline Dunnett's (1955, JASA 50). Of a arms with the same n seeds each it has
                (a - 1)(n - 1) degrees of freedom.
    own         Where variances clearly differ: each pair's own scatter, by the paired t where both have the same seeds,
                else by Welch's (1947, Biometrika 34), Sidak's correction over all pairs (1967, JASA 62).
    variances   They clearly differ if Bartlett's statistic (1937, Proc. R. Soc. A 160) of the arms' residuals exceeds
                95 % of those of equal variances, simulated for the very design (DRAWS draws, seeded).

Games and Howell (1976, J. Educ. Stat. 1) would take Tukey's quantile with each pair's own scatter. With few seeds that
is far too liberal: of 15 equal arms with 3 seeds each it tells some pair apart in half of all sweeps (simulated, see
docs/comparison.md). So Sidak's is taken. With 2 or 3 seeds no test sees that variances differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np

from attnlab.ranking.design import Design, Floats, Values
from attnlab.ranking.quantiles import SEED, Dunnett, sidak_level, tukey_quantile
from attnlab.ranking.tests import ALPHA

DRAWS = 2000
CLEARLY = 0.05  # level at which variances clearly differ
ROUNDING = 1e-12  # of the values' size: scatter below it is none
TUKEY, DUNNETT, OWN = "Tukey", "Dunnett", "Sidak"  # tests, as `Comparisons.test` begins


@dataclass(frozen=True)
class PairDifference:
    """The value of `a` minus that of `b`. What cannot be known is None.

    `low`, `high` and `p` are simultaneous over all pairs, at 95 %. `low_90` and `high_90` are this pair's alone, for
    two one-sided tests at 5 % (Schuirmann 1987, J. Pharmacokinet. Biopharm. 15).
    """

    a: str
    b: str
    difference: float
    error: float | None = None  # standard error
    freedom: float | None = None  # its degrees of freedom
    low: float | None = None
    high: float | None = None
    p: float | None = None
    low_90: float | None = None
    high_90: float | None = None


@dataclass(frozen=True)
class Comparisons:
    """Every pair of arms with two seeds or more, judged together."""

    test: str
    pairs: tuple[PairDifference, ...]  # in the order of the arms given
    halves: Mapping[str, float]  # of arms' intervals: two arms differ where theirs do not overlap (Hochberg 1976)
    std: float | None  # of the errors, pooled


def compare(values: Values, baseline: str | None = None, p_values: bool = True) -> Comparisons:
    """Compare every two arms, or every other arm with `baseline`, together.

    Arms with fewer than two seeds are in no test: their pairs have a difference alone. `p_values`: False leaves p out,
    which takes scipy 10 ms a pair; the intervals say as much.
    """
    judged = {arm: values[arm] for arm in values if len(values[arm]) > 1}
    known = Comparisons("none: fewer than two arms with two seeds", (), {}, None)
    if len(judged) > 1 and (baseline is None or baseline in judged):
        flat = tuple((arm, tuple(sorted(by_seed.items()))) for arm, by_seed in judged.items())
        known = _judge(flat, baseline, p_values)
    found = {(pair.a, pair.b): pair for pair in known.pairs}
    asked = _pairs([arm for arm in values if values[arm]], baseline)
    pairs = tuple(found.get((a, b)) or PairDifference(a, b, _mean(values[a]) - _mean(values[b])) for a, b in asked)
    return Comparisons(known.test, pairs, known.halves, known.std)


def _pairs(arms: Sequence[str], baseline: str | None) -> list[tuple[str, str]]:
    """All pairs, or each other arm with the baseline."""
    if baseline is None:
        return list(combinations(arms, 2))
    return [(arm, baseline) for arm in arms if arm != baseline and baseline in arms]


@lru_cache(maxsize=16)  # a leaderboard is made again with every trial that ends
def _judge(
    flat: tuple[tuple[str, tuple[tuple[int, float], ...]], ...], baseline: str | None, p_values: bool
) -> Comparisons:
    values = {arm: dict(by_seed) for arm, by_seed in flat}
    return _judge_all(values, Design.of(values), baseline, p_values)


def _judge_all(values: Values, design: Design, baseline: str | None, p_values: bool) -> Comparisons:
    flat = np.array([values[arm][seed] for arm in values for seed in sorted(values[arm])], float)
    squares = design.squares(flat)
    std = math.sqrt(float(squares.sum()) / design.freedom)
    if std <= ROUNDING * max(float(np.abs(flat).max()), 1e-300):
        return Comparisons("none: no scatter", (), {}, None)
    asked, model = _pairs(design.arms, baseline), "arm + seed" if design.by_seed else "arm"
    if variances_differ(design, squares):
        pairs = _by_own_scatter(values, asked)
        return Comparisons(f"{OWN}, each pair's own scatter", pairs, _halves(pairs), std)
    pairs = _by_pooled_scatter(design, flat, std, asked, baseline, p_values)
    return Comparisons(f"{DUNNETT if baseline else TUKEY}, {model}", pairs, {} if baseline else _halves(pairs), std)


def variances_differ(design: Design, squares: Floats) -> bool:
    """Whether the arms' scatter clearly differs, by their sums of squares [arms]."""
    return bool(bartlett(squares) > _bartlett_limit(design))


def bartlett(squares: Floats) -> Floats:
    """Bartlett's statistic but for factors that a design fixes, of sums of squares [..., arms]."""
    tiny = np.finfo(float).tiny
    return np.asarray(np.log(squares.mean(-1) + tiny) - np.log(squares + tiny).mean(-1))


@lru_cache(maxsize=64)
def _bartlett_limit(design: Design) -> float:
    """What equal variances exceed once in 1 / CLEARLY; rounding is no difference."""
    drawn = np.random.default_rng(SEED).standard_normal((DRAWS, len(design.cells)))
    return float(np.quantile(bartlett(design.squares(drawn)), 1 - CLEARLY)) + 1e-6


def _by_pooled_scatter(
    design: Design, flat: Floats, std: float, asked: Sequence[tuple[str, str]], baseline: str | None, p_values: bool
) -> tuple[PairDifference, ...]:
    from scipy import stats

    arms, freedom = design.arms, design.freedom
    fitted = design.inverse @ design.matrix.T @ flat
    places = [(arms.index(a), arms.index(b)) for a, b in asked]
    errors = [std * design.unscaled_error(i, j) for i, j in places]
    gaps = [float(fitted[i] - fitted[j]) for i, j in places]
    narrow = float(stats.t.ppf(1 - ALPHA, freedom))
    ratios = np.abs(gaps) / np.array(errors)
    p: Sequence[float | None] = [None] * len(places)
    if baseline is None:
        wide = tukey_quantile(len(arms), freedom)
        if p_values:
            p = stats.studentized_range.sf(math.sqrt(2) * ratios, len(arms), freedom).clip(0.0, 1.0).tolist()
    else:
        together = Dunnett(design.correlations(places), freedom)
        wide = together.quantile
        if p_values:
            p = [together.p(ratio) for ratio in ratios]
    return tuple(
        _pair(a, b, gap, error, freedom, wide, narrow, each)
        for (a, b), gap, error, each in zip(asked, gaps, errors, p, strict=True)
    )


def _by_own_scatter(values: Values, asked: Sequence[tuple[str, str]]) -> tuple[PairDifference, ...]:
    from scipy import stats

    out, together = [], len(asked)
    for a, b in asked:
        gap, error, freedom = own_scatter(values[a], values[b])
        if error == 0:
            out.append(PairDifference(a, b, gap))
            continue
        p = 2 * float(stats.t.sf(abs(gap) / error, freedom))
        wide = float(stats.t.ppf(1 - sidak_level(together) / 2, freedom))
        narrow = float(stats.t.ppf(1 - ALPHA, freedom))
        corrected = 1.0 if p >= 1 else -math.expm1(together * math.log1p(-p))
        out.append(_pair(a, b, gap, error, freedom, wide, narrow, corrected))
    return tuple(out)


def own_scatter(left: Mapping[int, float], right: Mapping[int, float]) -> tuple[float, float, float]:
    """(difference, standard error, degrees of freedom) of two arms by their own values alone."""
    x, y = (np.array([side[seed] for seed in sorted(side)], float) for side in (left, right))
    if set(left) == set(right):
        gaps = x - y
        return float(gaps.mean()), float(gaps.std(ddof=1)) / math.sqrt(len(gaps)), len(gaps) - 1.0
    of_x, of_y = float(x.var(ddof=1)) / len(x), float(y.var(ddof=1)) / len(y)
    both = of_x + of_y
    freedom = both**2 / (of_x**2 / (len(x) - 1) + of_y**2 / (len(y) - 1)) if both else 1.0
    return float(x.mean() - y.mean()), math.sqrt(both), freedom


def _pair(
    a: str, b: str, gap: float, error: float, freedom: float, wide: float, narrow: float, p: float | None
) -> PairDifference:
    """A pair from its quantiles, in standard errors."""
    ends = gap - wide * error, gap + wide * error
    return PairDifference(a, b, gap, error, float(freedom), *ends, p, gap - narrow * error, gap + narrow * error)


def _halves(pairs: Sequence[PairDifference]) -> dict[str, float]:
    """Half widths of the arms' intervals, of which two add up to their difference's as nearly as can be.

    Hochberg and others 1982 (JASA 77): the mean over an arm's pairs, corrected by the mean over all pairs.
    """
    width = {(p.a, p.b): (p.high - p.low) / 2 for p in pairs if p.low is not None and p.high is not None}
    arms = list(dict.fromkeys(arm for pair in width for arm in pair))
    if len(arms) == 2:
        return dict.fromkeys(arms, sum(width.values()) / 2)
    total = sum(width.values()) / max(1, len(arms) - 1)
    return {arm: (sum(w for pair, w in width.items() if arm in pair) - total) / (len(arms) - 2) for arm in arms}


def _mean(by_seed: Mapping[int, float]) -> float:
    return float(np.mean(list(by_seed.values())))
