"""From a sweep file's `dataset` settings to the documents of the training and validation splits.

A dataset is, in this order: a built-in name, a local file or folder, a hub id. Opening one reads only what its identity
(the cache's key) takes: the hashes of local files, the commit of a hub dataset.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

from attnlab.data import formats, hub
from attnlab.data.folders import divide
from attnlab.util.files import exists, file_digest, json_digest, write_text
from attnlab.util.text import did_you_mean, shortened

BUILT_IN = {
    "austen": {
        "train": ("emma", "mansfieldpark", "northangerabbey", "prideprejudice", "sensesensibility"),
        "validation": ("persuasion",),
    }
}
BIG_FILE = 64 << 20  # bytes from which on a file's hash is cached, as long as its size and times stay
SETTLED_NS = 2 * 10**9  # age from which on a file's time tells a change; younger, it may change twice within a tick


@dataclass(frozen=True)
class Dataset:
    """The settings as the user gave them.

    `revision` is for hub ids, `config` for those and for a local folder's folders, `files` (a pattern of paths) for a
    local folder. `validation` names the validation split, or beside a local file a second one. None: in a local folder
    the files so named; else some training documents are held out.
    """

    name: str = "austen"
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    field: str = "text"
    validation: str | None = None
    files: str | None = None

    @property
    def path(self) -> Path:
        """The name as a local path."""
        return Path(self.name).expanduser()

    @property
    def is_local(self) -> bool:
        """Whether the name is a file or folder and not built in."""
        return self.name not in BUILT_IN and exists(self.name)


@dataclass(frozen=True)
class Source:
    """Where documents come from."""

    name: str
    identity: dict[str, Any]  # JSON-able; equal identities, equal documents
    train: Callable[[], Iterator[str]]  # starts a fresh pass, as `validation` does
    validation: Callable[[], Iterator[str]] | None  # None: a part of `train` is held out
    note: str = ""  # of a folder, which files are read: a line for the user


def check_dataset(dataset: Dataset) -> list[str]:
    """The settings' problems, one line each, without a download or a pass over the data."""
    name = dataset.name
    if name in BUILT_IN:
        keys = ("config", "split", "revision", "field", "validation", "files")
        given = [key for key in keys if getattr(dataset, key) != getattr(Dataset, key)]
        return [f"{key}: the built-in dataset {name} takes none; its splits and text are fixed" for key in given]
    if dataset.is_local:
        whole = dataset.path.is_file() or formats.is_saved(dataset.path)
        hub_only = ("revision", "config", "files") if whole else ("revision",)
        where = {"files": "only of a local folder's files are some chosen"}
        wrong = [key for key in hub_only if getattr(dataset, key) is not None]
        problems = [f"{key}: {name} is local; {where.get(key, 'only a hub dataset has one')}" for key in wrong]
        if problems:
            return problems
        try:
            train, validation, _ = _local_files(dataset)
            for path in [*train[:1], *validation[:1]]:
                if formats.kind_of(path) in (".jsonl", ".parquet"):
                    next(formats.documents([path], dataset.field), None)  # its columns show in the first row
            if train and dataset.field != "text" and {formats.kind_of(path) for path in train} == {".txt"}:
                problems.append(f"field: {name} is plain text and has no columns")
        except (ValueError, OSError) as error:  # OSError: a validation's name of 300 letters, a folder of others
            keyed = str(error).startswith(("split:", "validation:", "config:", "files:"))  # these name their key
            problems.append(str(error) if keyed else f"dataset: {str(error).removeprefix('dataset ')}")
        return problems
    looks_local = name.startswith((".", "/", "~")) or formats.kind_of(Path(name)) or not hub.HUB_ID.fullmatch(name)
    near = did_you_mean(name, BUILT_IN)
    if looks_local or ("/" not in name and near.startswith("; did")):
        choices = f"; a built-in name ({', '.join(BUILT_IN)}), a local path or a hub id"
        return [f"dataset: no file or folder {shortened(name, 120)}{near if near.startswith('; did') else choices}"]
    return [f"files: only of a local folder's files are some chosen, and {name} is none"] if dataset.files else []


def open_dataset(dataset: Dataset, cache: Path) -> Source:
    """Open `dataset`. `cache` keeps hashes of big files and commits. Raises ValueError, a line for each problem."""
    if problems := check_dataset(dataset):
        raise ValueError("\n".join(problems))
    if dataset.name in BUILT_IN:
        return _built_in(dataset.name)
    if dataset.is_local:
        return _open_saved(dataset, cache) if formats.is_saved(dataset.path) else _open_files(dataset, cache)
    commit = hub.pinned_revision(dataset.name, dataset.revision, cache)
    identity = {"hub": dataset.name, "commit": commit, "config": dataset.config}
    return _of_splits(
        dataset, partial(hub.documents, dataset.name, dataset.config, commit=commit, field=dataset.field), identity
    )


