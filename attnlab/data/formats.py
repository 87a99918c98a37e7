"""Documents of local files, of `save_to_disk` folders, and of folders of either.

A .txt file is one document. .jsonl, .json and .parquet hold one per row. Text is unchanged except for a leading BOM.
"""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from attnlab.data.hub import text_of
from attnlab.util.text import did_you_mean, first_line

SUFFIXES = (".txt", ".jsonl", ".json", ".parquet")
PACKED: dict[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open}


def kind_of(path: Path) -> str | None:
    """The format by the name's ending (`.txt` of a.txt and a.txt.xz), None if unknown."""
    suffixes = path.suffixes[:-1] if path.suffix in PACKED else path.suffixes
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else None


def is_saved(path: Path) -> bool:
    """Whether a folder was written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`."""
    return (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file()


def files_of(path: Path) -> list[Path]:
    """The files with documents, by relative path, without hidden ones and unknown formats."""
    if path.is_file():
        return [path]
    inside = (p for p in path.rglob("*") if p.is_file() and kind_of(p))
    return sorted(p for p in inside if not any(name.startswith(".") for name in p.relative_to(path).parts))


def split_of(path: Path, root: Path) -> str:
    """The split of a file by its name: `train` of train.jsonl, train/a.txt and train-00000-of-00002.parquet."""
    return path.relative_to(root).parts[0].split(".")[0].split("-")[0]


def documents(files: Iterable[Path], field: str) -> Iterator[str]:
    """Read the documents of `files` in order, .txt and .json files as a whole.

    Raises ValueError naming the file (and line) for text that is not UTF-8, JSON or Parquet or has no column `field`.
    """
    for path in files:
        yield from READERS[kind_of(path) or ".txt"](path, field)


def _open(path: Path) -> IO[bytes]:
    return PACKED[path.suffix](path, "rb") if path.suffix in PACKED else path.open("rb")


def _decode(raw: bytes, source: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: not UTF-8 text (byte {error.start}); convert it to UTF-8") from None


def _txt(path: Path, field: str) -> Iterator[str]:
    with _open(path) as file:
        yield _decode(file.read(), str(path))


def _jsonl(path: Path, field: str) -> Iterator[str]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                source = f"{path} line {number}"
                yield text_of(_parse(_decode(line, source), source), field, source)


def _json(path: Path, field: str) -> Iterator[str]:
    """Read a list of rows, one row, or JSON lines, which many tools name so."""
    with _open(path) as file:
        text = _decode(file.read(), str(path))
    try:
        tree = json.loads(text)
    except ValueError:
        yield from _jsonl(path, field)
        return
    for number, row in enumerate(tree if isinstance(tree, list) else [tree], 1):
        yield text_of(row, field, f"{path} row {number}")


def _parse(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f'{source}: not JSON ({error}); one object per line, such as {{"text": "..."}}') from None


def _parquet(path: Path, field: str) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a Parquet file ({first_line(error)})") from None
    with file:
        if field not in file.schema_arrow.names:
            text_of(dict.fromkeys(file.schema_arrow.names), field, str(path))
        for batch in file.iter_batches(columns=[field]):
            for text in batch.column(0).to_pylist():
                yield text_of({field: text}, field, str(path))


READERS = {".txt": _txt, ".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}


def saved_documents(path: Path, split: str, field: str) -> Iterator[str]:
    """Read the documents of a `save_to_disk` folder. Raises ValueError if it, the split or the column is missing."""
    import datasets

    try:
        dataset = datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"dataset {path}: not readable as a save_to_disk folder ({first_line(error)})") from None
    if isinstance(dataset, datasets.DatasetDict):
        if split not in dataset:
            raise ValueError(f"dataset {path}: no split {split!r}{did_you_mean(split, dataset)}")
        dataset = dataset[split]
    if field not in dataset.column_names:
        text_of(dict.fromkeys(dataset.column_names), field, f"dataset {path}")
    for row in dataset.select_columns([field]):
        yield text_of(row, field, f"dataset {path}")
