"""Two words that belong together, written for this project: `Some words belong together: salt and` -> `pepper`.

The wrong candidates are the right ones of the pairs a quarter, a half and three quarters of the list away, where the
pairs are of another kind. So each word stands three times as often among the wrong ones as among the right ones, and
a model that only knows which words are frequent gets no further than guessing.
"""

from analysis.benchmarks._choice import CANDIDATES, Choice, Question, mixed, rows_of

PROMPT = "Some words belong together: {} and"


def questions() -> list[Question]:
    """Draw the questions, the same ones each time."""
    rows = rows_of("word_association")
    n = len(rows)
    away = [i * n // CANDIDATES for i in range(1, CANDIDATES)]
    out = []
    for i, (word, right) in enumerate(rows):
        wrong = tuple(rows[(i + distance) % n][1] for distance in away)
        out.append(Question(word, PROMPT.format(word), right, wrong))
    return mixed("word_association", out)


BENCHMARK = Choice("word_association", "2", "written for attnlab", questions)
