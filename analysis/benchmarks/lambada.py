"""LAMBADA, the last word of a passage (Paperno et al. 2016, arXiv 1606.06031; OpenAI's text, GPT-2's test)."""

from analysis.benchmarks._harness import Harness
from analysis.scoring.exam import Metric

METRICS = {"acc": Metric("proportion", chance=0.0), "perplexity": Metric("perplexity", higher_is_better=False)}
FILES = ("lambada/lambada_openai.yaml",)
BENCHMARK = Harness("lambada", FILES, "EleutherAI/lambada_openai", METRICS, split="test")
