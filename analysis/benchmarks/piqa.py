"""PIQA, which of two ways to do a thing works (Bisk et al. 2020, arXiv 1911.11641)."""

from analysis.benchmarks._harness import Harness
from analysis.scoring.exam import Metric

BENCHMARK = Harness(
    "piqa",
    ("piqa/piqa.yaml",),
    "baber/piqa",
    {"acc": Metric("proportion", chance=1 / 2), "acc_norm": Metric("proportion", chance=1 / 2)},
)
