"""Bits per byte and perplexity of texts, over passages that arms are compared by."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.scoring.exam import Answers, Exam, Metric
from analysis.scoring.scorer import Advance, Scorer
from attnlab.data.tokenizer import RoundTrip, lost_text
from attnlab.util.errors import UserError

PASSAGE_CHARS = 4000  # so much is scored together, from the end-of-document token on
MAX_CHARS = 1_000_000  # of a text; beyond, passages spread evenly over it are taken
WINDOW = 1024  # tokens read at once where the training length is not known
VERSION = "2"  # of how passages are read; 1: a last, shorter window followed one token only
METRICS = {
    "bits_per_byte": Metric("bits_per_byte", higher_is_better=False, column="nats"),
    "perplexity": Metric("perplexity_per_token", higher_is_better=False, column="nats"),
}


def exam(name: str, source: str, documents: Sequence[str], window: int, limit: int | None) -> Exam:
    """The documents' passages, in windows of `window` tokens, the model's training length.

    Asking raises UserError if the passages do not come back from the checkpoint's tokens.
    """
    whole = list(dict.fromkeys(passage for document in documents for passage in passages(document)))  # each once
    most = max(1, min(len(whole), MAX_CHARS // PASSAGE_CHARS))
    taken = [i * len(whole) // most for i in range(most)][:limit] if whole else []
    texts = [whole[i] for i in taken]

    def ask(scorer: Scorer, advance: Advance) -> Answers:
        if scorer.tokenizer:
            returned = RoundTrip()
            returned.add(texts, scorer.tokenizer.decode_all(scorer.tokenizer.encode(texts)))
            if returned.lost is not None:
                share = lost_text(returned.lost, "the text")
                raise UserError(f"{share} come back from the checkpoint's tokens, so there are no bits per byte")
        rolled = scorer.rolling(texts, window, advance)
        nats, tokens = zip(*rolled, strict=True)
        return Answers({"nats": nats, "tokens": tokens, "bytes": [len(text.encode()) for text in texts]})

    ids, wordings = [str(i) for i in taken], [(text,) for text in texts]
    return Exam(name, source, VERSION, ids, most, [texts, window], METRICS, len(texts), ask, wordings)


def passages(document: str) -> list[str]:
    """Cut a document after blank lines, lines or words into about PASSAGE_CHARS each."""
    out, start = [], 0
    while start < len(document):
        end = start + PASSAGE_CHARS
        if end < len(document):
            for mark in ("\n\n", "\n", " "):
                if (cut := document.rfind(mark, start + PASSAGE_CHARS // 2, end)) != -1:
                    end = cut + len(mark)
                    break
        out.append(document[start:end])
        start = end
    return [passage for passage in out if not passage.isspace()]
