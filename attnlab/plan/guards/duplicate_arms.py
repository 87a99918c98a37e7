"""Arms that are the same experiment under two names: a setting that was ignored on its way to the model.

Two arms are the same if what is searched is the same and, at the first and at the last corner of that space, so are

    the schedule, step by step; batch, steps, seed, precision, clipping and how often is validated
    the module tree, every shape, and which parameters each optimizer group has with which settings
    the examples, where their tasks differ in any setting
    the weights under one seed, and under one input the loss and every gradient, to the last bit

The last are compared on a twin: as many of the first layers as show every pair of the two arms' mixers, at the real
width, first on SHORT tokens and then, as a window or a chunk may be longer, on as many as are trained or validated on.
Settings that change how a thing is computed and not what (`COST`) set arms apart: their speed may be what is asked.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from attnlab.config.resolved import Arm, Plan
from attnlab.config.trial import ModelConfig, Trial
from attnlab.models import build_model
from attnlab.plan.guards.factors import corner_trial, differing, flat_settings, task_settings
from attnlab.plan.guards.fingerprint import Fingerprint, fingerprint, schedule
from attnlab.tasks import Task, build_task

COST = ("train.step", "train.grad_accum", "model.mixer.mode", "model.mixer.backend", "model.mixer.chunk_size")
SHORT, LONGEST = 64, 4096  # tokens
VOCABULARY, JITTER = 64, 0.02  # of the twin


@dataclass
class Duplicates:
    """The outcome of comparing arms.

    Attributes:
        same: a line per arm that repeats an earlier one.
        unsure: arms that could not be told apart here, and why.
        compared: pairs that agreed in everything but the model's arithmetic, so that it was run.
    """

    same: list[str] = field(default_factory=list)
    unsure: list[str] = field(default_factory=list)
    compared: int = 0


def find(plan: Plan, tasks: Mapping[str, Task]) -> Duplicates:
    """Compare every pair of arms. `tasks`: each arm's, ready to be asked for examples."""
    result, groups = Duplicates(), dict[Hashable, list[str]]()
    for arm in plan.arms:
        groups.setdefault(_training(arm), []).append(arm.name)
    for arms in groups.values():
        built: dict[Hashable, list[str]] = {}
        for arm in arms if len(arms) > 1 else ():
            ends = [fingerprint(corner_trial(plan.arm(arm), last), tasks[arm]) for last in (False, True)]
            if None in ends:
                result.unsure.append(f"{arm}: not compared with other arms; its mixer cannot be built on this machine")
            else:
                built.setdefault(_shape(ends), []).append(arm)
        for alike in built.values():
            _compare(plan, alike, result)
    return result


def _shape(ends: list[Fingerprint | None]) -> Hashable:
    return tuple((b.modules, b.optimizer) for b in ends if b)


def _training(arm: Arm) -> Hashable:
    """All of an arm's training that takes no model to be seen, and its settings in `COST`."""
    seen: list[Hashable] = [repr(sorted(arm.space.items()))]
    for last in (False, True):
        trial = corner_trial(arm, last)
        train = trial.train.model_dump(exclude={"save_every"})
        flat = {f"train.{key}": value for key, value in train.items()}
        layers = [trial.model.mixer_at(layer).args for layer in range(trial.model.n_layers)]
        cost = [repr([args.get(key.rpartition(".")[2]) for args in layers]) for key in COST if "mixer" in key]
        seen += [
            repr(flat),
            tuple(cost),
            trial.model.dropout,
            schedule(trial.optim, trial.train.max_steps),
            trial.optim.clip,
        ]
    return tuple(seen)


def _compare(plan: Plan, arms: list[str], result: Duplicates) -> None:
    """Arms that agree in training and structure: the first of each kind stands for it."""
    kinds: list[str] = []
    for arm in arms:
        for other in kinds:
            same = _same(plan.arm(other), plan.arm(arm))
            result.compared += 1
            if same is None:
                result.unsure.append(
                    f"{arm}: could not be told from {other} here (a mixer that needs CUDA, or over {LONGEST:,} tokens)"
                )
            elif same:
                result.same.append(_same_text(plan.arm(other), plan.arm(arm)))
                break
        else:
            kinds.append(arm)


