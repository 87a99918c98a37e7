"""By which values a claim is judged: the trials' confirm runs, or a benchmark's items."""

from types import SimpleNamespace

import pytest

from analysis.statistics import claims
from attnlab.ranking.claims import Claim
from attnlab.util.errors import UserError

LAST = {"val_loss": 1.0, "val_accuracy": 0.5, "val_perplexity": 2.0, "note": "text", "val_loss_odd": 3.0, "none": None}


def selection(mode="min", metric="val_loss"):
    arms = [SimpleNamespace(arm=name) for name in ("a", "b")]
    return SimpleNamespace(
        metric=metric, plan=SimpleNamespace(mode=mode, names=["a", "b"]), arms=arms,
        data=SimpleNamespace(results=[{"last": None}, {"last": LAST}]),
        confirm_values=lambda arm, metric: {0: len(metric), 1: ord(arm.arm)},
    )  # fmt: skip


@pytest.fixture
def benchmark(monkeypatch):
    """A scored benchmark `exam`, per item by its logarithm or not."""

    def make(logarithm=False, mode="max"):
        scores = {arm: SimpleNamespace(values={1: 1.0, 2: 0.0}, logarithm=logarithm and arm == "b") for arm in "ab"}
        tables = {"exam": SimpleNamespace(mode=mode, scores=scores)}
        monkeypatch.setattr(
            claims, "benchmarks", lambda sel: SimpleNamespace(by_name=lambda: tables if sel.arms else {})
        )

    make()
    monkeypatch.setattr(claims, "mode_of", lambda plan, metric: {"val_loss_odd": "max"}.get(metric))
    return make


@pytest.mark.parametrize(
    ("metric", "mode", "found"),
    [
        (None, "min", ("val_loss", "min")),
        ("val_loss", "max", ("val_loss", "max")),  # the sweep's own metric has the sweep's direction
        ("val_accuracy", "min", ("val_accuracy", "max")),
        ("val_perplexity", "max", ("val_perplexity", "min")),
        ("val_loss_odd", "min", ("val_loss_odd", "max")),  # as its task says, whatever its name
    ],
)
def test_a_metric_is_judged_over_seeds_in_its_own_direction(benchmark, metric, mode, found):
    evidence = claims.evidence(Claim("a", "<", "b", metric), selection(mode))
    assert (evidence.metric, evidence.mode, evidence.unit) == (*found, "seeds")
    assert evidence.values == {"a": {0: len(found[0]), 1: ord("a")}, "b": {0: len(found[0]), 1: ord("b")}}


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_benchmark_is_judged_on_its_items(benchmark, mode):
    benchmark(mode=mode)
    evidence = claims.evidence(Claim("a", "<", "b", "exam"), selection())
    assert (evidence.metric, evidence.mode, evidence.unit) == ("exam", mode, "items")
    assert evidence.values == {"a": {1: 1.0, 2: 0.0}, "b": {1: 1.0, 2: 0.0}}


@pytest.mark.parametrize("how", [{"margin": 1.0}, {"right": 2.0}])
def test_logarithms_have_neither_a_margin_nor_a_number(benchmark, how):
    claim = Claim(**{"left": "a", "relation": "<", "right": "b", "metric": "exam", **how})
    assert claims.evidence(claim, selection()).metric == "exam"
    benchmark(logarithm=True)
    assert claims.evidence(Claim("a", "<", "b", "exam"), selection()).metric == "exam"
    with pytest.raises(UserError, match="compared by its logarithm"):
        claims.evidence(claim, selection())


@pytest.mark.parametrize("metric", ["note", "none", "val_los"])
def test_what_no_trial_reports_as_a_number_is_no_metric(benchmark, metric):
    with pytest.raises(UserError, match=f"no metric or benchmark {metric}"):
        claims.evidence(Claim("a", "<", "b", metric), selection())
    with pytest.raises(UserError, match="did you mean 'exam'"):
        claims.evidence(Claim("a", "<", "b", "exm"), selection())


def test_arms_that_are_not_there_are_named(benchmark):
    for claim in (Claim("c", "<", "b"), Claim("a", "<", "c")):
        with pytest.raises(UserError, match="no arm c"):
            claims.judge(claim, selection())
    assert claims.judge(Claim("a", "<", 3.0), selection()).claim.right == 3.0
    judged = claims.judge(Claim("a", "<", "b"), selection())
    assert judged.claim == Claim("a", "<", "b") and judged.pair.difference.n == 2
