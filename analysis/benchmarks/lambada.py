"""LAMBADA, the last word of a passage (Paperno et al. 2016, arXiv 1606.06031; OpenAI's text, GPT-2's test)."""

from analysis.benchmarks._harness import Harness
from analysis.scoring.exam import Metric

BENCHMARK = Harness(
    "lambada",
    ("lambada/lambada_openai.yaml",),
    "EleutherAI/lambada_openai",
    {"acc": Metric("proportion", chance=0.0), "perplexity": Metric("perplexity", higher_is_better=False)},
    split="test",
)
