"""Checkpoints, written whole or not at all.

`step_00000500/`  to resume from: model.safetensors, optimizer.safetensors, state.json.
`final/`          to use: config.json, model.safetensors, tokenizer.json, as transformers loads them, and digests.json.

The schedule, the data position and every random draw are pure functions of the step, so only the step is saved.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from attnlab.data import backend
from attnlab.records.paths import TrialDir
from attnlab.records.reading import read_state, signed
from attnlab.util import signature
from attnlab.util.files import file_digest, replacing
from attnlab.util.text import one_line

KEEP = 2  # a crash or a full disk may have left the newest useless
TENSORS = ("model.safetensors", "optimizer.safetensors")


def save(trial: TrialDir, step: int, model: torch.nn.Module, optimizer: Any, state: dict[str, Any]) -> Path:
    """Write `step_<step>/` with the loop's JSON `state`, and remove older ones beyond KEEP.

    The signed state keeps the digests of the tensors' files, so that a bit that flips in any of the three shows.
    Raises DiskFull, and changes nothing then.
    """
    path = trial.checkpoints / f"step_{step:08d}"
    with _replacing(path) as folder:
        for name, held in zip(TENSORS, (tensors(model), optimizer.state_dict()), strict=True):
            _save(held, folder / name)
        digests = {name: file_digest(folder / name) for name in TENSORS}
        text = json.dumps(signed({"step": step, **state, **digests}))
        (folder / "state.json").write_text(text, encoding="utf-8")
    tidy(trial, KEEP)
    return path


def tidy(trial: TrialDir, keep: int = 1) -> None:
    """Remove all but the newest `keep` resumable checkpoints."""
    for old in steps(trial)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def steps(trial: TrialDir) -> list[Path]:
    """Resumable checkpoints, oldest first."""
    return sorted(trial.checkpoints.glob("step_[0-9]*"))


def load(
    trial: TrialDir,
    model: torch.nn.Module,
    optimizer: Any,
    usable: Callable[[Mapping[str, Any]], bool] = lambda state: True,
) -> dict[str, Any] | None:
    """Load the newest readable checkpoint into model and optimizer. Returns its state, None if there is none.

    The files are mapped into memory and copied tensor by tensor, so that it takes little more than what it fills.
    `usable` says by its state whether the trial's records fit it.
    """
    for path in reversed(steps(trial)):
        try:
            state = read_state(path)
            _check_files(path, {name: str(state.pop(name)) for name in TENSORS if name in state})
            weights, moments = (load_file(path / name) for name in TENSORS)
            _check(weights, tensors(model))
            _check(moments, optimizer.state_dict())
        except (OSError, ValueError, SafetensorError) as error:
            print(f"attnlab: {path}: unreadable checkpoint passed over ({one_line(error)})", flush=True)
            continue
        if not usable(state):
            print(f"attnlab: {path}: passed over, reports before it are lost", flush=True)
            continue
        with torch.no_grad():
            for name, target in tensors(model).items():
                target.copy_(weights[name])
        optimizer.load_state_dict(moments)
        return state
    return None


def _check_files(folder: Path, digests: Mapping[str, str]) -> None:
    """Raise ValueError if a file is not the one of its digest. Older checkpoints keep none."""
    for name, digest in digests.items():
        if file_digest(folder / name) != digest:
            raise ValueError(f"{name}: its content was changed")


def _check(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError unless a file has the tensors that are wanted."""
    if found.keys() != wanted.keys():
        raise ValueError(f"other tensors: {sorted(found.keys() ^ wanted.keys())[0]}")
    for name, tensor in wanted.items():
        if (found[name].shape, found[name].dtype) != (tensor.shape, tensor.dtype):
            raise ValueError(f"{name} is {found[name].dtype} {tuple(found[name].shape)}")


def remove_after(trial: TrialDir, step: int) -> None:
    """Remove the checkpoints beyond a step, from which the trial does not go on."""
    for path in steps(trial):
        if path.name > f"step_{step:08d}":
            shutil.rmtree(path, ignore_errors=True)


def tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The live parameters (tied ones once) and buffers by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    # contiguous because safetensors stores plain memory
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)


def export(trial: TrialDir, model: Any, tokenizer_json: str | None, eos_id: int | None = None) -> Path:
    """Write `final/`, which `AutoModelForCausalLM.from_pretrained` loads after `import attnlab`.

    It is signed: `from_pretrained` refuses it once a file in it was changed. `eos_id` is the token that ends a
    document. lm-eval's HF adapter uses it for an empty context.
    """
    with _replacing(trial.final) as folder:
        logging.disable_progress_bar()  # transformers draws one per save
        model.save_pretrained(folder)
        if tokenizer_json is not None:
            (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
            config = {"tokenizer_class": "PreTrainedTokenizerFast"}
            if eos_id is not None:
                config["eos_token"] = backend.build(tokenizer_json, "tokenizer.json").id_to_token(eos_id)
            (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        signature.sign(folder)
    return trial.final


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give an empty folder that becomes `path`, as `replacing` does. Raises DiskFull."""
    with replacing(path) as folder:
        folder.mkdir()
        try:
            yield folder
        except SafetensorError as error:  # it says the system's errors in words only
            if number := re.search(r"\(os error (\d+)\)", str(error)):
                raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
            raise
