"""Arithmetic of one or two digits, every item once: exhaustive or drawn with a seed."""

from __future__ import annotations

import random

from analysis.benchmarks._choice import CANDIDATES, Question


def question(a: int, sign: str, b: int, rng: random.Random) -> Question:
    """`3 + 4 =` -> `7`, and wrong answers near it, as long where possible."""
    right = {"+": a + b, "-": a - b, "x": a * b}[sign]
    near = [right + d for d in (-20, -11, -10, -9, -5, -3, -2, -1, 1, 2, 3, 5, 9, 10, 11, 20) if right + d >= 0]
    as_long = [n for n in near if len(str(n)) == len(str(right))]
    wrong = rng.sample(as_long if len(as_long) >= CANDIDATES - 1 else near, CANDIDATES - 1)
    return Question(f"{a}{sign}{b}", f"{a} {sign} {b} =", str(right), tuple(map(str, wrong)))


def one_digit() -> list[Question]:
    """All sums, differences (not below 0) and products of 0 to 9: 255."""
    rng = random.Random("arithmetic, 1 digit")
    cases = [(a, sign, b) for sign in "+-x" for a in range(10) for b in range(10) if sign != "-" or a >= b]
    rng.shuffle(cases)
    return [question(*case, rng) for case in cases]


def two_digits(n: int = 500) -> list[Question]:
    """Draw n sums and n differences above 0 of 10 to 99, with a seed."""
    rng = random.Random("arithmetic, 2 digits")
    pairs = [(a, b) for a in range(10, 100) for b in range(10, 100)]
    sums = [(a, "+", b) for a, b in rng.sample(pairs, n)]
    differences = [(a, "-", b) for a, b in rng.sample([pair for pair in pairs if pair[0] > pair[1]], n)]
    cases = sums + differences
    rng.shuffle(cases)
    return [question(*case, rng) for case in cases]
