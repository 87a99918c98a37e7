"""A faster search for Triton's autotuner: nearly the same choice, in a fraction of the time.

As shipped, a kernel's first call compiles its candidates one after the other and times each for 125 ms and more, with
whatever else runs on the GPU in the way: 200 s for one mixer. With `install()`, a kernel that has to be tuned

* searches its candidates in stages (`stages`) instead of trying all of them;
* compiles those of a stage side by side, on threads (Triton's compiler leaves the interpreter's lock while LLVM and
  ptxas work);
* times them briefly (`WARMUP_MS`, `REPEAT_MS`), one process of the machine at a time, so that tuners do not disturb one
  another.

What was chosen is kept by Triton itself, under TRITON_CACHE_DIR, with the compiled kernels.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

WARMUP_MS, REPEAT_MS = 2, 10  # Triton's own: 25 and 100
KEPT = 2
CHOICES = 2  # goes up when other candidates are to be chosen from: what was chosen before is then not read
NARROW = 32  # channels
FAULTY = re.compile(r"chunk_bwd_kernel_dqkwg|prepare_(precond_)?wy_repr_bwd(_kda)?_kernel")

_installed = False


def install(threads: int | None = None) -> None:
    """Patch Triton's autotuner in this process. Idempotent.

    Args:
        threads: that compile; default: the CPU cores this process may use.
    """
    global _installed
    if _installed:
        return
    from triton.runtime.autotuner import Autotuner

    workers = threads or len(os.sched_getaffinity(0))
    Autotuner._bench = _tuned(Autotuner._bench, workers)
    _installed = True


def _tuned(bench: Callable[..., Any], threads: int) -> Callable[..., Any]:
    """Replace `Autotuner._bench`, which times one candidate.

    The first candidate of a round has the whole search done, and the others get what came out of it.
    """

    def run(self: Any, *args: Any, config: Any, **meta: Any) -> Any:
        if self.__dict__.get("_round") is not self.nargs:  # `nargs` is made anew by each call that tunes
            self._round, self._timings, self._untold = self.nargs, {}, len(self.prune_configs(meta))
            if self._do_bench is None:
                self._do_bench = _briefly
            for candidates in stages(_trusted(self, meta), self._timings):
                _compile(self, candidates, args, meta, threads)
                with gpu_lock():
                    for candidate in candidates:
                        self._timings[candidate] = bench(self, *args, config=candidate, **meta)
        timing = self._timings.get(config, [float("inf")] * 3)
        self._untold -= 1
        if not self._untold:  # the round is over; its arguments are tensors, which must not be held any longer
            self._round, self._timings = None, {}
        return timing

    return run


def _trusted(tuner: Any, meta: dict[str, Any]) -> list[Any]:
    """The candidates, without those that may break the process.

    Left out are, of `FAULTY` kernels with keys of at most `NARROW` channels, those of more than 2 warps.

    From 4 warps on Triton multiplies matrices by the instructions of a warp group, and at that width these then read
    shared memory that is not their own, some at every launch, some now and then. Seen by compute-sanitizer at 24
    channels (`bench/sanitize.py`, H100, Triton 3.7.1): `chunk_bwd_kernel_dqkwg` of GatedDeltaNet, Comba and
    PrecondGatedDeltaNet, with 4 warps and never with 2; `prepare_wy_repr_bwd_kernel` and
    `prepare_precond_wy_repr_bwd_kernel` while all their candidates were tried. KDA's is written as these are, and was
    not watched. Other kernels keep theirs: with 2 warps GLA's `chunk_gla_bwd_kernel_dv` takes 16 times as long, and GLA
    tuned and trained with narrow keys without an error. KDA, RWKV-6, RWKV-7 and GSA were not watched to the end.
    """
    configs = tuner.prune_configs(meta)
    faulty = FAULTY.fullmatch(tuner.base_fn.__name__) and meta.get("K", NARROW + 1) <= NARROW
    few = [c for c in configs if c.num_warps <= 2] if faulty else []
    return few or configs


def stages(configs: list[Any], timings: dict[Any, Any]) -> Iterator[list[Any]]:
    """The candidates to time next, from those timed so far, in three stages.

    First every tile, with the number of warps nearest to 4 and of pipeline stages nearest to 3; then all numbers of
    warps of the `KEPT` fastest tiles; then all numbers of pipeline stages of the `KEPT` fastest of these. Over 236
    kernels of FLA 0.6 tuned in full on an H100 this times 46 % of the candidates, and the kernel it takes is 0.26 %
    slower at the mean, 1.8 % at the 97th percentile, 20 % at worst (`bench/tuning.py` computes this from Triton's own
    records).

    Args:
        configs: all candidates.
        timings: config -> [median, ...] in ms, filled by the caller between the stages.
    """

    def tile(c: Any) -> str:
        return repr(sorted(c.kwargs.items()))

    def fastest() -> list[Any]:
        return sorted(timings, key=lambda c: timings[c][0])[:KEPT]

    def new(chosen: list[Any]) -> list[Any]:
        return [c for c in dict.fromkeys(chosen) if c not in timings]

    def nearest(group: list[Any]) -> Any:
        return min(group, key=lambda c: (abs(c.num_warps.bit_length() - 3), abs(c.num_stages - 3)))

    yield new([nearest([c for c in configs if tile(c) == t]) for t in dict.fromkeys(map(tile, configs))])
    tiles = [tile(c) for c in fastest()]
    pairs = dict.fromkeys((tile(c), c.num_warps) for c in configs if tile(c) in tiles)
    yield new([nearest([c for c in configs if (tile(c), c.num_warps) == pair]) for pair in pairs])
    pairs = dict.fromkeys((tile(c), c.num_warps) for c in fastest())
    yield new([c for c in configs if (tile(c), c.num_warps) in pairs])


def _compile(tuner: Any, configs: list[Any], args: tuple[Any, ...], meta: dict[str, Any], threads: int) -> None:
    """Compile the candidates into Triton's caches; what fails here fails again when timed."""
    from triton import AsyncCompileMode

    configs = [c for c in configs if c.pre_hook is None]
    with ThreadPoolExecutor(threads) as pool, AsyncCompileMode(pool, ignore_errors=True):
        for config in configs:
            with contextlib.suppress(Exception):
                tuner.fn.run(*args, **{**meta, **config.all_kwargs(), "warmup": True})


def _briefly(call: Callable[[], Any], quantiles: tuple[float, ...]) -> Any:
    import triton.testing

    return triton.testing.do_bench(call, warmup=WARMUP_MS, rep=REPEAT_MS, quantiles=quantiles)


@contextlib.contextmanager
def gpu_lock() -> Iterator[None]:
    """A lock for timing: one process of this user on this machine and GPU holds it."""
    import filelock
    import torch

    gpu = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
    with filelock.FileLock(Path(tempfile.gettempdir()) / f"attnlab-{os.getuid()}-{gpu}.lock"):
        yield
