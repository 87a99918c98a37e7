"""Questions a child can answer, in one word or two, written for this project."""

from functools import partial

from analysis.benchmarks._choice import Choice, from_file

PROMPT = "Question: {}\nAnswer:"
BENCHMARK = Choice("simple_qa", "2", "written for attnlab", partial(from_file, "simple_qa", prompt=PROMPT))
