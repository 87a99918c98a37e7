"""Our PyTorch against FLA's real Triton kernels, which run on CPU tensors in Triton's interpreter (its own process).

Each error is relative: the norm of a tensor's difference over its norm. Strong decay makes some gradients tiny; as it
is given to every second head or channel, the rest of the same tensor gives the norm a scale. Both are held against ours
in fp64, so that where the two differ it is known who is off.

What either may be off by follows from the computation, not from the processor, whose order of sums and fused products
changes what fp32 loses (FLA's RWKV-6 under strong decay loses 30 times as much with AVX2 as with AVX-512). It is
ROUNDING, or where terms cancel TIMES what one rounding of the input and the parameters is worth, measured along:

* FLA's may be off by what such a rounding moves FLA's own result by. That holds its kernels' own loss: where a step
  leaves e^-10 of the state, the gradient of that decay is as small, and FLA's kernels get it from q.dq - k.dk, sums
  that both hold the step's own, undecayed term.
* Ours may be off by what such a rounding moves ours by, or FLA's where that is less: it may lose no more than FLA's.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.fla_cases import FAST, ROUNDING, WAYS, cases_of

TIMES = 16  # a root mean square of 3 draws: one normally distributed number in 2,000 lies farther out


def off(errors: dict[str, float], moves: dict[str, float], least: float = ROUNDING) -> dict[str, float]:
    """The tensors that are farther from fp64 than rounding allows, and than `least`."""
    return {name: e for name, e in errors.items() if not e <= max(least, TIMES * moves.get(name, 0.0))}


def check(mixer: str, case: str, found: dict) -> None:
    where, way = f"{mixer}, {case}", WAYS[mixer][1]
    coarse = way.coarse or ROUNDING
    assert "failed" not in found, f"{where}:\n{found['failed']}"
    assert {"output", "input"} < set(found["ours"]), where
    ours_moves, theirs_moves = found.get("ours_moves", {}), found.get("theirs_moves", {})
    theirs = off(found["theirs"], theirs_moves, coarse)
    if case in way.wrong:  # ours is held against fp64 alone
        assert theirs, f"{where}: FLA's is right now, so compare with it"
        theirs_moves = {}
    else:
        assert not theirs, f"{where}: FLA's is off from fp64 by {theirs}"
    least = {name: min(move, theirs_moves.get(name, move)) for name, move in ours_moves.items()}
    ours = off(found["ours"], least, coarse if way.half else ROUNDING)
    assert not ours, f"{where}: ours is off from fp64 by {ours}"


def compare(pairs: list[tuple[str, str]]) -> dict[tuple[str, str], dict]:
    """What `compare_with_fla` prints of (mixer, case), all in one process."""
    script = Path(__file__).parents[2] / "tools" / "compare_with_fla.py"
    command = [sys.executable, "-O", str(script), *map(":".join, pairs)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, f"{pairs}: {done.stderr[-3000:]}"
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {(line.pop("mixer"), line.pop("case")): line for line in lines}


@functools.cache
def fast() -> dict[tuple[str, str], dict]:
    return compare(FAST)


@functools.cache
def all_of(mixer: str) -> dict[tuple[str, str], dict]:
    return compare([(mixer, case) for case in cases_of(mixer)])


@pytest.mark.timeout(3600)
@pytest.mark.xdist_group("fla")  # compared once, all together
@pytest.mark.parametrize(("mixer", "case"), FAST)
def test_one_of_each_family_equals_flas_kernels(mixer, case):
    check(mixer, case, fast()[mixer, case])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("mixer", "case"), [(name, case) for name in WAYS for case in cases_of(name)])
def test_output_and_every_gradient_equal_flas_kernels(mixer, case):
    check(mixer, case, all_of(mixer)[mixer, case])


def test_what_is_compared_in_seconds_is_among_all_cases():
    assert {(name, case) for name in WAYS for case in cases_of(name)} >= set(FAST)
    assert all(set(way.wrong) <= set(cases_of(name)) for name, (_, way) in WAYS.items())
