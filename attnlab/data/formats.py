"""Documents of local files and of `save_to_disk` folders.

A .txt file is one document. .jsonl, .json and .parquet hold one per row. Text is unchanged except for a leading BOM.
What cannot be read raises a ValueError, one line that names the file and, where there is one, the row.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from attnlab.data.hub import text_of
from attnlab.util.files import read_json
from attnlab.util.text import did_you_mean, first_line

SUFFIXES = (".txt", ".jsonl", ".json", ".parquet")
LINES_BYTES = 1 << 20  # of lines read at once


def _zstd(path: Path) -> IO[bytes]:
    import pyarrow

    return io.BufferedReader(cast(Any, pyarrow.input_stream(str(path), compression="zstd")), 1 << 20)


PACKED: dict[str, Callable[[Path], Any]] = {".xz": lzma.open, ".gz": gzip.open, ".zst": _zstd}


def kind_of(path: Path) -> str | None:
    """The format by the name's ending (`.txt` of a.txt and A.TXT.xz), None if unknown."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else None


def documents(files: Iterable[Path], field: str) -> Iterator[str]:
    """Read the documents of `files` in order, .txt and .json files as a whole. A null is a document without text.

    Raises ValueError naming the file (and row) for what is damaged, is no text, or has no column `field`.
    """
    for path in files:
        yield from READERS[kind_of(path) or ".txt"](path, field)


@contextmanager
def _readable(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a damaged file makes its library raise into a ValueError that names the file."""
    try:
        yield
    except Exception as error:  # OSError, EOFError, zlib.error, LZMAError, ArrowException, KeyError, MemoryError, ...
        raise ValueError(f"{path}: not {what} file, or a damaged one ({first_line(error)})") from None


def _open(path: Path) -> IO[bytes]:
    packing = path.suffix.lower()
    return cast(IO[bytes], PACKED[packing](path)) if packing in PACKED else path.open("rb")


def _packing(path: Path) -> str:
    return f"a {path.suffix.lower()}" if path.suffix.lower() in PACKED else "a readable"


def _whole(path: Path) -> str:
    with _readable(path, _packing(path)), _open(path) as file:
        raw = file.read()
    return _decode(raw, str(path))


def _lines(path: Path) -> Iterator[bytes]:
    with _readable(path, _packing(path)):
        file = _open(path)
    with file:
        lines = [b""]
        while lines:
            with _readable(path, _packing(path)):
                lines = file.readlines(LINES_BYTES)
            yield from lines


def _decode(raw: bytes, source: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: not UTF-8 text (byte {error.start}); convert it to UTF-8") from None


def _txt(path: Path, field: str) -> Iterator[str]:
    yield _whole(path)


def _jsonl(path: Path, field: str) -> Iterator[str]:
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            source = f"{path} line {number}"
            yield text_of(_parse(_decode(line, source), source), field, source)


def _json(path: Path, field: str) -> Iterator[str]:
    """Read a list of rows, one row, or JSON lines, which many tools name so."""
    text = _whole(path)
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        if text.lstrip().startswith("["):
            _parse(text, str(path))
        yield from _jsonl(path, field)
        return
    for number, row in enumerate(tree if isinstance(tree, list) else [tree], 1):
        yield text_of(row, field, f"{path} row {number}")


def _parse(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{source}: not JSON ({error}); one object per line, such as {{"text": "..."}}') from None


def _parquet(path: Path, field: str) -> Iterator[str]:
    import pyarrow.parquet

    with _readable(path, "a Parquet"):
        file = pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)
        names = file.schema_arrow.names
    with file:
        if field not in names:
            text_of(dict.fromkeys(names), field, str(path))
        batches, number = file.iter_batches(columns=[field]), 0
        while True:
            with _readable(path, "a Parquet"):
                batch = next(batches, None)
            if batch is None:
                return
            for text in _cells(batch, f"{path}: rows {number + 1} to {number + batch.num_rows}"):
                number += 1
                yield text_of({field: text}, field, f"{path} row {number}")


def _cells(batch: Any, source: str) -> list[Any]:
    """The values of a batch's only column. Raises ValueError for text that is not UTF-8."""
    try:
        return list(batch.column(0).to_pylist())
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: not UTF-8 text ({error.reason}); the file is damaged, or holds bytes") from None


READERS = {".txt": _txt, ".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}


def is_saved(path: Path) -> bool:
    """Whether a folder was written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`."""
    alone = (path / "dataset_info.json").is_file() and (path / "state.json").is_file()
    return alone or (path / "dataset_dict.json").is_file()


def saved_files(path: Path) -> list[Path]:
    """The Arrow files of a `save_to_disk` folder, without those that `datasets` keeps of computations."""
    return sorted(file for file in path.rglob("*.arrow") if not file.name.startswith(("cache-", "tmp")))


def saved_splits(path: Path) -> list[str]:
    """The splits of a `DatasetDict.save_to_disk` folder; none of a `Dataset`'s. Raises ValueError if it is damaged."""
    file = path / "dataset_dict.json"
    return [str(split) for split in read_json(file).get("splits", ())] if file.is_file() else []


def saved_documents(path: Path, split: str, field: str) -> Iterator[str]:
    """Read the documents of a `save_to_disk` folder.

    Raises ValueError as `documents` does, also if there is no such split.
    """
    import datasets

    with _readable(path, "a save_to_disk"):
        found = datasets.load_from_disk(str(path))
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            raise ValueError(f"dataset {path}: no split {split!r}{did_you_mean(split, found)}")
        found = found[split]
    _check_arrow(Path(file["filename"]) for file in found.cache_files)
    if field not in found.column_names:
        text_of(dict.fromkeys(found.column_names), field, f"dataset {path}")
    for number, row in enumerate(found.select_columns([field]), 1):
        yield text_of(row, field, f"dataset {path} row {number}")


def _check_arrow(files: Iterable[Path]) -> None:
    """Raise ValueError naming a file whose offsets or text are damaged, which Arrow would follow anywhere."""
    import pyarrow

    for file in files:
        with _readable(file, "an Arrow"), pyarrow.memory_map(str(file)) as source:
            for batch in pyarrow.ipc.open_stream(source):
                batch.validate(full=True)
