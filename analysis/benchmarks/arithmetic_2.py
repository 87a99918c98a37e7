"""Sums and differences of two digits: `31 + 48 =`."""

from analysis.benchmarks._choice import Choice
from analysis.benchmarks._sums import two_digits

BENCHMARK = Choice("arithmetic_2", "1", "generated with a seed, no case twice", two_digits)
