"""Documents of a dataset on the Hugging Face hub, streamed as far as they are used."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from attnlab.util.files import text_digest, write_text
from attnlab.util.text import first_line

HUB_ID = re.compile(r"(?=.{1,96}$)[A-Za-z0-9][\w.-]*(/[\w.-]+)?")  # at most 96 characters (huggingface_hub)


def pinned_revision(name: str, revision: str | None, cache: Path) -> str:
    """The commit that `revision` (None: main) named when this cache first asked.

    It is stored, so that all trials of a sweep and its resumption read the same data without network. Only a commit as
    `revision` gives the same data on every machine. Raises ValueError in one line if the dataset cannot be reached.
    """
    if revision and re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    cached = cache / "revisions" / text_digest(f"{name}@{revision}", 20)
    if not cached.exists():
        from huggingface_hub import HfApi

        try:
            commit = HfApi().dataset_info(name, revision=revision).sha
            assert commit, "the hub told no commit"
        except Exception as error:  # offline, no such dataset, no such revision, gated, ...
            raise unreachable(name, error) from None
        write_text(cached, commit, overwrite=False)
    return cached.read_text(encoding="utf-8").strip()


def documents(name: str, config: str | None, split: str, commit: str, field: str) -> Iterator[str]:
    """Read column `field` in order. Raises ValueError in one line: no such dataset, config, split or column."""
    from datasets import load_dataset

    rows: Iterator[Any] = iter(())
    for number in count():
        try:
            if not number:
                rows = iter(load_dataset(name, config, split=split, revision=commit, streaming=True))
            row = next(rows, None)
        except Exception as error:  # datasets has no common base class for its errors
            if number:
                raise ValueError(f"dataset {name}: not readable after row {number} ({first_line(error)})") from None
            raise unreachable(name, error) from None
        if row is None:
            return
        yield text_of(row, field, f"dataset {name} row {number + 1}")


def text_of(row: Any, field: str, source: str) -> str:
    """The text column of a row; "" for a null. Raises ValueError, one line that begins with `source`."""
    if not isinstance(row, dict):
        raise ValueError(f"{source}: a row is an object with columns, not {type(row).__name__}")
    if field not in row:
        columns = ", ".join(map(str, row)).encode(errors="backslashreplace").decode()
        raise ValueError(f"{source}: no column {field!r}; set `field` to one of: {columns}")
    text = "" if row[field] is None else row[field]
    if not isinstance(text, str):
        raise ValueError(
            f"{source}: column {field!r} holds {type(text).__name__}, not text; set `field` to the text column"
        )
    if not text.isascii():  # JSON may hold half of a surrogate pair
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(text[error.start]):04x}"
            raise ValueError(
                f"{source}: column {field!r} holds {half}, half of a surrogate pair, at character {error.start}: no "
                f"text; take it out"
            ) from None
    return text


def unreachable(name: str, error: BaseException) -> ValueError:
    """The error for a dataset that cannot be read."""
    return ValueError(
        f"dataset {name}: no built-in name, no local path, and not to be had from the hub ({first_line(error)}); "
        "give a local file or folder, or a hub id that can be reached"
    )
