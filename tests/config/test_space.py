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