def _same_text(first: Arm, arm: Arm) -> str:
    a, b = (flat_settings(each) for each in (first, arm))
    ignored = [f"{key} ({_text(a, key)} there, {_text(b, key)} here)" for key in differing(a, b)]
    given = differing(*(flat_settings(each, searched=False) for each in (first, arm)))
    if ignored:
        why = f"{' and '.join(ignored)} {'have' if len(ignored) > 1 else 'has'} no effect"
    else:
        why = f"{' and '.join(given)}, in which they differ, is searched" if given else "no setting differs"
    return f"arms.{arm.name}: the same as arm {first.name}: {why}; leave one of them out, or correct it"


def _text(settings: Mapping[str, Any], key: str) -> str:
    return str(settings[key]) if key in settings else "not set"


def _same(a: Arm, b: Arm) -> bool | None:
    """Whether two arms of equal structure are one experiment; None if that cannot be told here."""
    for last in (False, True):
        one, other = (corner_trial(arm, last) for arm in (a, b))
        if not same_data(one, other):
            return False
        if (same := same_function(one.model, other.model, _longest(one), _readout(one))) is not True:
            return same
    return True


def _task(trial: Trial) -> Task:
    return build_task(trial.task, batch_size=trial.train.batch_size, seed=trial.train.seed)


def _readout(trial: Trial) -> Any:
    return _task(trial).readout


def _longest(trial: Trial) -> int:
    return max(task.seq_len for task in _task(trial).lengths().values())


def same_data(a: Trial, b: Trial) -> bool:
    """Whether two trials of equal batch size and seed read the same examples.

    Compared are the first batches, the last one, and all of validation at every length.
    """
    if a.task.name == b.task.name and task_settings(a.task) == task_settings(b.task):
        return True
    one, other = _task(a), _task(b)
    facts = [(t.vocab_size, t.metrics, t.readout, t.kind_names, list(t.lengths())) for t in (one, other)]
    if facts[0] != facts[1]:
        return False
    steps = (0, 1, a.train.max_steps - 1)
    if not all(_equal(one.batch(step), other.batch(step)) for step in steps):
        return False
    pairs = zip(one.lengths().values(), other.lengths().values(), strict=True)
    return all(_equal(x.eval_examples(), y.eval_examples()) for x, y in pairs)


def _equal(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def same_function(a: ModelConfig, b: ModelConfig, longest: int, readout: Any = None) -> bool | None:
    """Whether two models of one structure start and compute alike.

    None if one cannot be run here, or if they agree on `LONGEST` tokens where `longest` is more.
    """
    if a == b:
        return True
    a, b = (_cut(model, (a, b)) for model in (a, b))
    try:
        for steps in dict.fromkeys((min(SHORT, longest), min(longest, LONGEST))):
            for x, y in zip(_run(a, steps, readout), _run(b, steps, readout), strict=True):
                if not torch.equal(x, y):
                    return False
    except (ValueError, RuntimeError, NotImplementedError, AssertionError):
        return None
    return None if longest > LONGEST else True


def _cut(model: ModelConfig, both: tuple[ModelConfig, ModelConfig]) -> ModelConfig:
    """The model with as many layers as show every pair of mixers.

    Two where there are two: later layers may read what the first one leaves.
    """
    pairs = [tuple(str(each.mixer_at(layer)) for each in both) for layer in range(model.n_layers)]
    deepest = max(pairs.index(pair) for pair in set(pairs)) + 1
    return model.model_copy(update={"n_layers": min(model.n_layers, max(2, deepest))})


def _run(model: ModelConfig, steps: int, readout: Any) -> Iterator[torch.Tensor]:
    """Yield the weights as they start, then the loss and every gradient of a training step, dropout included.

    Before the step all weights are moved a little, since a zero hides what lies behind it. Deterministic, and torch's
    random state stays as it was.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        built = build_model(model, VOCABULARY, readout).train()
        yield from (tensor.clone() for tensor in built.state_dict().values())
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.add_(JITTER * torch.randn(parameter.shape, generator=draw))
        rows = 2 if steps <= SHORT else 1
        tokens, targets = (torch.randint(VOCABULARY, (rows, steps), generator=draw) for _ in range(2))
        torch.manual_seed(2)
        loss = built.loss_sum(tokens, targets)
        loss.backward()
    yield loss.detach()
    for parameter in built.parameters():
        yield torch.zeros(()) if parameter.grad is None else parameter.grad
