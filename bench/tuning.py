"""How much of the autotuning attnlab saves, and what it loses by it: replayed from Triton's own records.

    python -m bench.tuning CACHE [--worst 5]

CACHE is a TRITON_CACHE_DIR in which kernels were tuned in full, every candidate timed (without
`attnlab.kernels.cuda.autotune.install()`). Each record's timings are given to `tuning.stages` as if they had just been
measured, and the kernel that the stages take is held against the fastest of all. Needs no GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from triton import Config

from attnlab.kernels.cuda.autotune import stages


@dataclass(frozen=True)
class Replay:
    """One kernel, tuned for one key.

    Attributes:
        name: the kernel's.
        candidates: how many there are.
        timed: how many of them the stages time.
        best_ms: of all candidates.
        taken_ms: of the one that the stages take.
    """

    name: str
    candidates: int
    timed: int
    best_ms: float
    taken_ms: float

    @property
    def slowdown(self) -> float:
        """Of the kernel taken, relative to the best: 0 is none."""
        return self.taken_ms / self.best_ms - 1


def main() -> None:
    args = arguments()
    replays = [replay(path.name.removesuffix(".autotune.json"), timings) for path, timings in records(args.cache)]
    if not replays:
        raise SystemExit(f"{args.cache}: no *.autotune.json with more than one candidate that ran")
    candidates, timed = sum(r.candidates for r in replays), sum(r.timed for r in replays)
    slow = sorted(r.slowdown for r in replays)
    print("kernels  candidates  timed  share   slowdown of the kernel taken: mean     p97     max")
    print(
        f"{len(replays):7}  {candidates:10}  {timed:5}  {timed / candidates:5.1%}  {'':29}"
        f"{statistics.mean(slow):6.2%}  {quantile(slow, 0.97):6.2%}  {slow[-1]:6.2%}"
    )
    for r in sorted(replays, key=lambda r: -r.slowdown)[: args.worst]:
        print(
            f"  {r.slowdown:6.2%}  {r.timed:3} of {r.candidates:3}  {r.taken_ms:.4f} for {r.best_ms:.4f} ms  {r.name}"
        )


def records(cache: Path) -> Iterator[tuple[Path, dict[Config, list[float]]]]:
    """Every record below `cache` in which there was something to choose: candidate -> [median, p20, p80] in ms."""
    for path in sorted(cache.rglob("*.autotune.json")):
        timings = {
            Config(**config): times for config, times in json.loads(path.read_text(encoding="utf-8"))["configs_timings"]
        }
        if sum(math.isfinite(times[0]) for times in timings.values()) > 1:
            yield path, timings


def replay(name: str, full: dict[Config, list[float]]) -> Replay:
    """Let the stages choose, with the measured timings for answers."""
    timings: dict[Config, list[float]] = {}
    for candidates in stages(list(full), timings):
        timings |= {candidate: full[candidate] for candidate in candidates}
    best, taken = (min(times[0] for times in known.values()) for known in (full, timings))
    return Replay(name, len(full), len(timings), best, taken)


def quantile(ordered: list[float], q: float) -> float:
    """The smallest value that at least the part `q` of them does not exceed."""
    return ordered[math.ceil(q * len(ordered)) - 1]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--worst", type=int, default=5, help="kernels listed that lose most")
    return parser.parse_args()


if __name__ == "__main__":
    main()
