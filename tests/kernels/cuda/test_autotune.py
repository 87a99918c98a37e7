"""The staged search of Triton's autotuner, on made-up kernels: nothing is compiled or run."""

import contextlib
import gc
import itertools
import weakref
from types import SimpleNamespace

import pytest

from attnlab.kernels.cuda import autotune

triton = pytest.importorskip("triton")
CONFIGS = [
    triton.Config({"BT": tile}, num_warps=warps, num_stages=stages)
    for tile, warps, stages in itertools.product((16, 32, 64), (1, 2, 4, 8), (2, 3, 4))
]


class Tuner:
    """As much of Triton's as `_tuned` asks: `run` times every candidate of a call."""

    base_fn = len
    _do_bench = None

    def prune_configs(self, meta):
        return CONFIGS

    def run(self, bench, args):
        self.nargs = dict(args)
        timings = {config: bench(self, config=config, STATE_V_FIRST=True) for config in CONFIGS}
        self.nargs = None
        return min(timings, key=timings.get)


class Argument:
    """Stands for a tensor on the GPU."""


def cost(config):
    """In ms; a tile of 32, 8 warps and 2 stages are the best of each."""
    return abs(config.kwargs["BT"] - 31) + abs(config.num_warps - 9) / 10 + config.num_stages / 100


@pytest.fixture
def timed(monkeypatch):
    monkeypatch.setattr(autotune, "gpu_lock", contextlib.nullcontext)
    monkeypatch.setattr(autotune, "_compile", lambda *args: None)
    seen = []

    def bench(self, *args, config, **meta):
        seen.append(config)
        return [cost(config)] * 3

    return autotune._tuned(bench, threads=1), seen


def test_the_best_candidate_is_found_though_most_are_not_timed(timed):
    bench, seen = timed
    best = Tuner().run(bench, {})
    assert (best.kwargs["BT"], best.num_warps, best.num_stages) == (32, 8, 2)
    assert len(seen) == len(set(seen)) < len(CONFIGS) / 2


def test_each_call_that_tunes_is_searched_anew_and_its_arguments_are_not_held(timed):
    bench, seen = timed
    tuner, held = Tuner(), []
    for _ in range(2):
        argument = Argument()
        held.append(weakref.ref(argument))
        tuner.run(bench, {"x": argument})
        del argument
    gc.collect()
    assert [ref() for ref in held] == [None, None]
    assert len(seen) == 2 * len(set(seen))


def test_faulty_kernels_with_narrow_keys_leave_out_the_candidates_that_may_break_the_process():
    def warps(name="chunk_bwd_kernel_dqkwg", configs=CONFIGS, **meta):
        tuner = SimpleNamespace(prune_configs=lambda meta: configs, base_fn=SimpleNamespace(__name__=name))
        return {c.num_warps for c in autotune._trusted(tuner, meta)}

    assert warps(K=24) == warps(K=32) == {1, 2}
    assert warps(K=33) == warps(V=16) == {1, 2, 4, 8}
    assert warps("prepare_wy_repr_bwd_kda_kernel", K=32) == {1, 2}
    assert warps("chunk_gla_bwd_kernel_dv", K=24) == {1, 2, 4, 8}, "of others, the fastest may have many warps"
    many = [c for c in CONFIGS if c.num_warps > 2]
    assert warps(configs=many, K=24) == {4, 8}, "a kernel without others keeps what it has"
