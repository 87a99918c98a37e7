"""Which documents are held out: by content alone, a twentieth of the text, and never more than half of it."""

import hashlib
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnlab.data import splits
from attnlab.data.splits import FRACTION, SMALL, Split, cut_tail, digest_of, held_out_rule


@dataclass
class Documents:
    """A source of these documents, and of a validation split of its own if it has one."""

    documents: list[str]
    own: list[str] | None = None
    reads: list[str] = field(default_factory=list)

    def train(self):
        self.reads.append("train")
        return iter(self.documents)

    @property
    def validation(self):
        return None if self.own is None else lambda: iter(self.own)


def both(documents, own=None):
    found = Split(Documents(documents, own))
    return list(found.train()), found.validation(), found.copies


@pytest.mark.parametrize(("n", "held", "digest"), [(1000, 51, "6eed119bbfcf60ec"), (1001, 48, "79cf2d90509815de")])
def test_the_documents_held_out_stay_the_same(n, held, digest):
    """What older results were validated on: up to 1000 documents chosen among them all, beyond by their digests."""
    validation = both([f"document {i}\n" for i in range(n)])[1]
    found = hashlib.blake2b("".join(validation).encode(), digest_size=8).hexdigest()
    assert (len(validation), found) == (held, digest)


def test_of_a_large_validation_split_the_first_sixteen_mebibytes_are_kept():
    documents = [str(i).ljust(1 << 20) for i in range(18)]
    assert both([], own=documents)[1] == documents[:16]


def test_a_digest_is_the_contents_blake2b():
    assert digest_of("é") == hashlib.blake2b("é".encode(), digest_size=16).digest()
    assert digest_of("") == bytes.fromhex("cae66941d9efbd404e4d88758ea67670")  # b2sum -l 128 /dev/null


def text_of(n, size=100):
    return [f"{i} ".ljust(size, "x") for i in range(n)]


@pytest.mark.parametrize("n", [20, 21, 40, 100, 999, SMALL])
def test_a_small_source_gives_a_twentieth_of_its_text(n):
    held = held_out_rule(text_of(n))
    taken = [d for d in text_of(n) if held(digest_of(d))]
    assert FRACTION * n <= len(taken) < FRACTION * n + 1
    assert {digest_of(d) for d in taken} == set(sorted(map(digest_of, text_of(n)))[: len(taken)]), "the lowest digests"


def test_a_large_source_gives_the_lowest_twentieth_of_all_digests():
    held = held_out_rule(text_of(SMALL + 1))
    limit = int(FRACTION * 2**64)
    assert held((limit - 1).to_bytes(8, "big") + bytes(8)) and not held(limit.to_bytes(8, "big") + bytes(8))
    assert held(bytes(16)) and not held(b"\xff" * 16)


def test_documents_beyond_what_decides_are_not_read():
    def endless():
        yield from text_of(SMALL + 1)
        raise AssertionError("read on")

    assert held_out_rule(endless())(bytes(16))


def test_a_document_that_would_bring_it_above_half_is_left():
    held = held_out_rule(["a" * 100, "b" * 300])
    assert held(digest_of("a" * 100)) and not held(digest_of("b" * 300)), "whichever digest is the lower"
    assert held_out_rule(["a" * 100, "b" * 100]).__self__ == {min(digest_of("a" * 100), digest_of("b" * 100))}


@pytest.mark.parametrize("documents", [[], ["only one"], ["the same", "the same"]])
def test_without_two_documents_there_is_no_rule(documents):
    assert held_out_rule(documents) is None


@given(st.lists(st.text("ab \n", max_size=12), max_size=30))
def test_the_two_sides_share_nothing_and_lose_nothing(documents):
    train, validation, copies = both(documents)
    real = [d for d in documents if d.strip()]
    if len(set(real)) > 1:
        assert set(train) | set(validation) == set(real) and not set(train) & set(validation) and copies == 0
        assert train == [d for d in real if d not in validation], "in the source's order, repeated as there"
        assert len(validation) == len(set(validation))


def test_of_a_single_document_the_tail_is_held_out():
    text = "".join(f"line {i}\n" for i in range(100))
    train, validation, copies = both([text])
    assert (train, validation, copies) == ([cut_tail(text)[0]], [cut_tail(text)[1]], 0)


def test_copies_of_what_is_trained_on_leave_a_validation_split_of_its_own():
    train, validation, copies = both(["a", " ", "b", "b", ""], own=["b", "c", "\n", "c", "d"])
    assert (train, validation, copies) == (["a", "b", "b"], ["c", "d"], 1)


def test_validation_ends_with_the_document_that_fills_it(monkeypatch):
    monkeypatch.setattr(splits, "VALIDATION_BYTES", 6)
    assert both([], own=["aé", "bbb", "c", "d"])[1] == ["aé", "bbb"]  # é is two bytes
    assert both([], own=["aé", "bb", "c", "d"])[1] == ["aé", "bb", "c"]


@pytest.mark.parametrize(
    ("document", "head"),
    [
        ("x" * 95 + "\n" + "y" * 4, 96),  # the line after the last twentieth's beginning
        ("x" * 94 + "\n" + "y" * 5, 95),  # before it there is none: the cut itself
        ("x" * 96 + " " + "y" * 3, 97),  # else a word
        ("x" * 95 + " y\n" + "z" * 2, 98),  # a line before a word
        ("x" * 99 + "\n", 95),  # nothing would be left after it
        ("x" * 98 + "\ny", 99),
        ("x" * 100, 95),
        ("a\nb c" + "x" * 95, 95),  # a line and a word before the last twentieth are none of it
        ("x" * 190 + "ab\ncd\nef gh", 193),  # the first of several lines
        ("x" * 190 + "ab cd ef gh", 193),
        ("", 0),
    ],
)
def test_a_tail_begins_with_a_line_else_with_a_word(document, head):
    assert cut_tail(document) == (document[:head], document[head:])
