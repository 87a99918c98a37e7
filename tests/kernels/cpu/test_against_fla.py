"""Our PyTorch against FLA's real Triton kernels, which run on CPU tensors in Triton's interpreter (its own process).

Each error is relative: the norm of a tensor's difference over its norm. Strong decay makes some gradients tiny; as it
is given to every second head or channel, the rest of the same tensor gives the norm a scale. Ours is held against FLA's
and against ours in fp64, so that where the two differ it is known who is off.
"""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from attnlab.models.mixers.table import MIXERS as ROWS
from tests.models.mixers.test_table import ONE_BY_ONE
from tests.tools.fla_cases import FAST, MIXERS, NOT_COMPARED, cases_of, name_of

TOLERANCE = 2e-5  # fp32


class Loose(NamedTuple):
    """A bound other than TOLERANCE, on every tensor or on the parameters named."""

    bound: float
    why: str
    parameters: tuple[str, ...] = ()


GATES = ("A_log", "dt_bias", "a_proj.weight", "f_proj.0.weight", "f_proj.1.weight")


def faint(bound: float, theirs: str, ours: str, parameters: tuple[str, ...] = GATES) -> Loose:
    """Where a step leaves e^-10 of the state, the gradient of that decay is as small. FLA's kernels get it from
    q.dq - k.dk, sums that both hold the step's own, undecayed term, and are off by what its rounding leaves: in the
    decay's own parameters, and nowhere else. Against fp64 FLA's and ours are off by what is said here."""
    return Loose(bound, f"FLA's off by {theirs}, ours by {ours}", parameters)


BFLOAT16 = Loose(2e-2, "both take bf16, and FLA's kernels round to it inside as well")
LOOSER = {  # ours against FLA's, of a mixer or of one of its cases; who is off is said against fp64
    "stickbreaking": BFLOAT16,
    "parallax": BFLOAT16,
    "mesa": Loose(2e-2, "FLA's kernels round to half precision inside, and are off by 7e-3, ours by 4e-6"),
    "path": Loose(1e-4, "FLA's forward is off by 2e-5, ours by 4e-7"),
    "rwkv7": Loose(1e-4, "FLA's kernel inverts with less precision and is off by 6e-5, ours by 1e-6"),
    "raven:strong_decay": Loose(5e-4, "FLA's sums up decays over 64 steps, among which steps that hardly decay lose "
    "their digits: off by 2e-4, ours, whose chunks shrink, by 1e-6"),
    "mamba2_kernels:dense": Loose(5e-5, "A_log's gradient is 0.3, a sum of terms that add up to 14: FLA's is off by "
    "2e-5, ours by 1e-5", ("A_log",)),
    "forgetting:strong_decay": faint(1e-4, "2e-5", "1e-5", ("f_proj.bias",)),
    "rwkv6:strong_decay": faint(1e-4, "3e-5", "1e-5", ("w_proj.linear.lora.2.bias",)),
    "rodimus:strong_decay": faint(1e-4, "2e-5", "5e-6", ("g_gate_proj.bias",)),
    "kda:strong_decay": faint(1e-4, "4e-5", "2e-6"),
    "gdn2:strong_decay": faint(1e-4, "2e-5", "1e-6"),
    "comba:strong_decay": faint(1e-3, "3e-4", "1e-5"),
    "log_linear_mamba2:strong_decay": faint(2e-3, "7e-4", "5e-6"),
    "precond_kda": faint(5e-3, "2e-3", "2e-4"),  # decays by e^-10 as initialised
    "mamba2_kernels:strong_decay": faint(5e-3, "2e-3", "9e-6"),
    "gated_deltanet:strong_decay": faint(5e-3, "2e-3", "2e-5"),
    "precond_gated_deltanet:strong_decay": faint(5e-3, "2e-3", "7e-6"),
    "gated_deltaproduct:strong_decay": faint(5e-3, "3e-3", "1e-4"),
}  # fmt: skip
ROUGH = {  # ours in fp32 against ours in fp64
    "stickbreaking": BFLOAT16,
    "parallax": BFLOAT16,
    "rebased": Loose(5e-5, "divides by squares of scores, some of them next to 0; FLA's is off by as much"),
    "precond_kda": faint(5e-4, "2e-3", "2e-4"),
    "gated_deltaproduct:strong_decay": faint(5e-4, "3e-3", "1e-4"),
}
WRONG = {  # FLA's, so that ours is held against fp64 alone
    "wall:strong_decay": "caps what a channel decays by between two steps of a block of 64 at e^-76 (2^-110): the "
    "output is off by 5e-2 and gradients are NaN",
}


def bound(table: Mapping[str, Loose], mixer: str, case: str, tensor: str) -> float:
    entry = table.get(f"{mixer}:{case}") or table.get(mixer)
    return entry.bound if entry and (not entry.parameters or tensor in entry.parameters) else TOLERANCE


def check(mixer: str, case: str, found: dict) -> None:
    where = f"{mixer}, {case}"
    assert "failed" not in found, f"{where}:\n{found['failed']}"
    assert {"output", "input"} < set(found["error"]), where
    for key, table in (("error", LOOSER), ("ours", ROUGH)):
        far = {name: e for name, e in found[key].items() if not e <= bound(table, mixer, case, name)}
        if key == "error" and f"{mixer}:{case}" in WRONG:
            assert far, f"{where}: FLA's is right now, so compare with it"
            continue
        assert not far, f"{where}: ours is off from {'FLA' if key == 'error' else 'fp64'} by {far}"


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
    return compare([(mixer, case) for case in cases_of(mixer, ONE_BY_ONE)])


@pytest.mark.timeout(1200)
@pytest.mark.xdist_group("fla")  # compared once, all together
@pytest.mark.parametrize(("mixer", "case"), FAST)
def test_one_of_each_family_equals_flas_kernels(mixer, case):
    check(mixer, case, fast()[mixer, case])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("mixer", "case"), [(m, case) for m in MIXERS for case in cases_of(m, ONE_BY_ONE)])
def test_output_and_every_gradient_equal_flas_kernels(mixer, case):
    check(mixer, case, all_of(mixer)[mixer, case])


def test_every_mixer_is_compared_or_it_is_said_why_not():
    compared = {name_of(mixer) for mixer in MIXERS}
    assert compared | NOT_COMPARED.keys() == ROWS.keys()
    assert not compared & NOT_COMPARED.keys()
    assert {f"{m}:{case}" for m in MIXERS for case in cases_of(m, ONE_BY_ONE)} >= {*map(":".join, FAST), *WRONG}
