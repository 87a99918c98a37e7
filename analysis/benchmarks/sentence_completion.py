"""The last word of a plain sentence, written for this project: `The bird sat in its` -> `nest`."""

from functools import partial

from analysis.benchmarks._choice import Choice, from_file

BENCHMARK = Choice(
    "sentence_completion", "2", "written for attnlab", partial(from_file, "sentence_completion", prompt="{}")
)
