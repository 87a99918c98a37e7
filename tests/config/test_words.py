"""Every number of the schemas has a bound, and whatever a schema refuses is told in plain words."""

import re
from typing import get_args

import pytest
from pydantic import BaseModel, ValidationError
from pydantic_core import core_schema

from attnlab.config.sweep import Sweep
from attnlab.config.trial import MixerConfig, Trial
from attnlab.config.values import kinds_of
from attnlab.config.words import OTHER, WORDS, first
from attnlab.plan.checks.messages import lines
from attnlab.records.results import Job

PYDANTICS = re.compile("Input|should be|valid|Field required|Extra|Value error|permitted|parse|instance|discriminat")
LOOP: list = []
LOOP.append(LOOP)
ODD = [
    None, True, False, 0, 1, -1, 1.5, -1e300, 1e300, 10**30, float("nan"), "", "x", "1e5000", "9" * 5000, "\ud83d",
       b"x", [], [True], [1], [[1]], ["x"], (1,) * 1001, {}, {"x": 1}, {1: 2}, {"name": 3}, LOOP, object(), {1},
]  # fmt: skip
BEYOND_10_18 = (
    "train.seed",
    "search.seed",
    "confirm.seeds",
    "budget.flops",
    "lr",
    "weight_decay",
    "clip",
)  # all of 63 bits are seeds


def schemas(kind, key=""):
    """The schemas of a tree, by the key at which they stand."""
    yield key, kind
    for name, info in kind.model_fields.items():
        for part in kinds_of(info.annotation):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from schemas(part, f"{key}.{name}".strip("."))


FIELDS = {
    f"{key}.{name}".strip("."): (kind, name, info)
    for root in (Sweep, Trial, Job)
    for key, kind in schemas(root)
    for name, info in kind.model_fields.items()
}
NUMBERS = {
    key: row for key, row in FIELDS.items() if {int, float} & set(kinds_of(row[2].annotation)) and row[0] is not Job
}
BOOLEANS = {key: row for key, row in FIELDS.items() if bool in kinds_of(row[2].annotation)}


def error_of(kind, name, value):
    """The error of one field's value; None if it is taken."""
    try:
        kind.model_validate({name: value})
    except ValidationError as error:
        return [line for line in lines(error, kind) if line.startswith(name)]
    return []


@pytest.mark.parametrize("key", FIELDS)
def test_whatever_stands_at_a_key_is_taken_or_refused_in_plain_words(key):
    kind, name, _ = FIELDS[key]
    for value in ODD:
        for line in error_of(kind, name, value):
            plain = not PYDANTICS.search(line) and not line.endswith(OTHER.removeprefix("{input}"))
            assert plain and "\n" not in line, (value, line)


@pytest.mark.parametrize("key", NUMBERS)
def test_every_number_has_a_bound_and_no_boolean_is_one(key):
    kind, name, info = NUMBERS[key]
    listed = tuple in kinds_of(info.annotation) or "tuple" in str(info.annotation)
    for value in (True, False, 1e300, -1e300, 10**18, -(10**18), float("inf"), 2**64):
        if key.endswith(BEYOND_10_18) and 10**18 <= abs(value) <= 2**64:
            continue
        assert error_of(kind, name, [value] if listed else value), (key, value)


@pytest.mark.parametrize("key", BOOLEANS)
def test_no_number_is_a_boolean(key):
    kind, name, _ = BOOLEANS[key]
    for value in (0, 1, 1.0, 2):
        assert error_of(kind, name, value) == [f"{name}: true or false, not {value}"]
    assert not error_of(kind, name, True) and not error_of(kind, name, False)


def test_words_are_of_types_there_are_and_an_unknown_one_is_not_told_in_pydantics():
    assert set(WORDS) <= set(get_args(core_schema.ErrorType))
    assert not PYDANTICS.search(" ".join([*WORDS.values(), OTHER]))


def test_the_first_mistake_names_its_key():
    with pytest.raises(ValidationError) as error:
        Trial.model_validate({"optim": {"lr": True}})
    assert first(error.value) == "optim.lr: a number, not True"
    with pytest.raises(ValidationError) as error:
        MixerConfig.model_validate(3)
    assert first(error.value) == "a mapping, not 3"
