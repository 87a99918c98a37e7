"""The rule of successive halving, and its judgement of a sweep's reports: without Ray's processes."""

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnlab.config.sweep import AshaConfig
from attnlab.plan.load import resolve
from attnlab.records.results import Job
from attnlab.sweep.search.asha import ArmAsha, Bracket
from tests.sweep.search.test_searcher import sweep_of


def bracket(max_steps=90, mode="min", factor=3.0):
    return Bracket(AshaConfig(grace_steps=10, reduction_factor=factor), max_steps, mode)


def test_rungs_stand_below_the_last_step():
    assert list(bracket().rungs) == [10, 30]
    assert list(bracket(max_steps=91).rungs) == [10, 30, 90]


def test_the_first_to_arrive_goes_on_and_a_worse_second_stops():
    b = bracket()
    assert not b.judge("a", 10, 1.0)
    assert b.judge("b", 10, 2.0)
    assert not b.judge("c", 10, 0.5)


def test_a_trial_is_judged_once_per_rung():
    b = bracket()
    assert not b.judge("a", 10, 1.0)
    assert not b.judge("a", 20, 9.0)
    b.judge("b", 10, 0.1)
    assert not b.judge("a", 10, 9.0)


def test_a_trial_that_passes_several_rungs_is_judged_at_the_highest_alone():
    late = bracket(max_steps=270)  # rungs at 10, 30 and 90
    for trial, value in enumerate((1.0, 0.5, 0.6)):
        late.judge(str(trial), 10, value)
    assert not late.judge("late", 95, 0.8), "the first of its rung, though not among the best of those below"
    assert late.rungs == {10: {"0": 1.0, "1": 0.5, "2": 0.6, "late": 0.8}, 30: {"late": 0.8}, 90: {"late": 0.8}}
    early = bracket()
    early.judge("ahead", 10, 2.0)
    early.judge("ahead", 30, 0.1)
    assert early.judge("best below", 35, 1.0), "the second of its rung, though the best of those below"


def test_larger_is_better_where_the_sweep_says_so():
    b = bracket(mode="max")
    b.judge("a", 10, 0.9)
    assert b.judge("b", 10, 0.1) and b.rungs[10] == {"a": -0.9, "b": -0.1}


def test_a_value_that_is_not_finite_stops_even_the_first():
    for value in (math.nan, math.inf, None):
        assert bracket().judge("a", 10, value)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=60, unique=True), st.sampled_from([2.0, 2.5, 3.0, 4.0]))
def test_the_best_so_far_always_goes_on_and_few_others_do(values, factor):
    b = bracket(factor=factor)
    stopped = [b.judge(str(i), 10, v) for i, v in enumerate(values)]
    for i, value in enumerate(values):
        rank = sum(v < value for v in values[:i])
        assert stopped[i] == (rank >= max(1, math.floor((i + 1) / factor)))
    assert not stopped[values.index(min(values))]


@given(st.permutations(range(12)))
def test_replaying_the_records_rebuilds_the_bracket(order):
    values = {str(i): float(i) for i in range(12)}
    live, again = bracket(), bracket()
    for i in order:
        for step in (10, 20, 30):
            live.judge(str(i), step, values[str(i)] / step)
    for i in order:
        for step in (10, 20, 30):
            again.judge(str(i), step, values[str(i)] / step)
    assert live.rungs == again.rungs


def test_a_bracket_may_hold_fewer_than_its_factor_and_equals_share_a_rank():
    b = bracket(factor=2.0)
    assert [b.judge(name, 10, value) for name, value in (("a", 1.0), ("b", 1.0), ("c", 1.0))] == [False] * 3
    assert b.judge("d", 10, 1.5) and not b.judge("e", 10, 0.5)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_values_that_are_not_finite_count_as_the_worst(mode):
    b = bracket(mode=mode, factor=2.0)
    assert b.judge("a", 10, None) and b.judge("b", 10, math.nan) and b.judge("c", 10, math.inf)
    assert not b.judge("d", 10, 5.0) and not b.judge("e", 10, 5.0), "ahead of all of them"


def jobs_of(plan, arm="a", phase="search"):
    made = [Job.make(arm, n, plan.arm(arm).trial, phase=phase) for n in range(4)]
    return {job.trial_id: job for job in made}


class Tune:
    """A sweep's scheduler, told reports of trials as Tune tells them."""

    def __init__(self, earlier=(), plan=None, search=None):
        search = {"asha": {"grace_steps": 2, "reduction_factor": 2}} if search is None else search
        self.plan, self.marked = plan or sweep_of(search=search), []
        self.asha = ArmAsha(self.plan, lambda trial: trial.job, self.marked.append, earlier)

    def report(self, job, step, value, **row):
        trial = SimpleNamespace(job=job)
        return self.asha.on_trial_result(None, trial, {"step": step, "val_loss": value, **row})


def test_a_trial_among_the_worse_is_marked_and_goes_on_until_it_reads_the_mark():
    tune = Tune()
    one, two, *_ = jobs_of(tune.plan).values()
    assert tune.report(one, 2, 1.0) == tune.report(two, 2, 2.0) == "CONTINUE"
    assert tune.marked == [two.trial_id]
    assert list(tune.asha.brackets) == ["a", "b"] and list(tune.asha.brackets["b"].rungs) == [2, 4]


@pytest.mark.parametrize(
    "how",
    [{"step": 1}, {"step": 8}, {"row": {"state": "completed"}}, {"phase": "confirm"}, {"phase": "noise"}, {"arm": "b"}],
    ids=str,
)
def test_what_is_not_judged(how):
    tune = Tune()
    first = next(iter(jobs_of(tune.plan).values()))
    assert tune.asha.set_search_properties("val_loss", "min")
    tune.report(first, 2, 1.0)
    tune.report(first, 4, 0.9)
    job = list(jobs_of(tune.plan, how.get("arm", "a"), how.get("phase", "search")).values())[1]
    tune.report(job, how.get("step", 2), 2.0, **how.get("row", {}))
    assert tune.marked == []


def test_without_asha_nothing_is_judged():
    ablation = resolve(
        {
            "name": "study",
            "trial": {"train": {"max_steps": 8, "eval_every": 2}},
            "arms": {"a": {}, "b": {"optim": {"lr": 0.1}}},
        }
    )
    for tune in (Tune(search={}), Tune(search={"trials": 2}), Tune(plan=ablation)):
        for value, job in enumerate(jobs_of(tune.plan).values()):
            tune.report(job, 2, float(value))
        assert tune.marked == [] and tune.asha.brackets == {"a": None, "b": None}


def test_earlier_reports_count():
    jobs = jobs_of(Tune().plan)
    one, two, *_ = jobs.values()
    tune = Tune(earlier=[(one, [{"step": 2, "val_loss": 1.0}, {"step": 4, "val_loss": 0.9}])])
    assert tune.asha.brackets["a"].rungs == {2: {one.trial_id: 1.0}, 4: {one.trial_id: 0.9}} and tune.marked == []
    tune.report(two, 4, 2.0)
    assert tune.marked == [two.trial_id]
