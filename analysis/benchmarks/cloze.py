"""The last word of sentences of the held-out novel (Persuasion), among words as frequent in it and as long.

Drawn with a seed: n sentences whose last word is at least four lower-case letters long, each after the text before it.
The other candidates are words that end other sentences of the novel, of like frequency, and that do not occur in the
prompt. The right answer is what the author wrote; another could make sense too, so 100 % is not to be had.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from functools import cache

from analysis.benchmarks._choice import CANDIDATES, Choice, Question
from attnlab.data.sources import Dataset, open_dataset
from attnlab.util.files import cache_root

N = 500
CONTEXT_CHARS = 400  # of the text before, from a word's beginning on
NEAR = 40  # words next in frequency from which the wrong candidates are drawn


@cache
def questions() -> list[Question]:
    """Draw the questions, the same ones each time."""
    source = open_dataset(Dataset("austen"), cache_root())
    assert source.validation is not None
    text = " ".join(" ".join(source.validation()).split())
    rng = random.Random("cloze")
    ends = [m for m in re.finditer(r"(?<= )[a-z]{4,}(?=[.!?] )", text) if m.start() > CONTEXT_CHARS]
    counts = Counter(m.group() for m in ends)
    words = sorted(counts, key=lambda word: (counts[word], len(word), word))
    rank = {word: i for i, word in enumerate(words)}
    out = []
    for match in sorted(rng.sample(ends, N), key=lambda m: m.start()):
        word, start = match.group(), match.start()
        prompt = text[start - CONTEXT_CHARS : start].partition(" ")[2].rstrip()
        around = words[max(0, rank[word] - NEAR) : rank[word] + NEAR]
        others = [other for other in around if other != word and other not in prompt.lower()]
        out.append(Question(str(start), prompt, word, tuple(rng.sample(others, CANDIDATES - 1))))
    rng.shuffle(out)
    return out


BENCHMARK = Choice("cloze", "1", "Persuasion, the novel that the built-in corpus holds out", questions)
