"""Two words that belong together, written for this project: `salt and` -> `pepper`."""

from functools import partial

from analysis.benchmarks._choice import Choice, from_file

PROMPT = "Some words belong together: {} and"
BENCHMARK = Choice(
    "word_association", "1", "written for attnlab", partial(from_file, "word_association", prompt=PROMPT)
)
