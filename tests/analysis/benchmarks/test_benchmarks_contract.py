"""What every benchmark must keep to; a new file is tested by being there."""

import dataclasses
import json
import math

import pytest

from analysis.benchmarks import BENCHMARKS, Context
from analysis.benchmarks._harness import Harness
from analysis.scoring.checkpoints import open_model
from analysis.scoring.exam import value_of
from analysis.scoring.scorer import Scorer
from analysis.scoring.targets import Target
from attnlab.records.results import Job
from tests.analysis.small import benchmark

NAMES = sorted(BENCHMARKS)


@pytest.fixture(scope="session")
def target(cache, tiny, exported):
    """A checkpoint as if trained on a page of text."""
    from attnlab.config.trial import Trial

    return Target("arm", "t000", exported("gla"), Job.make("arm", 0, Trial.model_validate(tiny)))


@pytest.fixture(scope="session")
def context(data_dir, tmp_path_factory):
    text = tmp_path_factory.mktemp("text") / "own.txt"
    text.write_text("It was a dark night.\n\n" * 400)
    return Context(data_dir=data_dir, limit=5, text=text)


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    if isinstance(BENCHMARKS[request.param](), Harness):
        pytest.importorskip("lm_eval", reason="needs pip install 'attnlab[eval]'")
    return request.param


@pytest.fixture(scope="module")
def exams(name, context, target):
    found = benchmark(name).exams(context, target)
    assert found, name
    return found


def test_items_are_named_once_and_a_limit_takes_the_first(exams, name, context, target):
    whole = benchmark(name).exams(dataclasses.replace(context, limit=None), target)
    for some, every in zip(exams, whole, strict=True):
        assert some.name == every.name and len(set(every.ids)) == len(every.ids) == every.n_all == some.n_all
        assert set(some.ids) <= set(every.ids)
        assert not every.limited and some.limited == (len(some.ids) < len(every.ids))
        assert some.digest != every.digest or some.ids == every.ids
        assert every.version and every.source
        assert not every.texts or len(every.texts) == len(every.ids)


def test_the_same_exam_has_the_same_digest(exams, name, context, target):
    again = benchmark(name).exams(context, target)
    assert [exam.digest for exam in again] == [exam.digest for exam in exams]
    changed = dataclasses.replace(exams[0], content=["another"])
    assert changed.digest != exams[0].digest


def test_answers_give_every_metric_from_columns_of_one_value_per_item(exams, target):
    scorer = Scorer(*open_model(target.path))
    for exam in exams:
        done = []
        columns = exam.ask(scorer, done.append).columns
        assert sum(done) >= exam.requests * 0.9 and all(len(column) == len(exam.ids) for column in columns.values())
        json.dumps({name: list(column) for name, column in columns.items()})
        for name, metric in exam.metrics.items():
            value = value_of(metric, name, columns)
            assert math.isfinite(value)
            if metric.how == "proportion":
                assert set(columns[metric.column or name]) <= {0, 1} and 0 <= value <= 1 and metric.chance is not None
