"""WinoGrande, which noun is meant (Sakaguchi et al. 2019, arXiv 1907.10641)."""

from analysis.benchmarks._harness import Harness
from analysis.scoring.exam import Metric

METRICS = {"acc": Metric("proportion", chance=1 / 2)}
FILES = ("winogrande/default.yaml",)
BENCHMARK = Harness("winogrande", FILES, "allenai/winogrande", METRICS, configs=("winogrande_xl",))
