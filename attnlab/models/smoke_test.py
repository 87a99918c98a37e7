"""A user's own mixer, run once on a small input before a sweep starts.

The worst mistake is silent: a mixer that lets a token see later ones gets a low loss, and every result of its arm is
false. So causality is tested by changing tokens, not by derivatives, which miss what an argmax or a top-k leaks.
"""

from __future__ import annotations

import inspect
import os
import traceback
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from attnlab.models import signature
from attnlab.models.build import build_mixer
from attnlab.util import trust
from attnlab.util.text import one_line

if TYPE_CHECKING:
    from attnlab.config.trial import MixerConfig, ModelConfig

BATCH, LENGTHS = 2, (8, 7)  # generation and the ends of texts bring every length, so one that is no multiple of much
CALL = "forward(hidden_states, past_key_values=None, use_cache=False, **extra)"
EXTRA = ("past_key_values", "use_cache", "attention_mask")  # what the model around it may give by name
# How far two outputs may be apart and still count as equal, relative to the largest: rounding, in fp32 on the CPU and
# under bf16 autocast on CUDA, where sums also change their order.
ROUNDING = {"cpu": 1e-4, "cuda": 2e-2}


class Refused(Exception):
    """What is wrong, on one line."""


def try_mixer(mixer: MixerConfig, model: ModelConfig, layer: int) -> str | None:
    """Build the layer at depth `layer` and run it as training would, on small inputs.

    That is forward and backward, on [2, 8, D] and [2, 7, D]. It runs on the CPU; a class that says `cuda_only = True`
    runs on CUDA, or not at all where there is none. The CPU's random state stays as it was.

    Returns:
        one line on the first thing that is wrong; None if nothing is.

    Raises:
        UntrustedModule: the user did not name its module.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            kind = _call_user_code("importing it", mixer, trust.load, mixer.name, "mixer")
            if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
                raise Refused("it is no torch.nn.Module")
            _check_call(kind)
            device = "cuda" if getattr(kind, "cuda_only", False) else "cpu"
            if device == "cpu" or torch.cuda.is_available():
                built = _call_user_code("its constructor", mixer, _build, mixer, model, layer, device)
                for steps in LENGTHS:
                    x = torch.randn(BATCH, steps, model.d_model, generator=torch.Generator().manual_seed(steps))
                    _check_run(_Runner(built, mixer), x.to(device))
    except Refused as refused:
        return str(refused)
    return None


def _build(mixer: MixerConfig, model: ModelConfig, layer: int, device: str) -> nn.Module:
    """Build the layer in training mode, drawing what was left at zero, which hides faults."""
    torch.manual_seed(0)
    with torch.device(device):
        built = build_mixer(mixer, model, layer).train()
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.requires_grad and not parameter.any():
                parameter.normal_(std=0.02)
    return built


class _Runner:
    """Runs a layer again and again from the same state and seed."""

    def __init__(self, built: nn.Module, mixer: MixerConfig):
        self.built, self.mixer = built, mixer
        state = _call_user_code("its state_dict", mixer, built.state_dict)
        self.start = {name: value.clone() for name, value in state.items() if isinstance(value, Tensor)}

    def __call__(self, x: Tensor) -> Any:
        return _call_user_code(f"forward for {list(x.shape)}", self.mixer, self._run, x)

    def _run(self, x: Tensor) -> Any:
        self.built.load_state_dict(self.start, strict=False)
        torch.manual_seed(0)
        half = x.device.type == "cuda"  # as a model gives it to its mixers there
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            out = self.built(x.bfloat16() if half else x, past_key_values=None, use_cache=False)
        return out[0] if isinstance(out, tuple) and out else out


def _check_call(kind: type[nn.Module]) -> None:
    """Whether `forward` can be called as the model calls it."""
    call = inspect.signature(kind.forward)
    takes = call.parameters.values()
    missing = [name for name in EXTRA if name not in {p.name for p in takes if p.kind is not p.POSITIONAL_ONLY}]
    if missing and not any(p.kind is p.VAR_KEYWORD for p in takes):
        raise Refused(f"forward takes no {', '.join(missing)}; it is called as {CALL}")
    try:
        call.bind(None, None)
    except TypeError as error:
        raise Refused(f"forward: {error}, beside hidden_states; it is called as {CALL}") from None


def _check_run(run: _Runner, x: Tensor) -> None:
    """Check shape, type, values, gradient and causality."""
    x.requires_grad_()
    out = run(x)
    if not isinstance(out, Tensor):
        raise Refused(f"forward gave a {type(out).__name__}; it must give a tensor or a tuple that begins with one")
    if out.shape != x.shape:
        raise Refused(f"forward gave {list(out.shape)} for {list(x.shape)}; it must give the shape it got")
    if not out.is_floating_point() or torch.promote_types(out.dtype, x.dtype) != x.dtype:
        given, got = (str(t.dtype).removeprefix("torch.") for t in (out, x))
        raise Refused(f"forward gave {given} for {got}; it must give the type it got, or a shorter float")
    if not out.isfinite().all():
        raise Refused(f"forward gave values that are not finite for normally distributed {list(x.shape)}")
    if out.requires_grad:
        seen = out.detach().clone()
        _call_user_code(f"the backward pass for {list(x.shape)}", run.mixer, out.sum().backward)
        if x.grad is not None and not x.grad.isfinite().all():
            raise Refused(f"its gradient is not finite for normally distributed {list(x.shape)}")
        out = seen
    _check_causal(run, x.detach(), out)


def _check_causal(run: _Runner, x: Tensor, out: Tensor) -> None:
    allowed = ROUNDING[x.device.type] * out.abs().amax()
    if _first_change(run(x), out, allowed) is not None:
        raise Refused("forward gave two outputs for one input and torch seed; nothing may stay from call to call")
    for t in range(1, x.shape[1]):
        other = x.clone()
        other[:, t:] = x[:, t:].flip(0) + 1.0
        if (changed := _first_change(run(other)[:, :t], out[:, :t], allowed)) is not None:
            raise Refused(
                f"not causal: other tokens from {t} on changed the output at token {changed} (of {x.shape[1]}, counted "
                "from 0); a mixer that sees later tokens gives false results"
            )


def _first_change(a: Tensor, b: Tensor, allowed: Tensor) -> int | None:
    """The first token whose output differs; [B, T, D] both."""
    apart = ((a - b).abs().amax((0, 2)) > allowed).nonzero()
    return int(apart[0]) if len(apart) else None


def _call_user_code(what: str, mixer: MixerConfig, function: Any, *args: Any) -> Any:
    """Call the user's code; an exception is refused on one line, with the file's last line."""
    try:
        return function(*args)
    except (Refused, trust.UntrustedModule):
        raise
    except (Exception, SystemExit) as error:  # a file that is a script may exit when imported
        file = os.path.realpath(signature.locate(mixer.name.partition(":")[0]))
        frames = [f for f in traceback.extract_tb(error.__traceback__) if os.path.realpath(f.filename) == file]
        near = os.path.relpath(file)
        line = f" ({file if near.startswith('..') else near}:{frames[-1].lineno})" if frames else ""
        raise Refused(f"{what} raised {type(error).__name__}: {one_line(error)}{line}") from error
