"""SIQA, why people do things and what follows (Sap et al. 2019, arXiv 1904.09728)."""

from analysis.benchmarks._harness import Harness
from analysis.scoring.exam import Metric

BENCHMARK = Harness("siqa", ("siqa/siqa.yaml",), "lighteval/siqa", {"acc": Metric("proportion", chance=1 / 3)})
