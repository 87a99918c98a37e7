"""Factors in which two arms can differ: every setting of a trial belongs to one.

A factor is *named* by the settings that arms give themselves. Three follow from others and are named only by saying so
(`differs: [params]` in an arm): the number of parameters, the tokens trained on, and the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attnlab import tasks
from attnlab.config.resolved import Arm
from attnlab.config.space import corners
from attnlab.config.trial import TaskConfig, Trial
from attnlab.util.text import did_you_mean, quoted

FACTORS: Mapping[str, str] = {
    "mixer": "what mixes over time, and its arguments",
    "size": "width, depth, heads and d_ff",
    "mlp": "the kind of MLP",
    "tying": "whether head and embedding share their weights",
    "dropout": "dropout",
    "task": "the task and its difficulty",
    "seq_len": "the training length",
    "tokenizer": "the tokenizer, so what a token is",
    "data": "the text or rows trained on",
    "evaluation": "what is validated, and how often",
    "optimizer": "the optimizer's kind, momenta and clipping",
    "lr": "the learning rate",
    "weight_decay": "weight decay",
    "schedule": "the rate over the run",
    "steps": "optimizer steps",
    "batch": "sequences per step",
    "seconds": "the time trained",
    "precision": "the numbers' format",
    "seed": "the seed",
    "params": "non-embedding parameters",
    "tokens": "training tokens",
}

# Dotted setting, or the beginning of several, which ends in ".", -> its factor; the first that fits. None: it says how
# a thing is computed or kept, not what comes out.
SETTINGS: Mapping[str, str | None] = {
    "model.mixer": "mixer",
    "model.mlp": "mlp",
    "model.tie_embeddings": "tying",
    "model.dropout": "dropout",
    "model.": "size",
    "task.seq_len": "seq_len",
    "task.eval_tokens": "evaluation",
    "task.eval_seq_lens": "evaluation",
    "task.n_eval": "evaluation",
    "task.n_train": "data",
    "task.": "task",
    "optim.lr": "lr",
    "optim.weight_decay": "weight_decay",
    **dict.fromkeys(("optim.schedule", "optim.warmup", "optim.decay", "optim.min_lr_ratio"), "schedule"),
    "optim.": "optimizer",
    "train.max_steps": "steps",
    "train.batch_size": "batch",
    "train.eval_every": "evaluation",
    "train.seconds": "seconds",
    "train.precision": "precision",
    "train.seed": "seed",
    "train.": None,
}
TEXT = {  # the task `text` calls these differently
    **dict.fromkeys(("task.tokenizer", "task.vocab_size"), "tokenizer"),
    **dict.fromkeys(("task.dataset", "task.config", "task.split", "task.revision", "task.field"), "data"),
    **dict.fromkeys(("task.max_tokens", "task.validation", "task.files"), "data"),
}


def problems(arms: Mapping[str, Any]) -> Iterator[str]:
    """Mistakes in the arms' `differs`, one line each."""
    for arm, tree in arms.items():
        differs = tree.get("differs", []) if isinstance(tree, Mapping) else []
        if not isinstance(differs, (list, tuple)):
            yield f"arms.{arm}.differs: a list of factors, such as [params, tokens], not {quoted(differs)}"
            continue
        for name in differs:
            if not isinstance(name, str) or name not in FACTORS:
                yield f"arms.{arm}.differs: no factor {quoted(name)}{did_you_mean(str(name), FACTORS)}"


def factor_of(setting: str, task: str) -> str | None:
    """The factor that a dotted setting belongs to in trials of the task."""
    table = {**(TEXT if task == "text" else {}), **SETTINGS}
    fits = (name for name in table if setting == name or setting.startswith(name if name.endswith(".") else f"{name}."))
    return table[next(fits)]


def flat_settings(arm: Arm, searched: bool = True) -> dict[str, Any]:
    """Every setting of an arm's trial by its dotted key, defaults filled in.

    With `searched`, a searched setting has its dimension as its value. A mixer's arguments are settings of their own
    (`model.mixer.expand_k`) where all layers have one mixer.
    """
    trial = arm.trial
    tree = trial.model_dump(mode="json")
    flat = {f"{node}.{key}": value for node in ("optim", "train") for key, value in tree[node].items()}
    flat |= {f"task.{key}": value for key, value in {"name": trial.task.name, **task_settings(trial.task)}.items()}
    flat |= {f"model.{key}": value for key, value in tree["model"].items() if key != "mixer"}
    flat["model.d_ff"] = None if trial.model.mlp == "none" else trial.model.d_ff or "its default"
    mixers = tree["model"]["mixer"]
    flat["model.mixer"] = [str(mixer) for mixer in trial.model.mixer] if len(mixers) > 1 else mixers[0]["name"]
    if len(mixers) == 1:
        flat |= {f"model.mixer.{key}": value for key, value in mixers[0].items() if key != "name"}
    return flat | ({key: str(dimension) for key, dimension in arm.space.items()} if searched else {})


def task_settings(task: TaskConfig) -> dict[str, Any]:
    """A task's settings, its defaults filled in."""
    known = {name: p.default for name, p in tasks.settings_of(task.name).items() if p.default is not p.empty}
    return {**known, **task.args}


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """The settings in which two arms differ. Of two mixers of different names, `model.mixer` alone."""
    keys = [key for key in {**a, **b} if a.get(key, "") != b.get(key, "")]
    if "model.mixer" in keys:
        keys = [key for key in keys if not key.startswith("model.mixer.")]
    if "task.name" in keys:
        keys = ["task.name", *(key for key in keys if not key.startswith("task.") or key == "task.seq_len")]
    return keys


def corner_trial(arm: Arm, last: bool = False) -> Trial:
    """An arm's trial at the first or last corner of its search space. Without a search, as declared."""
    return arm.with_settings(corners(arm.space)[-1 if last else 0])
