"""Axes that can be read, whatever range they have."""

from hypothesis import given
from hypothesis import strategies as st

from analysis.figures.curves import log_ticks


@given(st.floats(1e-6, 1e12), st.floats(1.01, 1e8))
def test_a_logarithmic_axis_has_two_to_seven_labels_within_its_range(low, factor):
    high = low * factor
    ticks = log_ticks(low, high)
    assert 2 <= len(ticks) <= 7 and ticks == sorted(set(ticks))
    assert all(low * 0.99 <= tick <= high * 1.01 for tick in ticks)
