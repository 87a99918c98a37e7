"""ARC-easy, questions of school science (Clark et al. 2018, arXiv 1803.05457)."""

from analysis.benchmarks._harness import Harness
from analysis.scoring.exam import Metric

# nearly all questions have four choices, a few three or five
METRICS = {name: Metric("proportion", chance=1 / 4) for name in ("acc", "acc_norm")}
BENCHMARK = Harness("arc_easy", ("arc/arc_easy.yaml",), "allenai/ai2_arc", METRICS, configs=("ARC-Easy",), split="test")
