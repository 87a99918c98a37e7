"""Which checkpoints are examined, and how one is opened without trusting it.

A checkpoint that is missing, cut short, another model's, or whose weights are not finite must cost one line and no
more. Its digest stands for its content: equal digests, equal scores.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.records.load import TrialRecord
from analysis.records.select import Selection
from attnlab.config.trial import check_recipe
from attnlab.records.paths import TrialDir
from attnlab.records.results import Job
from attnlab.util.errors import UserError
from attnlab.util.files import file_digest
from attnlab.util.text import did_you_mean, first_line

FILES = ("config.json", "model.safetensors", "tokenizer.json")  # what decides a score


@dataclass(frozen=True)
class Target:
    """One checkpoint to examine."""

    label: str  # the arm's name; for a checkpoint named by its path, that path
    trial_id: str | None
    path: Path
    job: Job | None  # the trial as run; None: not known

    @property
    def seq_len(self) -> int | None:
        """The length it was trained at."""
        return self.job.trial.task.seq_len if self.job else None


def targets(
    sel: Selection | None,
    arms: Sequence[str] = (),
    trial: str | None = None,
    checkpoint: Path | None = None,
) -> tuple[list[Target], list[str]]:
    """What to examine: each arm's best trial that has an exported model, or what was asked for.

    Args:
        sel: the sweep; None only with `checkpoint`.
        arms: only these.
        trial: a trial's id, or the beginning of it that no other has; `ARM/ID` where two arms have the same.
        checkpoint: a folder as transformers loads it; alone, or one more beside those of `arms` or `trial`.

    Returns:
        the targets, and one line for each arm whose best trial could not be taken.

    Raises:
        UserError: no such arm or trial.
    """
    found: list[Target] = []
    notes: list[str] = []
    if checkpoint is not None:
        parents = checkpoint.resolve().parents
        home = TrialDir(parents[1]) if len(parents) > 1 else None
        found.append(Target(str(checkpoint), home.trial_id if home and _job(home) else None, checkpoint, _job(home)))
        if not (arms or trial):
            return found, notes
    assert sel is not None
    names = [arm.arm for arm in sel.declared]
    if unknown := [arm for arm in arms if arm not in names]:
        raise UserError(f"--arm {unknown[0]}: the sweep has no such arm{did_you_mean(unknown[0], names)}")
    if trial is not None:
        return [*_one_trial(sel, arms, trial), *found], notes
    chosen = []
    for arm in sel.declared:
        if arms and arm.arm not in arms:
            continue
        homes = {t.trial_id: sel.data.folder.trial(arm.arm, t.trial_id) for t in arm.trials}
        order = sorted((t for t in arm.trials if t.value(sel.metric) is not None), key=_by(sel, arm.best))
        exported = [t for t in order if t.state == "completed"]
        if not exported:
            notes.append(f"{arm.arm}: no trial has completed, so there is no exported model to examine")
            continue
        if arm.best and exported[0] is not arm.best:
            why = f"{arm.best.trial_id}, the best, is {arm.best.state} and left no exported model"
            notes.append(f"{arm.arm}: {why}; {exported[0].trial_id} is examined instead")
        home = homes[exported[0].trial_id]
        chosen.append(Target(arm.arm, home.trial_id, home.final, _job(home)))
    return [*chosen, *found], notes


def _by(sel: Selection, best: TrialRecord | None) -> Any:
    sign = 1 if sel.plan.mode == "min" else -1
    return lambda trial: (trial is not best, sign * (trial.value(sel.metric) or 0.0))


def _one_trial(sel: Selection, arms: Sequence[str], wanted: str) -> list[Target]:
    homes = [TrialDir(sel.data.folder.path / t.arm / t.trial_id) for t in sel.data.trials if not arms or t.arm in arms]
    exact = [h for h in homes if wanted in (h.trial_id, f"{h.arm}/{h.trial_id}")]
    near = exact or [h for h in homes if h.trial_id.startswith(wanted) or f"{h.arm}/{h.trial_id}".startswith(wanted)]
    if len(near) != 1:
        ids = [f"{h.arm}/{h.trial_id}" for h in near or homes]
        what = f"{len(near)} trials begin so: {', '.join(ids[:4])}" if near else f"no such trial; one of {ids[:8]}"
        raise UserError(f"--trial {wanted}: {what}")
    return [Target(near[0].arm, near[0].trial_id, near[0].final, _job(near[0]))]


def _job(home: TrialDir | None) -> Job | None:
    """The trial's own record; None where there is none to be read (its checkpoint may still be whole)."""
    try:
        return home.job() if home else None
    except (OSError, ValueError):
        return None


