"""All arms in one model, against scipy, statsmodels and what is known of the design."""

import numpy as np
import pytest
from scipy import stats

from attnlab.ranking.common_model import compare
from attnlab.ranking.design import Design
from attnlab.ranking.quantiles import Dunnett, tukey_quantile


def made(arms, seeds, spread=0.01, step=0.0, by_seed=0.0, draw=0, sds=None):
    """Values of arms a0, a1, ... whose means lie `step` apart."""
    rng = np.random.default_rng(draw)
    shift = by_seed * rng.standard_normal(100)
    sds = sds or [spread] * arms
    return {
        f"a{i}": {seed: 4 + step * i + shift[seed] + sds[i] * rng.standard_normal() for seed in seeds}
        for i in range(arms)
    }


def own_seeds(arms, n, **kwargs):
    """As `made`, and no two arms have a seed in common."""
    return {
        arm: {10 * i + seed: value for seed, value in by_seed.items()}
        for i, (arm, by_seed) in enumerate(made(arms, range(n), **kwargs).items())
    }


def test_without_common_seeds_it_is_scipys_tukey():
    values = own_seeds(4, 5, step=0.01)
    found = compare(values)
    theirs = stats.tukey_hsd(*(list(each.values()) for each in values.values()))
    interval = theirs.confidence_interval(0.95)
    assert found.test == "Tukey, arm"
    for pair in found.pairs:
        i, j = int(pair.a[1:]), int(pair.b[1:])
        assert pair.p == pytest.approx(theirs.pvalue[i, j], rel=1e-6)
        assert (pair.low, pair.high) == pytest.approx((interval.low[i, j], interval.high[i, j]), rel=1e-6)
        assert pair.difference == pytest.approx(theirs.statistic[i, j])


def test_unequal_numbers_of_seeds_are_kramers():
    values = own_seeds(3, 6, step=0.01)
    values["a1"].popitem()
    values["a2"] = dict(list(values["a2"].items())[:3])
    theirs = stats.tukey_hsd(*(list(each.values()) for each in values.values()))
    assert [pair.p for pair in compare(values).pairs] == pytest.approx(
        [theirs.pvalue[0, 1], theirs.pvalue[0, 2], theirs.pvalue[1, 2]], rel=1e-6
    )


def test_without_common_seeds_a_baseline_is_compared_as_scipys_dunnett():
    values = own_seeds(4, 5, step=0.01)
    found = compare(values, "a0")
    rest = [list(values[f"a{i}"].values()) for i in (1, 2, 3)]
    theirs = stats.dunnett(*rest, control=list(values["a0"].values()), rng=np.random.default_rng(0))
    assert found.test == "Dunnett, arm" and [pair.b for pair in found.pairs] == ["a0"] * 3
    assert [pair.p for pair in found.pairs] == pytest.approx(theirs.pvalue.tolist(), abs=5e-3)
    assert [pair.low for pair in found.pairs] == pytest.approx(theirs.confidence_interval().low.tolist(), abs=1e-3)


def test_two_arms_with_the_same_seeds_are_the_paired_t():
    values = made(2, range(4), by_seed=1.0, step=0.02)
    (pair,) = compare(values).pairs
    theirs = stats.ttest_rel(list(values["a0"].values()), list(values["a1"].values()))
    assert pair.p == pytest.approx(theirs.pvalue, rel=1e-6) and pair.freedom == 3
    assert (pair.low, pair.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)), rel=1e-6)
    assert (pair.low_90, pair.high_90) == pytest.approx(tuple(theirs.confidence_interval(0.90)), rel=1e-6)


def test_common_seeds_leave_a_minus_1_times_n_minus_1_degrees_and_their_scatter_out():
    values = made(15, range(3), by_seed=1.0, step=0.1)
    found = compare(values, p_values=False)
    assert found.test == "Tukey, arm + seed" and {pair.freedom for pair in found.pairs} == {14 * 2}
    assert found.std == pytest.approx(0.01, rel=0.3)  # not the seeds' 1.0
    assert found.std**2 == pytest.approx(_two_way(values)["residual"], rel=1e-9)


def _two_way(values):
    """statsmodels' analysis of variance of the same model."""
    import pandas as pd
    from statsmodels.formula.api import ols

    rows = [(arm, seed, value) for arm, by_seed in values.items() for seed, value in by_seed.items()]
    fit = ols("value ~ C(arm) + C(seed)", pd.DataFrame(rows, columns=["arm", "seed", "value"])).fit()
    return {"residual": fit.mse_resid, "freedom": fit.df_resid, "params": fit.params, "cov": fit.cov_params()}


