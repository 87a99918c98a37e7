"""Which items stand in a text, word for word: on words as tokens, without a model."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.statistics import overlap
from analysis.statistics.overlap import GRAM, Items, hashed, pieces, scan

MASK = (1 << 64) - 1


def mixed(value):
    """splitmix64 of one number, by hand."""
    x = (value * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


@given(st.lists(st.integers(-1, 50), max_size=12), st.integers(1, 5))
def test_hashes_are_polynomials_over_the_mixed_ids(ids, n):
    wanted = []
    for start in range(len(ids) - n + 1):
        value = 0
        for number in ids[start : start + n]:
            value = (value * 0xD6E8FEB86659FD93 + mixed(number & MASK)) & MASK
        wanted.append(value)
    assert hashed(np.array(ids, np.int64), n).tolist() == wanted


def test_the_mixing_is_splitmix64s():
    # its first output from the state 0, in the reference implementation (Vigna 2015)
    assert int(hashed(np.array([0], np.int64), 1)[0]) == 0xE220A8397B1DCDAF


class Words:
    """A tokenizer whose tokens are words."""

    def decode(self, ids):
        return " ".join(f"w{i}" for i in ids)


def packed(ids):
    return SimpleNamespace(train=np.array(ids), tokenizer=Words(), meta={"source": {"name": "numbers"}})


def text_of(ids):
    return " ".join(f"w{i}" for i in ids)


def seen(text, *items):
    (row,) = scan({"x": [[item] if isinstance(item, str) else item for item in items]}, packed(text)).values()
    return row["items"]


TEXT = list(range(100))


@pytest.mark.parametrize(
    ("item", "found"),
    [
        (text_of(range(GRAM)), 1),
        (text_of(range(100 - GRAM, 100)), 1),  # at the text's end
        (text_of(range(5)), 1),  # as short: all of it must match
        (text_of([0, 1, 2, 3, 9]), 0),
        (text_of([*range(GRAM - 1), 200]), 0),  # twelve words in a row are none
        (text_of([*range(GRAM), *range(200, 200 + GRAM)]), 1),  # half of its words
        (text_of([*range(GRAM), *range(200, 201 + GRAM)]), 0),
        (text_of([*range(GRAM + 4), *range(200, 217)]), 1),  # overlapping matches count each word once
        (text_of([*range(GRAM + 4), *range(200, 218)]), 0),
        (text_of([*range(GRAM), *range(200, 210), *range(40, 40 + GRAM)]), 1),
        ("W3, w4. W5!", 1),
        ("w3_w4", 1),
        ("", 0),
        ("!?", 0),
        ("w1", 1),
        ("nothing", 0),
    ],
)
def test_an_item_is_seen_when_half_of_its_words_lie_in_matches(item, found):
    assert seen(TEXT, item) == [found]


def test_the_wording_that_matches_most_counts_and_items_do_not_mix():
    both = [text_of(range(200, 220)), text_of(range(20, 40))]
    assert seen(TEXT, both, [both[0]], [both[1]], both[::-1]) == [1, 0, 1, 1]
    assert seen(TEXT, [text_of(range(7))], [text_of([9, 7])], [text_of([7, 8])]) == [1, 0, 1]


def test_an_exam_has_its_digest_and_its_counts():
    told = []
    found = scan({"x": [["w1"], ["no"]], "y": [["w2"]]}, packed(TEXT), told.append)
    assert found == {
        "x": {"corpus": "numbers", "tokens": 100, "scanned": 100, "n": 2, "seen": 1, "items": [1, 0]},
        "y": {"corpus": "numbers", "tokens": 100, "scanned": 100, "n": 1, "seen": 1, "items": [1]},
    }
    assert told == [100]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(overlap, "PIECE_TOKENS", 300)
    monkeypatch.setattr(overlap, "SCAN_TOKENS", 900)


@pytest.mark.parametrize(
    ("total", "starts"),
    [
        (1, [0]), (300, [0]), (301, [0, 300]), (900, [0, 300, 600]),
        (1200, [0, 300, 600]), (1800, [0, 600, 1200]), (3000, [0, 900, 1800]),
    ],
)  # fmt: skip
def test_long_texts_are_read_in_stretches_spread_over_them(small, total, starts):
    found = list(pieces(packed(range(total))))
    assert [int(text.split()[0][1:]) for text, _ in found] == starts
    for (text, tokens), start in zip(found, starts, strict=True):
        assert tokens == min(total, start + 300) - start
        assert len(text.split()) == min(total, start + 300 + 16 * GRAM) - start, "with what a match may reach beyond"


def test_at_least_one_stretch_is_read(monkeypatch):
    monkeypatch.setattr(overlap, "PIECE_TOKENS", 300)
    monkeypatch.setattr(overlap, "SCAN_TOKENS", 10)
    assert [tokens for _, tokens in pieces(packed(range(1000)))] == [300]


def test_a_vocabulary_is_shared_and_grows():
    vocabulary = {"w1": 0}
    items = Items([["w1 w2"], ["w3"]], vocabulary)
    assert vocabulary == {"w1": 0, "w2": 1, "w3": 2}
    items.read(np.array([-1, 0, 1, -1]))
    assert items.seen() == [1, 0]
    items.read(np.array([2]))
    assert items.seen() == [1, 1]
