"""From a sweep file's `dataset` settings to the documents of the training and validation splits.

A dataset is, in this order: a built-in name, a local file or folder, a hub id. Opening one reads only what its identity
(the cache's key) takes: the hashes of local files, the commit of a hub dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from attnlab.data import formats, hub
from attnlab.util.files import file_digest, json_digest, write_text
from attnlab.util.text import did_you_mean

BUILT_IN = {
    "austen": {
        "train": ("emma", "mansfieldpark", "northangerabbey", "prideprejudice", "sensesensibility"),
        "validation": ("persuasion",),
    }
}
BIG_FILE = 64 << 20  # bytes from which on a file's hash is cached, as long as its size and times stay


@dataclass(frozen=True)
class Dataset:
    """The settings as the user gave them.

    `config` and `revision` are for hub ids. `validation` names the validation split: of a local folder, the files
    whose name begins with it; of a local file, a second file. None: some training documents are held out.
    """

    name: str = "austen"
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    field: str = "text"
    validation: str | None = None

    @property
    def path(self) -> Path:
        """The name as a local path."""
        return Path(self.name).expanduser()

    @property
    def is_local(self) -> bool:
        """Whether the name is a file or folder and not built in."""
        return self.name not in BUILT_IN and self.path.exists()


@dataclass(frozen=True)
class Source:
    """Where documents come from."""

    name: str
    identity: dict[str, Any]  # JSON-able; equal identities, equal documents
    train: Callable[[], Iterator[str]]  # starts a fresh pass, as `validation` does
    validation: Callable[[], Iterator[str]] | None  # None: a part of `train` is held out


def check_dataset(dataset: Dataset) -> list[str]:
    """The settings' problems, one line each, without a download or a pass over the data."""
    name = dataset.name
    hub_only = [key for key in ("config", "revision") if getattr(dataset, key) is not None]
    if name in BUILT_IN:
        keys = ("config", "split", "revision", "field", "validation")
        given = [key for key in keys if getattr(dataset, key) != getattr(Dataset, key)]
        return [f"{key}: the built-in dataset {name} takes none; its splits and text are fixed" for key in given]
    if dataset.is_local:
        problems = [f"{key}: {name} is local; only a hub dataset has one" for key in hub_only]
        try:
            train, validation = _local_files(dataset)
            for path in [*train[:1], *validation[:1]]:
                if formats.kind_of(path) in (".jsonl", ".parquet"):
                    next(formats.documents([path], dataset.field), None)  # its columns show in the first row
            if train and dataset.field != "text" and {formats.kind_of(path) for path in train} == {".txt"}:
                problems.append(f"field: {name} is plain text and has no columns")
        except ValueError as error:
            keyed = str(error).startswith(("split:", "validation:"))  # these name their key already
            problems.append(str(error) if keyed else f"dataset: {str(error).removeprefix('dataset ')}")
        return problems
    looks_local = name.startswith((".", "/", "~")) or formats.kind_of(Path(name)) or not hub.HUB_ID.fullmatch(name)
    near = did_you_mean(name, BUILT_IN)
    if looks_local or ("/" not in name and near.startswith("; did")):
        choices = f"; a built-in name ({', '.join(BUILT_IN)}), a local path or a hub id"
        return [f"dataset: no file or folder {name}{near if near.startswith('; did') else choices}"]
    return []


