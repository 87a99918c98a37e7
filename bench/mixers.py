"""Every mixer in one Markdown table: what its row of `mixers.MIXERS` says, and what building and running it shows.

    python -m bench.mixers > docs/mixers.md

Parameters are counted on the meta device; the state is measured by running the layer on the CPU with a cache. The
errors against FLA's kernels take long or need a GPU, so they are read from docs/mixers_errors.json, a file kept by
hand: {mixer: {"output": x, "gradient": y, "cuda_gradient": z}}, each of the three optional.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnlab.config import ModelConfig
from attnlab.models.backbone import Cache
from attnlab.models.block import Block
from attnlab.models.checks import arguments, check_mixer
from attnlab.models.mixers import MIXERS
from attnlab.models.rules import Shape
from attnlab.models.spec import MixerSpec

D_MODEL, HEADS = 384, (8, 12, 16)  # the first number of heads that the mixer takes
PROMPTS = 16, 80  # steps, more than any convolution is wide; what differs between the two grows with time
ERRORS = Path(__file__).parents[1] / "docs" / "mixers_errors.json"
COLUMNS = {"output": "output error", "gradient": "gradient error", "cuda_gradient": "gradient error, CUDA"}
HEADER = f"""# Mixers

Written by `python -m bench.mixers > docs/mixers.md`; do not edit.

* **runs on**: the CPU through attnlab's PyTorch, CUDA through FLA's kernels. "-" in a column: not counted or compared.
* **decode**: *cached* costs one step per new token, *recompute* reads the sequence again for each.
* **in hybrids**: whether it can stand in a pattern with other mixers. One that recomputes makes the whole model do so.
* **parameters**, **state**: of one layer at d_model {D_MODEL} with {HEADS[0]} heads, or with as many as are named. The
  state is what one sequence's cache holds in bytes, as measured in fp32; "/ token" is the part that grows with the
  sequence.
* **output error**, **gradient error**: relative error (norm of the difference over norm) of the output and of the worst
  gradient against FLA's own kernels, both in fp32 on the CPU (`tests/kernels/compare_with_fla.py`).
* **gradient error, CUDA**: of the worst parameter gradient of a language model (d_model 128, 2 layers, 256 steps),
  under bf16 autocast through FLA's kernels on one H100 against fp32 on the CPU: bf16's rounding is in it.
"""


def main() -> None:
    torch.set_num_threads(1)
    errors = json.loads(ERRORS.read_text()) if ERRORS.exists() else {}
    if unknown := errors.keys() - MIXERS.keys():
        raise ValueError(f"{ERRORS.name} names {', '.join(sorted(unknown))}: no such mixer")
    print(HEADER)
    titles = ["mixer", "source", "runs on", "decode", "in hybrids", "parameters", "state", *COLUMNS.values()]
    print(line(titles))
    print(line(["---"] * 5 + ["--:"] * (len(titles) - 5)))
    for name, spec in MIXERS.items():
        measured = [f"{errors[name][key]:.1e}" if key in errors.get(name, {}) else "-" for key in COLUMNS]
        print(line([f"`{name}`", spec.source, runs_on(spec), *use(spec), *size(name), *measured]))


def line(cells: list[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def runs_on(spec: MixerSpec) -> str:
    """The devices, and why not the others."""
    if spec.refused:
        return f"nothing: {spec.refused}"
    packages = ", ".join(need for need in spec.needs if need != "cuda")
    devices = "CUDA only: no CPU implementation" if "cuda" in spec.needs else "CPU, CUDA"
    return f"{devices}; needs the package {packages}" if packages else devices


def use(spec: MixerSpec) -> list[str]:
    """How it decodes, and whether it may stand beside others."""
    if spec.refused:
        return ["-", "-"]
    return ["cached" if spec.cached else "recompute", "if the first layer is one" if spec.shares else "yes"]


def size(name: str) -> list[str]:
    """Parameters and state of one layer; "-" where the layer cannot be built, or not run on the CPU."""
    models = (ModelConfig(d_model=D_MODEL, n_heads=n, n_layers=2, mlp="none", mixer=name) for n in HEADS)
    config = next((model for model in models if not check_mixer(model.mixer[0], model)), None)
    if config is None:
        return ["-", "-"]
    heads = "" if config.n_heads == HEADS[0] else f" ({config.n_heads} heads)"
    spec, at = MIXERS[name], Shape(D_MODEL, config.n_heads, 1, 2)  # layer 1: RWKV7's first has less than the others
    module, _, cls = spec.path.partition(":")
    with torch.device("meta"):  # by its class: `build_mixer` would ask for CUDA where the layer needs it to run
        built = getattr(importlib.import_module(module), cls)(**arguments(spec, {}, at))
    return [f"{sum(p.numel() for p in built.parameters()):,}{heads}", state(config)]


@torch.no_grad()
def state(config: ModelConfig) -> str:
    """What the layer's cache holds of one sequence, in bytes, apart from and per step of it."""
    spec = MIXERS[config.mixer[0].name]
    if not spec.cached or "cuda" in spec.needs:
        return "-"
    block, held = Block(config, 0).eval(), []
    for steps in PROMPTS:
        cache = Cache()
        block(torch.randn(1, steps, D_MODEL), cache, {})
        held.append(sum(x.numel() * x.element_size() for x in tensors(cache.layers[0].state)))
    per_step, rest = divmod(held[1] - held[0], PROMPTS[1] - PROMPTS[0])
    assert rest == 0, f"{config.mixer[0].name}: {held} bytes after {PROMPTS} steps"
    constant = held[0] - per_step * PROMPTS[0]
    parts = [f"{constant:,}"] * (constant > 0) + [f"{per_step:,} / token"] * (per_step > 0)
    return " + ".join(parts)


def tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors in nested dicts, sequences and dataclasses."""
    if isinstance(tree, Tensor):
        yield tree
    elif dataclasses.is_dataclass(tree):
        yield from tensors(vars(tree))
    elif isinstance(tree, dict):
        yield from tensors(list(tree.values()))
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from tensors(item)


if __name__ == "__main__":
    main()
