"""PIQA, which of two ways to do a thing works (Bisk et al. 2020, arXiv 1911.11641)."""

from analysis.benchmarks._harness import Harness
from analysis.scoring.exam import Metric

METRICS = {name: Metric("proportion", chance=1 / 2) for name in ("acc", "acc_norm")}
BENCHMARK = Harness("piqa", ("piqa/piqa.yaml",), "baber/piqa", METRICS)
