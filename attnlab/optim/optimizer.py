"""The optimizers of one model under one schedule, and how they are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from attnlab.config.trial import OptimConfig
from attnlab.optim.groups import param_groups
from attnlab.optim.muon import Muon
from attnlab.optim.schedule import branch_factor, lr_factor

ADAM_EPS = 1e-8  # Kingma & Ba 2015, arXiv 1412.6980


class Optimizer:
    """The optimizers of one model under one schedule. Per step: `set_lr(step)`, backward, `clip`, `step`, `zero_grad`.

    The rate is not part of the state: it follows from the step, so resuming needs `load_state_dict` and the step alone.
    """

    def __init__(
        self,
        named: Mapping[str, nn.Parameter],
        optimizers: list[torch.optim.Optimizer],
        optim: OptimConfig,
        max_steps: int,
    ):
        self.named, self.optimizers, self.optim, self.max_steps = dict(named), optimizers, optim, max_steps
        self._branch: tuple[int, int] | None = None

    def lr(self, step: int) -> float:
        """The rate of the update that makes step `step` (1-based)."""
        if self._branch:
            return self.optim.lr * branch_factor(step, *self._branch, self.optim)
        return self.optim.lr * lr_factor(step, self.max_steps, self.optim)

    @contextmanager
    def decaying(self, start: int, steps: int) -> Iterator[None]:
        """Within it, the rate decays over the `steps` steps after step `start`."""
        self._branch = (start, steps)
        try:
            yield
        finally:
            self._branch = None

    def set_lr(self, step: int) -> None:
        """Write the rate of step `step` to every group, in place where it is a tensor."""
        value = self.lr(step)
        for group in self._groups():
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(value)
            else:
                group["lr"] = value

    def clip(self, max_norm: float | None) -> Tensor:
        """Scale all gradients to a global 2-norm of at most `max_norm`; None: only measure.

        Returns:
            The norm before clipping, 0-dim, on the device. Non-finite gradients give a non-finite norm and stay so.
        """
        params = [param for param in self.named.values() if param.grad is not None]
        if max_norm is None:
            return torch.nn.utils.get_total_norm([p.grad for p in params if p.grad is not None], foreach=True)
        return torch.nn.utils.clip_grad_norm_(params, max_norm, error_if_nonfinite=False, foreach=True)

    def step(self) -> None:
        """Update the parameters from their gradients."""
        for each in self.optimizers:
            each.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, or fill them with zeros in place, as a captured graph needs."""
        for each in self.optimizers:
            each.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Tensor]:
        """`<parameter's name>.<slot>` -> the live tensor (no copy), all of them from construction on.

        Slots are `momentum_buffer` (Muon), `exp_avg`, `exp_avg_sq` and `step` (AdamW). Flat and of tensors only, so
        safetensors holds it.
        """
        states = {id(param): state for each in self.optimizers for param, state in each.state.items()}
        return {f"{name}.{slot}": x for name, param in self.named.items() for slot, x in states[id(param)].items()}

    @torch.no_grad()
    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        """Copy `saved` into the state in place, where a captured graph reads it.

        Raises:
            ValueError: keys or shapes differ from this model's and optimizer's; nothing is changed then.
        """
        state = self.state_dict()
        if wrong := sorted(saved.keys() ^ state.keys()):
            raise ValueError(f"state of another model or optimizer: {len(wrong)} keys differ, {wrong[0]!r} first")
        for key, x in state.items():
            if x.shape != saved[key].shape:
                raise ValueError(f"optimizer state {key!r} is {tuple(saved[key].shape)}, the model's {tuple(x.shape)}")
        for key, x in state.items():
            x.copy_(saved[key])

    def _groups(self) -> Iterator[dict[str, Any]]:
        for each in self.optimizers:
            yield from each.param_groups


def make_optimizer(
    model: nn.Module, optim: OptimConfig, max_steps: int, device: torch.device | str, capturable: bool = False
) -> Optimizer:
    """The optimizer `optim` names, over the parameters of `model`, at the rate of step 1.

    Args:
        model: already on `device`.
        optim: `adamw` trains everything with AdamW; `muon` gives the hidden matrices to Muon, AdamW has the rest.
        max_steps: the length of the schedule.
        device: where the parameters are.
        capturable: keep the rate and AdamW's step count on the device, for capture in a CUDA graph.

    Raises:
        ValueError: no trainable parameter, or a warm-up as long as the run.
    """
    device, split = torch.device(device), param_groups(model)
    named = {**split.hidden, **split.decay, **split.no_decay}
    if not named:
        raise ValueError("no parameter of the model requires grad")
    first = optim.lr * lr_factor(1, max_steps, optim)
    # One tensor for all groups; fp32, as the fused AdamW kernel reads it.
    lr: Any = torch.tensor(first, dtype=torch.float32, device=device) if capturable else first

    optimizers: list[torch.optim.Optimizer] = []
    decay = dict(split.decay)
    if optim.name == "adamw":
        decay |= split.hidden
    elif split.hidden:
        optimizers.append(Muon(split.hidden.values(), lr, optim.weight_decay, optim.momentum))
    groups = [
        {"params": list(params.values()), "weight_decay": weight_decay}
        for params, weight_decay in ((decay, optim.weight_decay), (split.no_decay, 0.0))
        if params
    ]
    if groups:
        # Of the CPU's implementations only the fused one takes the rate as a tensor.
        fused = capturable or device.type == "cuda"
        adamw = torch.optim.AdamW(
            groups,
            lr=lr,
            betas=(optim.beta1, optim.beta2),
            eps=ADAM_EPS,
            fused=fused,
            foreach=not fused,
            capturable=capturable,
        )
        # What the first step would create, created now: state_dict and capture then need no first step.
        for param in (param for group in adamw.param_groups for param in group["params"]):
            step = torch.zeros((), dtype=torch.float32, device=param.device if fused else "cpu")
            adamw.state[param].update(step=step, exp_avg=torch.zeros_like(param), exp_avg_sq=torch.zeros_like(param))
        optimizers.append(adamw)
    return Optimizer(named, optimizers, optim, max_steps)
