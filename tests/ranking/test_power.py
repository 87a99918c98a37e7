"""Seeds that tell two arms apart, against simulated sweeps and textbook values."""

import numpy as np
import pytest

from attnlab.ranking import power as power_module
from attnlab.ranking.common_model import PairDifference, compare
from attnlab.ranking.power import POWER, SeedsNeeded, detectable, fewest, power, seeds_for, seeds_to_decide, tails
from attnlab.ranking.quantiles import tukey_quantile


def decided(arms, n, d, sweeps, draw=0):
    """The share of simulated sweeps that tell the first two arms apart, d standard deviations from one another."""
    rng, hits = np.random.default_rng(draw), 0
    for _ in range(sweeps):
        drawn = rng.standard_normal((arms, n))
        drawn[0] += d
        values = {str(arm): dict(enumerate(row)) for arm, row in enumerate(drawn)}
        pair = compare(values, p_values=False).pairs[0]
        hits += pair.low > 0 or pair.high < 0
    return hits / sweeps


@pytest.mark.parametrize("arms, n", [(2, 3), (5, 3)])
def test_at_the_detectable_difference_four_sweeps_in_five_decide(arms, n):
    assert decided(arms, n, detectable(arms, n), sweeps=400) == pytest.approx(POWER, abs=0.06)  # 0.02 by chance


@pytest.mark.slow
@pytest.mark.parametrize("arms, n", [(2, 3), (5, 3), (15, 2), (15, 3), (5, 8)])
def test_at_the_detectable_difference_80_percent_decide(arms, n):
    assert decided(arms, n, detectable(arms, n), sweeps=6000, draw=1) == pytest.approx(POWER, abs=0.03)


def test_single_runs_detect_nothing():
    assert detectable(5, 1) is None and detectable(1, 3) is None


@pytest.mark.parametrize("arms", [2, 4])
def test_the_seeds_for_what_n_seeds_detect_are_n(arms):
    for n in (2, 3, 5):
        assert seeds_for(detectable(arms, n), arms) == n
    assert seeds_for(1e-3, arms) is None


def test_more_arms_need_more_and_more_seeds_less():
    needs = [detectable(arms, 5) for arms in (3, 6, 15)]
    assert needs == sorted(needs)
    assert [detectable(5, n) for n in (2, 3, 8)] == sorted((detectable(5, n) for n in (2, 3, 8)), reverse=True)
    assert power(0.0, 5, 3) == pytest.approx(0.05 / 10, abs=0.01)  # of one pair among ten


def test_tails_are_the_noncentral_ts():
    from scipy import stats

    for freedom, centre in ((4, 1.0), (28, 3.0)):
        low, high = tails(2.0, freedom, centre)
        assert high == pytest.approx(stats.nct.sf(2.0, freedom, centre), abs=2e-4)
        assert low == pytest.approx(stats.nct.cdf(-2.0, freedom, centre), abs=2e-4)


def test_fewest_is_the_first_that_suffices():
    assert fewest(lambda n: 0.1 * n, 100) == 8 and fewest(lambda n: 0.0, 100) is None and fewest(lambda n: 1.0, 9) == 2


def pair(difference, error=0.01, freedom=28.0):
    return PairDifference("a", "b", difference, error, freedom)


def test_seeds_to_decide_carry_the_interval_of_the_effect():
    needed = seeds_to_decide(pair(0.03), arms=5, n=3)
    assert needed.low <= needed.seeds <= needed.high and needed.seeds > 3
    assert str(SeedsNeeded(18, 9, 60)) == "18 [9, 60]"


def test_seeds_to_decide_are_not_said_where_the_effect_may_be_none():
    assert seeds_to_decide(pair(0.01), arms=5, n=3) is None
    assert seeds_to_decide(PairDifference("a", "b", 0.03), arms=5, n=3) is None


@pytest.mark.slow
def test_the_interval_of_the_seeds_needed_holds_the_truth():
    """The true number lies in it at least 93 times in 100, of those sweeps where it is said."""
    rng, arms, n, d = np.random.default_rng(3), 5, 3, 2.5
    truth, inside, said = seeds_for(d, arms), 0, 0
    for _ in range(800):
        drawn = rng.standard_normal((arms, n))
        drawn[0] += d
        found = compare({str(i): dict(enumerate(row)) for i, row in enumerate(drawn)}, p_values=False)
        if needed := seeds_to_decide(found.pairs[0], arms, n):
            said += 1
            inside += needed.low <= truth <= needed.high
    assert said > 300 and inside / said > 0.9


@pytest.mark.parametrize("arms", [2, 15])
def test_the_quantile_that_seeds_are_counted_with_is_scipys(arms):
    for freedom in (power_module.EXACT, power_module.EXACT + 1, 150, 5000):
        assert power_module._quantile(arms, freedom) == pytest.approx(tukey_quantile(arms, freedom), abs=1e-5)
