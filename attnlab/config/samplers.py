"""The table of samplers, the one place to add one, free of Optuna."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SamplerKind:
    """One sampler. `factory`: `module:function`, from a SearchConfig and a seed to an Optuna sampler."""

    factory: str
    choices: bool = True  # whether it takes `choice` dimensions
    ranges: bool = True  # whether it takes ranges
    exhaustive: bool = False  # it tries every point once, in order, whatever `search.trials` says


SAMPLERS = {
    "tpe": SamplerKind("attnlab.sweep.search.samplers:tpe"),
    "random": SamplerKind("attnlab.sweep.search.samplers:random"),
    "grid": SamplerKind("attnlab.sweep.search.samplers:random", ranges=False, exhaustive=True),
    "cmaes": SamplerKind("attnlab.sweep.search.samplers:cmaes", choices=False),
}
