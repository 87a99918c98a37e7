import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnlab.config import space


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"loguniform": [1e-2, 1e-4]}, "reversed; write [0.0001, 0.01]"),
        ({"uniform": [1, 1]}, "empty"),
        ({"choice": []}, "empty"),
        ({"choice": [1, 1]}, "twice"),
        ({"choice": [{"a": 1}]}, "not {'a': 1}"),
        ({"loguniform": [0, 1]}, "above 0"),
        ({"int": [1.5, 3]}, "whole numbers"),
        ({"uniform": ["1e-4", 1]}, "two numbers"),
        ({"uniform": [1, 2, 3]}, "two numbers"),
        ({"lognormal": [0, 1]}, "is no range"),
        (3, "is no range"),
    ],
)
def test_a_bad_range_is_one_line_that_says_what_would_be_right(form, said):
    with pytest.raises(ValueError, match=r".*") as error:
        space.parse(form)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@given(st.floats(1e-6, 1e3), st.floats(1.001, 1e3))
def test_a_range_becomes_the_same_optuna_distribution(low, factor):
    found = space.parse({"loguniform": [low, low * factor]}).distribution()
    assert (found.low, found.high, found.log) == (low, low * factor, True)


def test_corners_are_all_combinations_until_there_are_too_many():
    dims = {"a": space.parse({"uniform": [0, 1]}), "b": space.parse({"choice": [1, 2, 3]})}
    assert len(space.corners(dims)) == 6
    many = {str(i): space.parse({"uniform": [0, 1]}) for i in range(20)}
    seen = space.corners(many)
    assert len(seen) <= 256
    for name in many:
        assert {corner[name] for corner in seen} == {0, 1}


@pytest.mark.parametrize(
    ("form", "edge", "wanted"),
    [  # half of the span more; on a log scale the root of the ratio
        ({"loguniform": [1e-4, 1e-2]}, "lower", (1e-5, 1e-2)),
        ({"loguniform": [1e-4, 1e-2]}, "upper", (1e-4, 1e-1)),
        ({"logint": [4, 64]}, "lower", (1, 64)),
        ({"logint": [4, 64]}, "upper", (4, 256)),
        ({"logint": [2, 200]}, "lower", (1, 200)),  # 0.2 would be 0, which has no logarithm
        ({"logint": [8, 60]}, "lower", (2, 60)),  # 2.9 downwards
        ({"logint": [8, 60]}, "upper", (8, 165)),  # 164.3 upwards
        ({"uniform": [2.0, 4.0]}, "lower", (1.0, 4.0)),
        ({"uniform": [2.0, 4.0]}, "upper", (2.0, 5.0)),
        ({"uniform": [1.0, 3.0]}, "lower", (0.0, 3.0)),
        ({"uniform": [0.5, 4.0]}, "lower", (0.0, 4.0)),
        ({"uniform": [0.0, 4.0]}, "lower", (0.0, 4.0)),
        ({"uniform": [-0.5, 4.0]}, "lower", (-2.75, 4.0)),  # it reached below 0 already
        ({"int": [10, 15]}, "lower", (7, 15)),
        ({"int": [10, 15]}, "upper", (10, 18)),
        ({"int": [-4, 1]}, "lower", (-7, 1)),
    ],
    ids=str,
)
def test_a_range_is_widened_by_half_of_its_span_or_the_root_of_its_ratio(form, edge, wanted):
    kind = next(iter(form))
    wide = space.parse(form).widened(edge)
    assert (wide.low, wide.high) == pytest.approx(wanted) and (wide.kind, wide.choices) == (kind, ())
    assert all(isinstance(end, space.RANGES[kind]) for end in (wide.low, wide.high))


@given(st.floats(1e-6, 1e3), st.floats(1.01, 1e4), st.sampled_from(["lower", "upper"]))
def test_widened_twice_a_log_range_has_twice_its_logarithmic_width_and_a_quarter(low, ratio, edge):
    wide = space.parse({"loguniform": [low, low * ratio]}).widened(edge).widened(edge)
    assert math.log(wide.high / wide.low) == pytest.approx(2.25 * math.log(ratio), rel=1e-9)
    assert (wide.high if edge == "lower" else wide.low) == pytest.approx(low * (ratio if edge == "lower" else 1))


def test_a_choice_is_not_widened():
    choice = space.parse({"choice": [1, 2, 4]})
    assert choice.widened("upper") is choice and choice.widened("lower") is choice


def of(**form):
    return space.parse(form)


