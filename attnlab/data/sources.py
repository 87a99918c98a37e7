"""A sweep file's `dataset:` and the settings with it -> the documents of the training and validation splits.

A dataset is, in this order: a built-in name, a local file or folder, a hub id. Opening one reads nothing but what its
identity (the cache's key) takes: the hashes of local files, the commit of a hub dataset.
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
BIG_FILE = 64 << 20  # bytes from which on a file's hash is kept in the cache, for as long as its size and times stand


@dataclass(frozen=True)
class Dataset:
    """The settings as the user gave them.

    `config` and `revision` belong to hub ids. `validation` names the validation split: of a local folder the files
    whose name begins with it, of a local file a second file. None: a part of the training documents is held out.
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
        """Whether there is such a file or folder (a built-in name goes first)."""
        return self.name not in BUILT_IN and self.path.exists()


@dataclass(frozen=True)
class Source:
    """Where documents come from.

    `identity` is JSON-able and decides the cache: equal identities, equal documents. `train` and `validation` start a
    fresh pass over the documents. `validation` None: a part of `train` is held out.
    """

    name: str
    identity: dict[str, Any]
    train: Callable[[], Iterator[str]]
    validation: Callable[[], Iterator[str]] | None


def check_dataset(dataset: Dataset) -> list[str]:
    """What is wrong with the settings, one line each, as far as it shows without a download or a pass over the data."""
    name = dataset.name
    hub_only = [key for key in ("config", "revision") if getattr(dataset, key) is not None]
    if name in BUILT_IN:
        defaults = Dataset(name)
        keys = ("config", "split", "revision", "field", "validation")
        given = [key for key in keys if getattr(dataset, key) != getattr(defaults, key)]
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
        hint = (
            near if near.startswith("; did") else f"; a built-in name ({', '.join(BUILT_IN)}), a local path or a hub id"
        )
        return [f"dataset: no file or folder {name}{hint}"]
    return []


def open_dataset(dataset: Dataset, cache: Path) -> Source:
    """The source of `dataset`; `cache` keeps hashes of big files and the commits of hub datasets.

    Raises:
        ValueError: one line per thing that is wrong.
    """
    if problems := check_dataset(dataset):
        raise ValueError("\n".join(problems))
    if dataset.name in BUILT_IN:
        return _built_in(dataset.name)
    if dataset.is_local and formats.is_saved(dataset.path):
        return _saved(dataset, cache)
    if dataset.is_local:
        train, validation = _local_files(dataset)
        hashes = {"train": [_hash(p, cache) for p in train], "validation": [_hash(p, cache) for p in validation]}
        formats_ = [formats.kind_of(p) for p in [*train, *validation]]
        return Source(
            dataset.name,
            {"files": hashes, "formats": formats_, "field": dataset.field},
            partial(formats.documents, train, dataset.field),
            partial(formats.documents, validation, dataset.field) if validation else None,
        )
    commit = hub.pinned_revision(dataset.name, dataset.revision, cache)
    read = partial(hub.documents, dataset.name, dataset.config, commit=commit, field=dataset.field)
    keys = {"hub": dataset.name, "commit": commit, "config": dataset.config, "split": dataset.split}
    return Source(
        dataset.name,
        keys | {"validation": dataset.validation, "field": dataset.field},
        partial(read, split=dataset.split),
        partial(read, split=dataset.validation) if dataset.validation else None,
    )


def _built_in(name: str) -> Source:
    folder = resources.files("attnlab.data") / "corpus"
    with resources.as_file(folder) as path:
        files = {split: [path / f"{stem}.txt.xz" for stem in stems] for split, stems in BUILT_IN[name].items()}
        hashes = {split: [file_digest(p) for p in paths] for split, paths in files.items()}
    train, validation = (partial(formats.documents, files[split], "text") for split in ("train", "validation"))
    return Source(name, {"files": hashes}, train, validation)


def _saved(dataset: Dataset, cache: Path) -> Source:
    read = partial(formats.saved_documents, dataset.path, field=dataset.field)
    arrow = sorted(dataset.path.rglob("*.arrow"))
    identity = {"arrow": [[str(p.relative_to(dataset.path)), _hash(p, cache)] for p in arrow], "field": dataset.field}
    return Source(
        dataset.name,
        identity | {"split": dataset.split, "validation": dataset.validation},
        partial(read, split=dataset.split),
        partial(read, split=dataset.validation) if dataset.validation else None,
    )


def _local_files(dataset: Dataset) -> tuple[list[Path], list[Path]]:
    """(training files, validation files) of a local file or folder; both empty for a `save_to_disk` folder.

    In a folder with files of the split's name (train.jsonl, train/..., train-00000-of-00002.parquet) those are the
    training files; in any other, all files but those of the validation split.
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
            raise ValueError(
                f"validation: {name} has no files of split {dataset.validation!r}"
                f"{did_you_mean(dataset.validation, splits)}"
            )
        chosen = [p for p in files if formats.split_of(p, path) == dataset.split and p not in held]
        if not chosen and dataset.split != "train":
            raise ValueError(
                f"split: {name} has no files of split {dataset.split!r}{did_you_mean(dataset.split, splits)}"
            )
        chosen = chosen or [p for p in files if p not in held]
    for part, what in ((chosen, "training"), (held, "validation")):
        if part and not any(p.stat().st_size for p in part):
            raise ValueError(f"dataset {name}: the {what} split is empty ({part[0].name} has 0 bytes)")
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
    """SHA-256 of a file; a big one's is remembered under its path, size and times."""
    stat = path.stat()
    if stat.st_size < BIG_FILE:
        return file_digest(path)
    key = json_digest([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
    cached = cache / "hashes" / f"{path.resolve().name}-{key}"
    if not cached.exists():
        write_text(cached, file_digest(path), overwrite=False)
    return cached.read_text()
