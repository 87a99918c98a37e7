"""What a sweep asks for beyond its trials, `sesoi`, `baseline` and `claims`, is checked before anything runs."""

import pytest

from analysis import benchmarks
from analysis.benchmarks import task
from attnlab.config.sweep_file import dump, normal
from attnlab.plan.checks import claims
from attnlab.plan.load import resolve
from attnlab.util.errors import UserError

TREE = {
    "name": "s",
    "trial": {"train": {"max_steps": 8, "eval_every": 2}},
    "arms": {"gla": {"model.mixer": "gla"}, "standard": {"model.mixer": "standard"}, "no gate": {"optim.lr": 0.1}},
}


def plan_of(**keys):
    return resolve(normal({**TREE, **keys}))


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("sesoi", 0, "sesoi: above 0.0, not 0"),
        ("sesoi", -0.01, "sesoi: above 0.0, not -0.01"),
        ("sesoi", "much", "sesoi: a number, not 'much'"),
        ("sesoi", True, "sesoi: a number, not True"),
        ("sesoi", float("nan"), "sesoi: a finite number, not nan"),
        ("baseline", "gal", "baseline: no arm 'gal'; did you mean 'gla'?"),
        ("baseline", ["gla"], "baseline: a text, not ['gla']"),
        ("claims", "gla < standard", "claims: a list, not 'gla < standard'"),
        ("claims", [3], "claims.0: a text, not 3"),
        ("claims", ["gla is best"], "claims: 'gla is best': write ARM < ARM on METRIC by 2%; "),
        ("claims", ["gla < standrd"], "claims: 'gla < standrd': no arm 'standrd'; did you mean 'standard'?"),
        ("claims", ["gla < gla"], "claims: 'gla < gla': it compares an arm with itself; name two"),
        ("claims", ["gla ~ standard"], "claims: 'gla ~ standard': ~ needs a margin: gla ~ standard by 1%"),
        ("claims", ["gla < 3 on val_los"], "claims: 'gla < 3 on val_los': no metric or benchmark 'val_los'; did you"),
        ("claims", ["gla < standard by -1"], "claims: 'gla < standard by -1': by takes a number of at least 0"),
        ("claims", ["gla < 3", "gla < 3"], "claims: 'gla < 3' stands there twice; keep one"),
    ],
)
def test_what_cannot_be_judged_is_one_line_before_anything_runs(key, value, line):
    with pytest.raises(UserError) as error:
        plan_of(**{key: value})
    (said,) = error.value.problems
    assert said.startswith(line)


def test_a_metric_that_only_one_of_two_arms_reports_is_refused():
    arms = {"a": {"task": {"name": "parity", "seq_len": 40}}, "b": {"model.mixer": "standard"}}
    with pytest.raises(UserError, match="no metric or benchmark 'val_bpb'"):
        plan_of(arms=arms, claims=["a < b on val_bpb"])
    assert plan_of(arms=arms, claims=["b < 2 on val_bpb", "a < b on val_loss"])


def test_metrics_and_benchmarks_are_known():
    on = ["val_loss", "train_loss", "tokens_per_s", "lambada", "cloze", "text_x4"]
    plan = plan_of(claims=[f"gla < standard on {metric}" for metric in on] + ['"no gate" > 3 by 2%'])
    assert len(plan.sweep.claims) == len(on) + 1
    assert claims.FACTORS == task.FACTORS
    assert {file.stem for file in claims.BENCHMARKS.glob("[!_]*.py")} == set(benchmarks.BENCHMARKS)


def test_a_sweep_file_keeps_what_is_asked_of_it(tmp_path):
    plan = plan_of(sesoi=0.01, baseline="gla", claims=["gla < standard"])
    (tmp_path / "s.yaml").write_text(dump(plan.sweep))
    from attnlab.plan.load import load

    assert load(tmp_path / "s.yaml").sweep == plan.sweep
    assert load(tmp_path / "s.yaml", ["sesoi=0.02", "claims=[]", "baseline=standard"]).sweep.sesoi == 0.02


def test_only_keeps_the_baseline_and_the_claims_that_still_apply():
    plan = plan_of(baseline="gla", claims=["gla < standard", "gla < 3", '"no gate" > gla'], sesoi=0.01)
    part = plan.only(["gla", "no gate"])
    assert part.sweep.claims == ("gla < 3", '"no gate" > gla') and part.sweep.baseline == "gla"
    alone = plan.only(["standard"])
    assert alone.sweep.claims == () and alone.sweep.baseline is None and alone.sweep.sesoi == 0.01
    assert alone.rejoined(plan.names).sweep == plan.sweep and alone.whole == plan