@pytest.mark.parametrize(
    ("dimension", "wanted"),
    [
        (of(uniform=[0, 1]), (0.0, 1.0)),
        (of(choice=[3, 1, 2.5]), (1, 3)),
        (of(choice=[3, 1]), (1, 3)),
        (of(choice=[3]), (None, None)),  # a single value has no two ends
        (of(choice=[1, 2, "x"]), (None, None)),
        (of(choice=[1, 2, True, False]), (None, None)),
        (of(choice=["x", "y"]), (None, None)),
    ],
    ids=str,
)
def test_ends_are_those_of_numbers(dimension, wanted):
    assert dimension.ends == wanted


@pytest.mark.parametrize(
    ("dimension", "value", "wanted"),
    [
        (of(uniform=[2, 6]), 3.0, 0.25),
        (of(uniform=[-2, 2]), 0, 0.5),
        (of(uniform=[0, 2]), "1", None),
        (of(uniform=[0, 2]), True, None),
        (of(loguniform=[1e-4, 1e-1]), 1e-3, 1 / 3),
        (of(loguniform=[1e-4, 1e-1]), 0.5, 1 + math.log(5) / math.log(1000)),
        (of(loguniform=[1e-4, 1e-1]), 0, None),
        (of(loguniform=[1e-4, 1e-1]), -1.0, None),
        (of(logint=[1, 16]), 4, 0.5),
        (of(int=[1, 5]), 2, 0.25),
        (of(choice=[8, 1, 64]), 8, 0.5),  # by rank
        (of(choice=[8, 1, 64]), 64, 1.0),
        (of(choice=[8, 1, 64]), 9, None),
        (of(choice=[8, 1, "x"]), 8, None),
    ],
    ids=str,
)
def test_a_position_is_on_the_scale_searched_or_by_rank(dimension, value, wanted):
    assert dimension.position(value) == (None if wanted is None else pytest.approx(wanted))


def test_points_are_counted_where_they_can_be():
    found = [of(int=[3, 7]), of(logint=[1, 2]), of(choice=["x", None, 1]), of(uniform=[0, 1]), of(loguniform=[1, 2])]
    assert [d.points for d in found] == [5, 2, 3, math.inf, math.inf]
    assert [d.log for d in found] == [False, True, False, False, True]
    assert found[0].corners == (3, 7) and found[2].corners == ("x", None, 1)


def test_a_grid_has_every_point_once_the_last_setting_varying_fastest():
    points = list(space.grid({"a": of(choice=["x", None]), "b": of(int=[-1, 1])}))
    assert points == [{"a": a, "b": b} for a in ("x", None) for b in (-1, 0, 1)]
    assert list(space.grid({})) == [{}]


@pytest.mark.parametrize("kind", ["int", "logint"])
def test_whole_numbers_and_choices_become_optunas(kind):
    found = of(**{kind: [2, 9.0]}).distribution()
    assert (found.low, found.high, found.log, type(found.high)) == (2, 9, kind == "logint", int)
    assert of(choice=[1, "x"]).distribution().choices == (1, "x") and of(choice=[1]).kind == "choice"


def test_two_values_of_different_types_are_two_choices():
    assert of(choice=[1, True, None, "1"]).choices == (1, True, None, "1")


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"uniform": [0, 1], "int": [0, 1]}, "is no range"),
        ({}, "is no range"),
        ({"uniform": 3}, "takes a list"),
        ({"uniform": [True, 2]}, "two numbers"),
        ({"uniform": [0, math.inf]}, "finite number"),
        ({"uniform": [-math.inf, 0]}, "finite number"),
        ({"int": [3, 4.5]}, "whole numbers"),
        ({"logint": [0, 4]}, "above 0"),
        ({"loguniform": [-1, 4]}, "above 0"),
        ({"choice": [1, (2,)]}, "not (2,)"),
    ],
    ids=str,
)
def test_more_that_is_no_range(form, said):
    with pytest.raises(ValueError) as error:
        space.parse(form)
    assert said in str(error.value)


def test_a_range_below_zero_and_corners_up_to_the_limit():
    assert (of(uniform=[-3, -1]).low, of(int=[-3, 0]).high) == (-3.0, 0)
    assert of(uniform=(0, 1)) == of(uniform=[0, 1])
    eight = {str(i): of(int=[0, 1]) for i in range(3)}
    assert len(space.corners(eight, limit=8)) == 8
    assert space.corners(eight, limit=7) == [  # one at a time
        {"0": 0, "1": 0, "2": 0}, {"0": 1, "1": 0, "2": 0}, {"0": 0, "1": 0, "2": 0}, {"0": 0, "1": 1, "2": 0},
        {"0": 0, "1": 0, "2": 0}, {"0": 0, "1": 0, "2": 1},
    ]  # fmt: skip
    assert len(space.corners(eight, limit=4)) == 4 and len(space.corners({"a": of(choice=list(range(257)))})) == 256
