"""Sums, differences and products of one digit: `3 + 4 =`."""

from analysis.benchmarks._choice import Choice
from analysis.benchmarks._sums import one_digit

BENCHMARK = Choice("arithmetic_1", "1", "generated, every case once", one_digit)
