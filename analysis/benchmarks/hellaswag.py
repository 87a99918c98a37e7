"""HellaSwag, how a scene goes on (Zellers et al. 2019, arXiv 1905.07830); `acc_norm` divides by the endings' length."""

from analysis.benchmarks._harness import Harness
from analysis.scoring.exam import Metric

METRICS = {name: Metric("proportion", chance=1 / 4) for name in ("acc_norm", "acc")}
BENCHMARK = Harness("hellaswag", ("hellaswag/hellaswag.yaml",), "Rowan/hellaswag", METRICS)
