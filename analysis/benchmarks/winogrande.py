"""WinoGrande, which noun is meant (Sakaguchi et al. 2019, arXiv 1907.10641)."""

from analysis.benchmarks._harness import Harness
from analysis.scoring.exam import Metric

BENCHMARK = Harness(
    "winogrande",
    ("winogrande/default.yaml",),
    "allenai/winogrande",
    {"acc": Metric("proportion", chance=1 / 2)},
    configs=("winogrande_xl",),
)