def digest_of(path: Path) -> str:
    """20 hexadecimal digits of SHA-256 over the files that decide a score.

    Raises:
        UserError: there is no checkpoint at `path`, or only a part of one.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such checkpoint")
    if missing := [name for name in FILES[:2] if not (path / name).is_file()]:
        hint = ", but it is a folder to resume from; the exported model is in final/" if _resumable(path) else ""
        raise UserError(f"{path}: no whole checkpoint, it lacks {' and '.join(missing)}{hint}")
    total = hashlib.sha256()
    for name in FILES:
        if (file := path / name).is_file():
            total.update(f"{name} {file_digest(file)}\n".encode())
    return total.hexdigest()[:20]


def _resumable(path: Path) -> bool:
    return (path / "state.json").is_file()


def refuse_foreign(path: Path, job: Job | None) -> None:
    """By config.json alone, so that a result of the same weights under another name is not taken for this trial's.

    Raises:
        UserError: it is no model of attnlab's, or another one than `job` says.
    """
    from attnlab.models.backbone import BackboneConfig

    tree = _json(path / "config.json")
    if (kind := tree.get("model_type")) != "attnlab":
        raise UserError(f"{path}: a foreign checkpoint, of a model of type {kind!r}; attnlab's own are read")
    try:
        check_recipe(tree.get("recipe", 1))
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    try:
        model = BackboneConfig.from_dict(tree).model()
    except (ValueError, TypeError):  # pydantic's is a ValueError
        raise UserError(f"{path}: damaged, config.json describes no model") from None
    if job and (model, tree.get("recipe", 1)) != (job.trial.model, job.trial.recipe):
        raise UserError(f"{path}: a foreign checkpoint, of another model than its trial's experiment_config.json")


def open_model(path: Path, job: Job | None = None) -> tuple[Any, Any]:
    """(the model on the CPU, its tokenizer or None) of an exported checkpoint.

    Raises:
        UserError: it is damaged, incomplete, no model of attnlab's, or another one than `job` says.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    import attnlab  # noqa: F401 -- tells transformers of its models
    from attnlab.data.tokenizer import Tokenizer

    digest_of(path)
    refuse_foreign(path, job)
    logging.disable_progress_bar()  # transformers draws one per model
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            model, report = AutoModelForCausalLM.from_pretrained(
                path, use_safetensors=True, output_loading_info=True, local_files_only=True
            )
    except Exception as error:  # whatever safetensors, transformers, or a mixer of the user's may raise
        raise UserError(f"{path}: damaged, {first_line(error)}") from None
    # transformers fills in at random what a file lacks, and only warns
    if wrong := [f"{len(report[k])} tensors {k.partition('_')[0]}" for k in REPORTED if report[k]]:
        raise UserError(f"{path}: its weights are not those of its config.json ({', '.join(wrong)})")
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        raise UserError(f"{path}: damaged, its weights are not finite")
    tokenizer = None
    if (path / "tokenizer.json").is_file():
        config = path / "tokenizer_config.json"
        eos = _json(config).get("eos_token") if config.is_file() else None
        try:
            tokenizer = Tokenizer((path / "tokenizer.json").read_text(encoding="utf-8"), eos, "tokenizer.json")
        except (ValueError, OSError) as error:
            raise UserError(f"{path}: damaged, {first_line(error)}") from None
        if tokenizer.vocab_size > model.config.vocab_size:
            raise UserError(
                f"{path}: a foreign tokenizer.json, with {tokenizer.vocab_size} tokens for a model of "
                f"{model.config.vocab_size}"
            )
    return model, tokenizer


REPORTED = ("missing_keys", "unexpected_keys", "mismatched_keys")


def _json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{path.parent}: damaged, {path.name} is no JSON") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path.parent}: damaged, {path.name} holds no mapping")
    return tree
