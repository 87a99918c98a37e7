"""The rolling hash against a search by hand."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.data import overlap
from attnlab.data.overlap import contained

tokens = st.lists(st.integers(0, 2), min_size=1, max_size=60)  # few kinds of token, so that runs do occur


@settings(max_examples=300)
@given(tokens, st.integers(1, 6), st.data())
def test_it_finds_what_a_search_by_hand_finds(train, n, data):
    runs = np.array(data.draw(st.lists(st.lists(st.integers(0, 2), min_size=n, max_size=n), min_size=1, max_size=8)))
    by_hand = [any(train[i : i + n] == run for i in range(len(train) - n + 1)) for run in runs.tolist()]
    before = overlap.CHUNK
    for overlap.CHUNK in (1, 7, before):
        assert contained(runs, np.array(train, np.uint16), 3).tolist() == by_hand
    overlap.CHUNK = before


def test_a_run_across_two_chunks_and_at_either_end(monkeypatch):
    monkeypatch.setattr(overlap, "CHUNK", 1000)
    train = np.random.default_rng(0).integers(50000, size=5000).astype(np.uint16)
    runs = np.stack([train[at : at + 64] for at in (0, 970, 999, 1000, 4936)])
    changed = runs.copy()
    changed[:, 31] ^= 1
    assert contained(runs, train, 65536).all() and not contained(changed, train, 65536).any()
    assert not contained(runs, train[:30], 65536).any()
