"""Arms that are one experiment twice: a setting was ignored on its way.

Two arms are the same if what is searched is the same and, at the first and at the last corner of that space, so are

    the schedule, step by step; batch, steps, seed, precision, clipping and how often is validated
    the module tree, every shape, and which parameters each optimizer group has with which settings
    the examples, where their tasks differ in any setting
    the weights under one seed, and under one input the loss and every gradient, to the last bit

The last are compared on a twin at the real width: as many of the first layers as show every pair of the two arms'
mixers. It runs on SHORT tokens, and then, as a window or a chunk may be longer, on as many as are trained or validated
on. Settings that change only how a thing is computed (`COST`) set arms apart: their speed may be the question.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from attnlab.config.resolved import Arm, Plan
from attnlab.config.trial import ModelConfig, Trial
from attnlab.models import assemble
from attnlab.plan.guards.factors import corner_trial, differing, flat_settings, task_settings
from attnlab.plan.guards.fingerprint import fingerprint, schedule
from attnlab.tasks import Task, build_task

COST = ("train.step", "train.grad_accum", "model.mixer.mode", "model.mixer.backend", "model.mixer.chunk_size")
SHORT, LONGEST = 64, 4096  # tokens
VOCABULARY, JITTER = 64, 0.02  # of the twin


@dataclass
class Duplicates:
    """The outcome of comparing arms."""

    same: list[str] = field(default_factory=list)  # a line per arm that repeats an earlier one
    unsure: list[str] = field(default_factory=list)  # a line per arm that could not be compared here
    compared: int = 0  # pairs whose models were run, since all else agreed


def find(plan: Plan, tasks: Mapping[str, Task]) -> Duplicates:
    """Compare every pair of arms. `tasks`: each arm's, ready to be asked for examples."""
    result, groups = Duplicates(), dict[Hashable, list[str]]()
    for arm in plan.arms:
        groups.setdefault(_training(arm), []).append(arm.name)
    for names in groups.values():
        built: dict[Hashable, list[str]] = {}
        for name in names if len(names) > 1 else ():
            ends = [fingerprint(corner_trial(plan.arm(name), last), tasks[name]) for last in (False, True)]
            if None in ends:
                result.unsure.append(f"{name}: not compared with other arms; its mixer cannot be built on this machine")
            else:
                built.setdefault(tuple((end.modules, end.optimizer) for end in ends if end), []).append(name)
        for equal_structure in built.values():
            _compare(plan, equal_structure, result)
    return result


def _training(arm: Arm) -> Hashable:
    """What an arm says of its training without a model, and its settings in `COST`."""
    seen: list[Hashable] = [repr(sorted(arm.space.items()))]
    for last in (False, True):
        trial = corner_trial(arm, last)
        model, optim, train = trial.model, trial.optim, trial.train
        layers = [model.mixer_at(layer).args for layer in range(model.n_layers)]
        cost = [repr([args.get(key.rpartition(".")[2]) for args in layers]) for key in COST if "mixer" in key]
        seen += [repr(train.model_dump(exclude={"save_every"})), tuple(cost)]
        seen += [model.dropout, schedule(optim, train.max_steps), optim.clip]
    return tuple(seen)


def _compare(plan: Plan, arms: list[str], result: Duplicates) -> None:
    """Compare arms that agree in training and structure, each with the first of every kind."""
    kinds: list[str] = []
    for arm in arms:
        for other in kinds:
            same = _same(plan.arm(other), plan.arm(arm))
            result.compared += 1
            if same is None:
                why = f"(a mixer that needs CUDA, or over {LONGEST:,} tokens)"
                result.unsure.append(f"{arm}: could not be told from {other} here {why}")
            elif same:
                result.same.append(_same_text(plan.arm(other), plan.arm(arm)))
                break
        else:
            kinds.append(arm)


def _same_text(first: Arm, arm: Arm) -> str:
    a, b = (flat_settings(each) for each in (first, arm))
    values = ((key, a.get(key, "not set"), b.get(key, "not set")) for key in differing(a, b))
    ignored = [f"{key} ({there} there, {here} here)" for key, there, here in values]
    given = differing(*(flat_settings(each, searched=False) for each in (first, arm)))
    if ignored:
        why = f"{' and '.join(ignored)} {'have' if len(ignored) > 1 else 'has'} no effect"
    else:
        why = f"{' and '.join(given)}, in which they differ, is searched" if given else "no setting differs"
    return f"arms.{arm.name}: the same as arm {first.name}: {why}; leave one of them out, or correct it"


def _same(a: Arm, b: Arm) -> bool | None:
    """Whether two arms of equal structure are one experiment. None if that cannot be decided here."""
    for last in (False, True):
        one, other = (corner_trial(arm, last) for arm in (a, b))
        if not same_data(one, other):
            return False
        task = _task(one)
        longest = max(form.seq_len for form in task.lengths().values())
        if (same := same_function(one.model, other.model, longest, task.readout)) is not True:
            return same
    return True


def _task(trial: Trial) -> Task:
    return build_task(trial.task, batch_size=trial.train.batch_size, seed=trial.train.seed)


def same_data(a: Trial, b: Trial) -> bool:
    """Whether trials of equal batch size and seed read equal training and validation data.

    Compared are the first batches, the last one, and all of validation at every length.
    """
    if a.task.name == b.task.name and task_settings(a.task) == task_settings(b.task):
        return True
    one, other = _task(a), _task(b)
    facts = [(t.vocab_size, t.metrics, t.readout, t.kind_names, list(t.lengths())) for t in (one, other)]
    if facts[0] != facts[1] or not all(_equal(one.batch(n), other.batch(n)) for n in (0, 1, a.train.max_steps - 1)):
        return False
    pairs = zip(one.lengths().values(), other.lengths().values(), strict=True)
    return all(_equal(x.eval_examples(), y.eval_examples()) for x, y in pairs)


def _equal(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def same_function(a: ModelConfig, b: ModelConfig, longest: int, readout: Any = None) -> bool | None:
    """Whether two models of one structure start equal and compute the same.

    None if one cannot be run here, or if they agree on `LONGEST` tokens and `longest` is more.
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
    """The model with as many layers as show every pair of mixers. At least two: later ones may read the first's."""
    pairs = [tuple(str(each.mixer_at(layer)) for each in both) for layer in range(model.n_layers)]
    deepest = max(pairs.index(pair) for pair in set(pairs)) + 1
    return model.model_copy(update={"n_layers": min(model.n_layers, max(2, deepest))})


def _run(model: ModelConfig, steps: int, readout: Any) -> Iterator[torch.Tensor]:
    """Yield the initial weights, then a training step's loss and gradients, dropout included.

    Before the step all weights are moved a little, since a zero hides what lies behind it. The run is deterministic
    and leaves torch's random state as it was.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        built = assemble(model, VOCABULARY, readout).train()
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