def _open_files(dataset: Dataset, cache: Path) -> Source:
    train, validation, note = _local_files(dataset)
    hashes = {"train": [_hash(p, cache) for p in train], "validation": [_hash(p, cache) for p in validation]}
    kinds = [formats.kind_of(p) for p in [*train, *validation]]
    identity = {"files": hashes, "formats": kinds, "field": dataset.field}
    held = partial(formats.documents, validation, dataset.field) if validation else None
    return Source(dataset.name, identity, partial(formats.documents, train, dataset.field), held, note)


def _open_saved(dataset: Dataset, cache: Path) -> Source:
    path, held = dataset.path, dataset.validation
    if held is None and dataset.split != "validation" and "validation" in formats.saved_splits(path):
        held = "validation"
    files = [[str(p.relative_to(path)), _hash(p, cache)] for p in formats.saved_files(path)]
    read = partial(formats.saved_documents, path, field=dataset.field)
    return _of_splits(replace(dataset, validation=held), read, {"arrow": files})


def _of_splits(dataset: Dataset, read: Callable[..., Iterator[str]], identity: dict[str, Any]) -> Source:
    """A dataset that knows its splits by name; `read` takes one."""
    identity |= {"split": dataset.split, "validation": dataset.validation, "field": dataset.field}
    held = partial(read, split=dataset.validation) if dataset.validation else None
    return Source(dataset.name, identity, partial(read, split=dataset.split), held)


def _built_in(name: str) -> Source:
    with resources.as_file(resources.files("attnlab.data") / "corpus") as path:
        files = {split: [path / f"{stem}.txt.xz" for stem in stems] for split, stems in BUILT_IN[name].items()}
        hashes = {split: [file_digest(p) for p in paths] for split, paths in files.items()}
    train, validation = (partial(formats.documents, files[split], "text") for split in ("train", "validation"))
    return Source(name, {"files": hashes}, train, validation)


def _local_files(dataset: Dataset) -> tuple[list[Path], list[Path], str]:
    """(training files, validation files, which were read) of a file or folder; none of a `save_to_disk` folder's."""
    path, name, note = dataset.path, dataset.name, ""
    if formats.is_saved(path):
        return [], [], ""
    if path.is_file():
        if formats.kind_of(path) is None:
            endings = ", ".join(formats.PACKED)
            raise ValueError(
                f"dataset {name}: unknown format; one of {', '.join(formats.SUFFIXES)} (or these with {endings})"
            )
        chosen, held = [path], _second_file(dataset)
    else:
        files = divide(path, dataset.split, dataset.validation, dataset.config, dataset.files)
        chosen, held, note = files.train, files.validation, f"dataset {name}: {files}"
    for paths, what in ((chosen, "training"), (held, "validation")):
        if paths and not any(p.stat().st_size for p in paths):
            raise ValueError(f"dataset {name}: the {what} split is empty ({paths[0].name} has 0 bytes)")
    return chosen, held, note


def _second_file(dataset: Dataset) -> list[Path]:
    if dataset.split != "train":
        raise ValueError(f"split: {dataset.name} is one file and has no splits")
    if not dataset.validation:
        return []
    for path in (Path(dataset.validation).expanduser(), dataset.path.parent / dataset.validation):
        if path.is_file():
            return [path]
    wanted = shortened(dataset.validation, 120)
    raise ValueError(f"validation: no file {wanted}; beside the single file {dataset.name}, name a second file")


def _hash(path: Path, cache: Path) -> str:
    """SHA-256 of a file. It is remembered under its path, size and times; a big one's in the cache, too."""
    stat = path.stat()
    settled = time.time_ns() - stat.st_mtime_ns > SETTLED_NS
    known = _digest if settled else _digest.__wrapped__
    return known(path.resolve(), stat.st_size, stat.st_mtime_ns, cache)


@lru_cache(maxsize=1 << 16)
def _digest(path: Path, size: int, changed_ns: int, cache: Path) -> str:
    if size < BIG_FILE:
        return file_digest(path)
    cached = cache / "hashes" / f"{path.name}-{json_digest([str(path), size, changed_ns])}"
    if not cached.exists():
        write_text(cached, file_digest(path), overwrite=False)
    return cached.read_text(encoding="utf-8")
