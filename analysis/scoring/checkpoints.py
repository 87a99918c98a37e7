"""Open a checkpoint without trusting it: whatever is wrong with it costs one line."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from analysis.scoring.targets import digest_of
from attnlab.config.trial import check_recipe
from attnlab.data.tokenizer import Tokenizer, eos_of
from attnlab.models.backbone import BackboneConfig
from attnlab.records.results import Job
from attnlab.util.errors import UserError
from attnlab.util.text import first_line

REPORTED = ("missing_keys", "unexpected_keys", "mismatched_keys")


def refuse_foreign(path: Path, job: Job | None) -> None:
    """Refuse another model by config.json alone. Raises UserError: not attnlab's, or not `job`'s."""
    tree = _json(path / "config.json")
    if (kind := tree.get("model_type")) != "attnlab":
        raise UserError(f"{path}: a foreign checkpoint, of a model of type {kind!r}; attnlab's own are read")
    try:
        check_recipe(tree.get("recipe", 1))
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    try:
        model = BackboneConfig.from_dict(tree).model()
    except Exception:  # whatever transformers may raise for a key of its own
        raise UserError(f"{path}: damaged, config.json describes no model") from None
    if job and (model, tree.get("recipe", 1)) != (job.trial.model, job.trial.recipe):
        raise UserError(f"{path}: a foreign checkpoint, of another model than its trial's experiment_config.json")


def open_model(path: Path, job: Job | None = None) -> tuple[Any, Tokenizer | None]:
    """The model, on the CPU, and the tokenizer, if any, of an exported checkpoint.

    Raises:
        UserError: it is damaged, incomplete, no model of attnlab's, or another one than `job` says.
    """
    digest_of(path)
    refuse_foreign(path, job)
    logging.disable_progress_bar()  # transformers draws one per model
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            model, report = AutoModelForCausalLM.from_pretrained(
                path, use_safetensors=True, output_loading_info=True, local_files_only=True
            )
    except UserError as error:
        raise UserError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None
    except Exception as error:  # whatever safetensors, transformers, or a mixer of the user's may raise
        raise UserError(f"{path}: damaged, {first_line(error)}") from None
    # transformers fills in at random what a file lacks, and only warns
    if wrong := [f"{len(report[k])} tensors {k.partition('_')[0]}" for k in REPORTED if report[k]]:
        raise UserError(f"{path}: its weights are not those of its config.json ({', '.join(wrong)})")
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        raise UserError(f"{path}: damaged, its weights are not finite")
    return model, _tokenizer(path, model.config.vocab_size)


def _tokenizer(path: Path, vocab_size: int) -> Tokenizer | None:
    file = path / "tokenizer.json"
    if not file.is_file():
        return None
    try:
        tokenizer = Tokenizer(file.read_text(encoding="utf-8"), eos_of(path), file.name)
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: damaged, {first_line(error)}") from None
    if tokenizer.vocab_size > vocab_size:
        sizes = f"{tokenizer.vocab_size} tokens for a model of {vocab_size}"
        raise UserError(f"{path}: a foreign tokenizer.json, with {sizes}")
    return tokenizer


def _json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{path.parent}: damaged, {path.name} is no JSON") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path.parent}: damaged, {path.name} holds no mapping")
    return tree
