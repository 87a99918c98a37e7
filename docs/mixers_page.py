"""The page docs/mixers.md: every mixer, what its row says, and what building and running its layer shows.

A mixer's parameters are counted on the meta device; its state is measured by running the layer on the CPU with a cache.
The errors against FLA's kernels take long or need a GPU, so they are read from docs/mixers_errors.json, a file kept by
hand: {mixer: {"output": x, "gradient": y, "cuda_gradient": z}}, each of the three optional.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from attnlab.config.trial import ModelConfig
from attnlab.models import MIXERS, check_mixer
from attnlab.models.checks import arguments
from attnlab.models.cost.flops import flops_per_token
from attnlab.models.cost.state import state_of
from attnlab.models.mixers.rules import ModelShape
from attnlab.models.mixers.spec import MixerSpec
from docs.markdown import WRITTEN, table

D_MODEL, HEADS = 384, (8, 12, 16)  # the first number of heads that the mixer takes
ERRORS = Path(__file__).with_name("mixers_errors.json")
COLUMNS = {
    "output": "output error",
    "gradient": "gradient error",
    "varlen": "variable length",
    "strong_decay": "strong decay",
    "cuda_gradient": "gradient error, CUDA",
}
SEQ_LEN = 512
HEAD = f"""# Mixers

{WRITTEN}

* **runs on**: the CPU through attnlab's PyTorch, CUDA through FLA's kernels. "-" in a column: not counted or compared.
* **decode**: *cached* costs one step per new token, *recompute* reads the sequence again for each.
* **in hybrids**: whether it can stand in a pattern with other mixers. One that recomputes makes the whole model do so.
* **parameters**, **state**: of one layer at d_model {D_MODEL} with {HEADS[0]} heads, or with as many as are named. The
  state is what one sequence's cache holds in bytes, as measured in fp32; "/ token" is the part that grows with the
  sequence.
* **MFLOP**: million operations per trained token of one layer in sequences of {SEQ_LEN}
  (`attnlab/models/mixers/operations.py`).
* **output error**, **gradient error**: relative error (norm of the difference over norm) of the output and of the worst
  gradient against FLA's own kernels, both in fp32 on the CPU (`tests/tools/compare_with_fla.py`: 2 x 100 steps).
* **variable length**, **strong decay**: the worst of output and gradients for sequences of 9, 1 and 70 steps laid end
  to end, and with half of the heads or channels forgetting their state within a step or two. Where an error is above
  2e-5, it is FLA's kernels that are off from the same in fp64: by rounding to half precision, or in the gradients of
  decays that leave nothing, and no further than by their own rounding (`tests/kernels/cpu/test_against_fla.py`);
  `wall`'s are wrong there.
* **gradient error, CUDA**: of the worst parameter gradient of a language model (d_model 128, 2 layers, 256 steps),
  under bf16 autocast through FLA's kernels on one H100 against fp32 on the CPU: bf16's rounding is in it.
"""


def page() -> str:
    """docs/mixers.md: what each row of the table says, and what building and running the layer shows."""
    torch.set_num_threads(1)
    errors = json.loads(ERRORS.read_text(encoding="utf-8"))
    if unknown := errors.keys() - MIXERS.keys():
        raise ValueError(f"{ERRORS.name} names {', '.join(sorted(unknown))}: no such mixer")
    titles = ["mixer", "source", "runs on", "decode", "in hybrids", "parameters", "state", "MFLOP", *COLUMNS.values()]
    return HEAD + "\n" + table(titles, [row(name, errors.get(name, {})) for name in MIXERS], right=len(titles) - 5)


def row(name: str, errors: Mapping[str, float]) -> list[str]:
    """One mixer's cells, with its errors against FLA's kernels."""
    spec, compared = MIXERS[name], [f"{errors[key]:.1e}" if key in errors else "-" for key in COLUMNS]
    return [f"`{name}`", spec.source, runs_on(spec), *use(spec), *size(name), *compared]


def runs_on(spec: MixerSpec) -> str:
    """The devices, and why not the others."""
    if spec.refused:
        return f"nothing: {spec.refused}"
    packages = ", ".join(need for need in spec.needs if need != "cuda")
    devices = "CUDA only: no CPU implementation" if "cuda" in spec.needs else "CPU, CUDA"
    return f"{devices}; needs the package {packages}" if packages else devices


def use(spec: MixerSpec) -> list[str]:
    """How it decodes, and whether it may stand in a pattern with others."""
    if spec.refused:
        return ["-", "-"]
    return ["cached" if spec.cached else "recompute", "if the first layer is one" if spec.shares else "yes"]


def size(name: str) -> list[str]:
    """Parameters, state and operations of one layer; "-" where it cannot be built, or not run on the CPU."""
    models = (ModelConfig(d_model=D_MODEL, n_heads=n, n_layers=2, mlp="none", mixer=name) for n in HEADS)
    config = next((model for model in models if not check_mixer(model.mixer[0], model)), None)
    if config is None:
        return ["-"] * 3
    heads = "" if config.n_heads == HEADS[0] else f" ({config.n_heads} heads)"
    spec, at = (
        MIXERS[name],
        ModelShape(D_MODEL, config.n_heads, 1, 2),
    )  # layer 1: RWKV7's first has less than the others
    module, _, cls = spec.path.partition(":")
    with torch.device("meta"):  # by its class: `build_mixer` would ask for CUDA where the layer needs it to run
        built = getattr(importlib.import_module(module), cls)(**arguments(spec, {}, at))
    work = flops_per_token(config.model_copy(update={"n_layers": 1}), SEQ_LEN)
    counted = f"{work / 1e6:.2f}" if work else "-"
    return [f"{sum(p.numel() for p in built.parameters()):,}{heads}", state(config), counted]


def state(config: ModelConfig) -> str:
    """What the layer's cache holds of one sequence, in bytes, apart from and per step of it."""
    held = state_of(config, 0)
    if held is None:
        return "-"
    fixed, per_token = 4 * held.fixed, 4 * held.per_token
    return " + ".join([f"{fixed:,}"] * (fixed > 0) + [f"{per_token:,} / token"] * (per_token > 0))
