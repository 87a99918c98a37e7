"""Slots that are not up yet start where there is room for them, and wait for nodes where there is none."""

import pytest

from attnlab.sweep.slots.slots import waiting_text


@pytest.mark.parametrize(
    ("up", "count", "room", "said"),
    [
        (2, 2, 2, ""),
        (0, 2, 2, "0 of 2 slots up, the others starting"),
        (1, 2, 8, "1 of 2 slots up, the others starting"),
        (0, 2, 0, "0 of 2 slots up, the others wait for nodes"),
        (1, 4, 2, "1 of 4 slots up, 1 starting, 2 wait for nodes"),
        (2, 4, 1, "2 of 4 slots up, the others wait for nodes"),  # a node was lost a moment ago
    ],
)
def test_what_slots_wait_for(up, count, room, said):
    assert waiting_text(up, count, room) == said
