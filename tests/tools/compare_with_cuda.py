"""One mixer in a small language model, on CUDA through FLA's kernels and on the CPU through ours; prints a JSON line.

    python tests/tools/compare_with_cuda.py gla fp32
    python tests/tools/compare_with_cuda.py gla bf16 384

Relative errors (norm of the difference over norm) of the logits and of every parameter's gradient; d_model 128 unless
given, 2 layers, T 257: no multiple of a chunk. With bf16 both devices are held against fp32 on the CPU: what bf16
autocast changes on the CPU (`noise`, of the same parameter) is rounding, and tells how much of CUDA's error is.
"""

import copy
import json
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2])]

import torch  # noqa: E402

from attnlab.config.trial import ModelConfig  # noqa: E402
from attnlab.kernels import dispatch  # noqa: E402
from attnlab.models import MIXERS, build_model  # noqa: E402
from attnlab.models.checks import check_mixer  # noqa: E402

LAYERS, STEPS, VOCAB = 2, 257, 256
HEADS = {128: (4, 8), 384: (8, 6, 12), 512: (8, 16)}  # the first number that the mixer takes


def take_first_valid_config() -> None:
    """The autotuner's first configuration that runs: right answers need no timing, and timing takes minutes."""
    from triton.runtime.autotuner import Autotuner

    bench = Autotuner._bench

    def once(self: Any, *args: Any, config: Any, **meta: Any) -> list[float]:
        if getattr(self, "_found_for", None) is self.nargs:
            return [float("inf")] * 3
        timing = bench(self, *args, config=config, **meta)
        if timing[0] != float("inf"):
            self._found_for = self.nargs
        return timing

    Autotuner._bench = once


def build(name: str, d_model: int) -> torch.nn.Module:
    """In evaluation mode: Raven draws noise in training, and the devices' generators differ."""
    torch.manual_seed(0)
    trees = ({"d_model": d_model, "n_layers": LAYERS, "n_heads": n, "mixer": name} for n in HEADS[d_model])
    tree = next(t for t in trees if not check_mixer((m := ModelConfig.model_validate(t)).mixer[0], m))
    return build_model(tree, VOCAB).eval()


def run(model: Any, x: torch.Tensor, y: torch.Tensor, bf16: bool) -> dict[str, torch.Tensor]:
    """Logits and gradients, on the CPU."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        logits = model.head(model.hidden(x)).float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())
    loss.backward()
    gradients = {name: p.grad.float().cpu() for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": logits.detach().cpu(), "loss": loss.detach().cpu(), **gradients}


def errors(found: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> dict[str, float]:
    assert found.keys() == right.keys()
    return {key: ((found[key] - right[key]).norm() / (right[key].norm() + 1e-9)).item() for key in right}


def compare(name: str, bf16: bool, d_model: int) -> dict[str, Any]:
    model = build(name, d_model)
    twin, noisy = copy.deepcopy(model).cuda(), copy.deepcopy(model)
    tokens = torch.randint(0, VOCAB, (2, STEPS + 1))
    x, y = tokens[:, :-1], tokens[:, 1:].contiguous()
    dispatch.calls.clear()
    cuda = run(twin, x.cuda(), y.cuda(), bf16)
    substitutes = sorted(dispatch.calls)
    if "cuda" in MIXERS[name].needs:  # nothing to hold it against: that it trains is all there is to see
        finite = all(value.isfinite().all() for value in cuda.values())
        return {"loss": cuda["loss"].item(), "finite": finite, "substitutes": substitutes}
    right = run(model, x, y, False)
    found = errors(cuda, right)
    logits, loss = found.pop("logits"), found.pop("loss")
    worst = max(found, key=lambda key: found[key])
    out = {"loss": loss, "logits": logits, "gradient": found[worst], "parameter": worst, "substitutes": substitutes}
    return out | ({"noise": errors(run(noisy, x, y, True), right)[worst]} if bf16 else {})


if __name__ == "__main__":
    mixer, precision, d_model = [*sys.argv[1:], "128"][:3]
    take_first_valid_config()
    try:
        seen = compare(mixer, precision == "bf16", int(d_model))
    except Exception as error:  # what a kernel refuses is a finding
        seen = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    print(json.dumps({"mixer": mixer, "precision": precision, "d_model": int(d_model), **seen}), flush=True)