def open_dataset(dataset: Dataset, cache: Path) -> Source:
    """Open `dataset`. `cache` keeps hashes of big files and commits. Raises ValueError, a line for each problem."""
    if problems := check_dataset(dataset):
        raise ValueError("\n".join(problems))
    if dataset.name in BUILT_IN:
        return _built_in(dataset.name)
    identity: dict[str, Any]
    if dataset.is_local and not formats.is_saved(dataset.path):
        train, validation = _local_files(dataset)
        hashes = {"train": [_hash(p, cache) for p in train], "validation": [_hash(p, cache) for p in validation]}
        kinds = [formats.kind_of(p) for p in [*train, *validation]]
        identity = {"files": hashes, "formats": kinds, "field": dataset.field}
        held = partial(formats.documents, validation, dataset.field) if validation else None
        return Source(dataset.name, identity, partial(formats.documents, train, dataset.field), held)
    read: Callable[..., Iterator[str]]
    if dataset.is_local:
        arrow = sorted(dataset.path.rglob("*.arrow"))
        identity = {"arrow": [[str(p.relative_to(dataset.path)), _hash(p, cache)] for p in arrow]}
        read = partial(formats.saved_documents, dataset.path, field=dataset.field)
    else:
        commit = hub.pinned_revision(dataset.name, dataset.revision, cache)
        identity = {"hub": dataset.name, "commit": commit, "config": dataset.config}
        read = partial(hub.documents, dataset.name, dataset.config, commit=commit, field=dataset.field)
    identity |= {"split": dataset.split, "validation": dataset.validation, "field": dataset.field}
    held = partial(read, split=dataset.validation) if dataset.validation else None
    return Source(dataset.name, identity, partial(read, split=dataset.split), held)


def _built_in(name: str) -> Source:
    with resources.as_file(resources.files("attnlab.data") / "corpus") as path:
        files = {split: [path / f"{stem}.txt.xz" for stem in stems] for split, stems in BUILT_IN[name].items()}
        hashes = {split: [file_digest(p) for p in paths] for split, paths in files.items()}
    train, validation = (partial(formats.documents, files[split], "text") for split in ("train", "validation"))
    return Source(name, {"files": hashes}, train, validation)


def _local_files(dataset: Dataset) -> tuple[list[Path], list[Path]]:
    """(training files, validation files) of a file or folder, both empty for a `save_to_disk` folder.

    A folder's training files are those of the split's name (see `formats.split_of`). If there are none, they are all
    files except those of the validation split.
    """
    path, name = dataset.path, dataset.name
    if formats.is_saved(path):
        return [], []
    files = formats.files_of(path)
    if not files:
        raise ValueError(f"dataset {name}: no {', '.join(formats.SUFFIXES)} file in this folder")
    if path.is_file():
        if formats.kind_of(path) is None:
            raise ValueError(
                f"dataset {name}: unknown format; one of {', '.join(formats.SUFFIXES)} (or these with .xz, .gz)"
            )
        chosen, held = files, _second_file(dataset)
    else:
        splits = sorted({formats.split_of(p, path) for p in files})
        held = [p for p in files if dataset.validation and formats.split_of(p, path) == dataset.validation]
        if dataset.validation and not held:
            near = did_you_mean(dataset.validation, splits)
            raise ValueError(f"validation: {name} has no files of split {dataset.validation!r}{near}")
        chosen = [p for p in files if formats.split_of(p, path) == dataset.split and p not in held]
        if not chosen and dataset.split != "train":
            near = did_you_mean(dataset.split, splits)
            raise ValueError(f"split: {name} has no files of split {dataset.split!r}{near}")
        chosen = chosen or [p for p in files if p not in held]
    for paths, what in ((chosen, "training"), (held, "validation")):
        if paths and not any(p.stat().st_size for p in paths):
            raise ValueError(f"dataset {name}: the {what} split is empty ({paths[0].name} has 0 bytes)")
    if not chosen:
        raise ValueError(f"dataset {name}: every file belongs to the validation split; nothing is left to train on")
    return chosen, held


def _second_file(dataset: Dataset) -> list[Path]:
    if dataset.split != "train":
        raise ValueError(f"split: {dataset.name} is one file and has no splits")
    if not dataset.validation:
        return []
    for path in (Path(dataset.validation).expanduser(), dataset.path.parent / dataset.validation):
        if path.is_file():
            return [path]
    raise ValueError(
        f"validation: no file {dataset.validation}; beside the single file {dataset.name}, name a second file"
    )


def _hash(path: Path, cache: Path) -> str:
    """SHA-256 of a file; a big one's is cached under its path, size and times."""
    stat = path.stat()
    if stat.st_size < BIG_FILE:
        return file_digest(path)
    key = json_digest([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
    cached = cache / "hashes" / f"{path.resolve().name}-{key}"
    if not cached.exists():
        write_text(cached, file_digest(path), overwrite=False)
    return cached.read_text(encoding="utf-8")