def test_a_run_that_is_missing_is_as_in_statsmodels():
    values = made(4, range(4), by_seed=0.5, step=0.02)
    del values["a1"][2], values["a3"][0]
    theirs = _two_way(values)
    found = {(pair.a, pair.b): pair for pair in compare(values, p_values=False).pairs}
    first = found["a0", "a1"]
    assert first.freedom == theirs["freedom"]
    assert first.difference == pytest.approx(-theirs["params"]["C(arm)[T.a1]"])
    assert first.error == pytest.approx(np.sqrt(theirs["cov"].loc["C(arm)[T.a1]", "C(arm)[T.a1]"]))


def test_seeds_that_tie_some_arms_only_are_left_out_of_the_model():
    values = {"a": {0: 1.0, 1: 1.1}, "b": {0: 2.0, 1: 2.2}, "c": {7: 3.0, 8: 3.1}}
    assert not Design.of(values).by_seed
    assert compare(values, p_values=False).test == "Tukey, arm"


def test_an_arm_with_one_seed_is_in_no_test_and_in_nobodys_family():
    values = {**made(3, range(3), step=0.1), "lone": {0: 4.2}}
    found = {(pair.a, pair.b): pair for pair in compare(values).pairs}
    assert found["a0", "lone"].p is None and found["a0", "lone"].low is None
    assert found["a0", "a1"] == compare({arm: values[arm] for arm in ("a0", "a1", "a2")}).pairs[0]


@pytest.mark.parametrize(
    "values", [{}, {"a": {0: 1.0}}, {"a": {0: 1.0}, "b": {0: 2.0}}, {"a": {0: 1.0, 1: 1.0}, "b": {}}]
)
def test_too_little_is_no_test(values):
    found = compare(values)
    assert found.test.startswith("none") and all(pair.p is None and pair.low is None for pair in found.pairs)


def test_values_that_do_not_scatter_say_nothing_of_chance():
    found = compare({"a": {0: 1.0, 1: 1.0}, "b": {0: 2.0, 1: 2.0}})
    assert found.test == "none: no scatter" and found.pairs[0].p is None and found.pairs[0].difference == -1.0


def test_variances_that_clearly_differ_leave_each_pair_its_own():
    values = made(5, range(8), sds=[0.001] * 4 + [0.1])
    found = compare(values)
    assert found.test == "Sidak, each pair's own scatter"
    quiet, loud = found.pairs[0], found.pairs[-1]
    assert (quiet.high - quiet.low) < 0.1 * (loud.high - loud.low)
    alone = stats.ttest_rel(list(values["a0"].values()), list(values["a1"].values()))
    assert quiet.p == pytest.approx(1 - (1 - alone.pvalue) ** 10)


def test_intervals_of_arms_overlap_where_pairs_are_not_told_apart():
    values = made(6, range(4), step=0.012)
    found = compare(values)
    means = {arm: np.mean(list(by_seed.values())) for arm, by_seed in values.items()}
    for pair in found.pairs:
        apart = abs(means[pair.a] - means[pair.b]) > found.halves[pair.a] + found.halves[pair.b]
        assert apart == (pair.p < 0.05)


def test_quantiles_are_the_tables():
    assert tukey_quantile(3, 10) * np.sqrt(2) == pytest.approx(3.877, abs=2e-3)  # Pearson and Hartley, table 29
    design = Design(("0", "1", "2"), tuple((arm, seed) for arm in range(3) for seed in range(3)), by_seed=True)
    against = Dunnett(design.correlations([(1, 0), (2, 0)]), 10)
    assert against.quantile == pytest.approx(2.57, abs=0.02)  # Dunnett 1964, Biometrics 20, two-sided, 2 treatments


def test_shifting_all_values_or_one_seeds_changes_nothing():
    values = made(4, range(3), step=0.01)
    moved = {arm: {s: v + 7.0 + 3.0 * (s == 1) for s, v in by_seed.items()} for arm, by_seed in values.items()}
    for one, other in zip(compare(values).pairs, compare(moved).pairs, strict=True):
        assert one.p == pytest.approx(other.p, rel=1e-4) and one.error == pytest.approx(other.error, rel=1e-6)
