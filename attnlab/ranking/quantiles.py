"""Quantiles of several comparisons made together: Tukey's, Dunnett's and Sidak's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from attnlab.ranking.design import Floats
from attnlab.ranking.tests import ALPHA

SEED = 0


@dataclass(frozen=True)
class Dunnett:
    """The largest of several |t| with one scatter and these correlations (Dunnett 1955, JASA 50)."""

    correlations: Floats
    freedom: int

    def p(self, ratio: float) -> float:
        """The chance that one of them exceeds `ratio`; to about 1e-3 (Genz 1992, J. Comput. Graph. Stat. 1)."""
        from scipy import stats

        ends = np.full(len(self.correlations), float(ratio))
        inside = stats.multivariate_t(shape=self.correlations, df=self.freedom, allow_singular=True).cdf(
            ends, lower_limit=-ends, maxpts=2000 * len(ends), random_state=np.random.default_rng(SEED)
        )
        return float(np.clip(1 - inside, 0.0, 1.0))

    @cached_property
    def quantile(self) -> float:
        """What their largest exceeds with ALPHA."""
        from scipy import stats
        from scipy.optimize import brentq

        alone = float(stats.t.ppf(1 - ALPHA / 2, self.freedom))
        all_apart = float(stats.t.ppf(1 - sidak_level(len(self.correlations)) / 2, self.freedom))
        return float(brentq(lambda ratio: self.p(ratio) - ALPHA, 0.9 * alone, 1.1 * all_apart, xtol=1e-3))


@lru_cache(maxsize=1024)
def tukey_quantile(arms: int, freedom: float) -> float:
    """Of a difference in standard errors: the studentized range's 95 % quantile over the root of 2."""
    from scipy import stats

    return float(stats.studentized_range.ppf(1 - ALPHA, arms, freedom)) / math.sqrt(2)


def sidak_level(together: int) -> float:
    """The level of each of so many tests at which all of them keep ALPHA."""
    return -math.expm1(math.log1p(-ALPHA) / together)
