"""A metric knows which of its values are better: nothing has to say so, and nothing may contradict it."""

import pytest
import yaml

from analysis.records.load import load as load_records
from attnlab.config import sweep_file
from attnlab.config.resolved import Plan
from attnlab.config.sweep import Sweep
from attnlab.config.trial import TaskConfig
from attnlab.plan import direction
from attnlab.plan.load import read, resolve
from attnlab.sweep.folder import check_folder
from attnlab.tasks import TASKS, metrics_of, mode_of
from attnlab.util.errors import UserError
from tests.analysis.fake_results import SWEEP, Fake

RECALL = {"task": {"name": "mqar", "seq_len": 32, "vocab_size": 64, "n_pairs": 4, "eval_seq_lens": [64]}}
SPACE = {"space": {"optim.lr": {"loguniform": [1e-3, 1e-1]}}}


def sweep(metric=None, mode=None, section="search", trial=RECALL):
    given = {key: value for key, value in {"metric": metric, "mode": mode}.items() if value}
    return {"name": "s", "trial": trial, "arms": {"a": {}, "b": {}},
            section: {**(SPACE if section == "search" else {}), **given}}  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_every_metric_of_every_task_has_a_direction(name):
    config = TaskConfig(name=name, seq_len=64)
    for metric in metrics_of(config):
        assert mode_of(config, metric) == ("max" if "accuracy" in metric else "min"), metric
    assert mode_of(config, "val_nothing") is None


@pytest.mark.parametrize("section", ["search", "rank"])
@pytest.mark.parametrize(
    ("metric", "mode"),
    [(None, "min"), ("val_loss", "min"), ("val_accuracy", "max"), ("val_accuracy_T64", "max"), ("val_loss_T64", "min")],
)
def test_a_mode_left_out_is_the_metrics_own(section, metric, mode):
    plan = resolve(sweep(metric, section=section))
    assert plan.mode == mode
    tree = yaml.safe_load(sweep_file.dump(plan.sweep))
    assert tree[section]["mode"] == mode, "sweep.yaml names it"
    assert resolve(sweep(metric, mode, section)) == plan


def test_of_speed_more_is_better():
    assert resolve(sweep("tokens_per_s", section="rank")).mode == "max"


@pytest.mark.parametrize("section", ["search", "rank"])
def test_a_mode_that_contradicts_its_metric_is_refused(section):
    with pytest.raises(UserError) as error:
        resolve(sweep("val_accuracy", "min", section))
    (line,) = error.value.problems
    assert line == f"{section}.mode: min, but more of val_accuracy is better; write max, or leave it out"


def test_a_mode_is_needed_where_the_metric_has_none(monkeypatch):
    monkeypatch.setattr(TASKS["mqar"](), "better", {"val_loss": "min"})
    with pytest.raises(UserError, match=r"^search.mode: missing; say whether less \(min\) or more \(max\)"):
        resolve(sweep("val_accuracy"))
    assert resolve(sweep("val_accuracy", "min")).mode == "min"


def test_a_plan_from_python_has_its_metrics_mode_too():
    assert direction.filled(Plan.of(Sweep.model_validate(sweep("val_accuracy")))).mode == "max"


@pytest.fixture
def upside_down(tmp_path):
    """A folder of before that was searched for the highest loss."""
    fake = Fake(tmp_path, {**SWEEP, "search": {**SWEEP["search"], "mode": "max"}})
    for arm in fake.plan.names:
        fake.trial(arm, 3.0)
    return fake.folder


def test_an_old_folder_that_contradicts_its_metric_is_still_read_and_says_so(upside_down):
    assert read(upside_down.sweep_file).mode == "max"
    data = load_records(upside_down.path)
    assert len(data.results) == 3
    assert [line for line in data.problems if "less of val_loss is better" in line]


def test_its_resume_is_refused_and_says_why(upside_down):
    tree = sweep_file.read(upside_down.sweep_file)
    del tree["search"]["mode"]
    with pytest.raises(UserError, match="less of val_loss is better.*it can be reported, not resumed"):
        check_folder(resolve(tree, solve=False), upside_down, True, "results/fake")
