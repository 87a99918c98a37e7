"""What arms share is tokenised once."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from analysis.scoring import scorer
from attnlab.data.tokenizer import ByteTokenizer, Tokenizer, train_bpe

TEXTS = ["a text", "another one", ""]


class Counting(ByteTokenizer):
    """Counts what it is asked."""

    asked = 0
    broken = False

    def encode(self, texts):
        type(self).asked += 1
        time.sleep(0.05)
        if type(self).broken:
            raise ValueError("broken")
        return super().encode(texts)


@pytest.fixture(autouse=True)
def fresh():
    Counting.asked, Counting.broken = 0, False


def lists(ids):
    return [each.tolist() for each in ids]


def test_texts_are_encoded_once_for_all_arms_however_many_ask_at_once():
    kept = scorer.Encodings()
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda _: kept.of(Counting(), list(TEXTS)), range(4)))
    assert Counting.asked == 1
    assert all(lists(ids) == lists(ByteTokenizer().encode(TEXTS)) for ids in got)


def test_other_texts_and_other_tokenizers_are_told_apart():
    kept = scorer.Encodings()
    bpe: Tokenizer = train_bpe(["a text and another one " * 20], 300)
    assert lists(kept.of(bpe, TEXTS)) == lists(bpe.encode(TEXTS))
    assert lists(kept.of(ByteTokenizer(), TEXTS)) == lists(ByteTokenizer().encode(TEXTS))
    assert lists(kept.of(bpe, ["a texta", "nother one", ""])) == lists(bpe.encode(["a texta", "nother one", ""]))


def test_an_error_reaches_everyone_who_waits_and_is_not_kept():
    kept, errors = scorer.Encodings(), []
    Counting.broken = True

    def ask():
        try:
            kept.of(Counting(), TEXTS)
        except ValueError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == ["broken", "broken"]
    Counting.broken = False
    assert kept.of(Counting(), TEXTS)


def test_only_so_many_are_kept(monkeypatch):
    monkeypatch.setattr(scorer, "KEPT", 2)
    kept = scorer.Encodings()
    for text in ("one", "two", "one", "three", "one", "two"):
        kept.of(Counting(), [text])
    assert Counting.asked == 4  # one, two, three, and two again
