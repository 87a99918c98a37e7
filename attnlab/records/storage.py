"""A folder in object storage, by any URI that pyarrow or fsspec knows.

An object appears under its name only when it is whole. Object stores see to that, elsewhere it is written under another
name and renamed.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit
from uuid import uuid4

from attnlab.util.errors import StorageError
from attnlab.util.files import replacing
from attnlab.util.secret import HIDDEN, masked
from attnlab.util.text import one_line

APPEARS_WHOLE = ("s3", "gcs", "abfs")  # pyarrow's names of filesystems where an upload that is cut short leaves nothing
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
HINTS = {  # a pattern in what the storage's library says -> what would help
    r"NO_SUCH_BUCKET|bucket does not exist|NoSuchBucket": "there is no such bucket; make it first",
    r"ACCESS_DENIED|AccessDenied|INVALID_ACCESS_KEY|SIGNATURE|InvalidClientTokenId|credentials|Forbidden|Anonymous": (
        "access is refused; are there credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, the "
        "machine's role), and may they write there?"
    ),
    r"NETWORK_CONNECTION|resolve host|Connection refused|timed out|timeout": "it cannot be reached from here",
}


def local(location: str | Path) -> Path | None:
    """The path that a path or `file://` URI means, else None. Raises StorageError for a URI with a host."""
    if not SCHEME.match(str(location)):
        return Path(location)
    parts = urlsplit(str(location))
    if parts.scheme != "file":
        return None
    if parts.netloc not in ("", "localhost"):
        raise StorageError(
            f"{masked(str(location))}: file:// takes an absolute path, as in file:///{parts.netloc.rpartition('@')[2]}{parts.path}"
        )
    return Path(unquote(parts.path))


def join(uri: str, *parts: str) -> str:
    """Lengthen a URI's path and keep its query."""
    split = urlsplit(uri)
    return urlunsplit(split._replace(path="/".join([split.path.rstrip("/"), *parts])))


def shown(uri: str) -> str:
    """A URI for messages, without user, password and query."""
    return masked(uri).partition("?")[0].replace(f"//{HIDDEN}@", "//")


@dataclass(frozen=True)
class Store:
    """A folder of files, named relative to it with slashes. Every method raises StorageError."""

    uri: str = field(repr=False)  # it may hold a password
    fs: Any = field(repr=False)  # a pyarrow.fs.FileSystem
    path: str  # in `fs`

    @classmethod
    def open(cls, uri: str) -> Store:
        """Find the URI's filesystem, without reading anything."""
        return cls(uri, *_filesystem(uri))

    def __str__(self) -> str:
        return shown(self.uri)

    def child(self, *parts: str) -> Store:
        """The folder below of that name."""
        return Store(join(self.uri, *parts), self.fs, "/".join([self.path.rstrip("/"), *parts]))

    def list(self) -> dict[str, int]:
        """Size in bytes of every file below, by name."""
        return {name: info.size for name, info in self._infos(recursive=True)}

    def times(self) -> dict[str, float | None]:
        """When every file directly below was written, by the storage's clock, Unix time. None where it tells none."""
        infos = self._infos(recursive=False)
        return {name: None if info.mtime_ns is None else info.mtime_ns / 1e9 for name, info in infos}

    def _infos(self, recursive: bool) -> Iterator[tuple[str, Any]]:
        from pyarrow.fs import FileSelector, FileType

        with self._naming_errors():
            infos = self.fs.get_file_info(FileSelector(self.path, recursive=recursive, allow_not_found=True))
        start = len(self.path.strip("/")) + 1
        yield from ((info.path.strip("/")[start:], info) for info in infos if info.type == FileType.File)

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        with self._reading(name) as stream:
            return bytes(stream.read())

    @contextmanager
    def _reading(self, name: str) -> Iterator[Any]:
        with self._naming_errors(name), self.fs.open_input_stream(self._path(name)) as stream:
            yield stream

    def get(self, name: str, path: Path) -> None:
        """Fetch one file, which appears under `path` when it is whole."""
        with replacing(path, sync=False) as scratch, self._reading(name) as stream, scratch.open("wb") as file:
            shutil.copyfileobj(stream, file, 1 << 23)

    def put(self, path: Path, name: str) -> int:
        """Publish one file as it is now and return its size. Raises FileNotFoundError when it is gone."""
        import pyarrow as pa

        size = path.stat().st_size
        # mapped, so that the write is one call: a reader's error half way would publish half a file
        content = pa.memory_map(str(path)).read_buffer() if size else b""
        self.write(name, content)
        return len(content)

    def write(self, name: str, content: Any) -> None:
        """Write one file, which appears whole or not at all."""
        path = self._path(name)
        with self._naming_errors(name):
            if self.fs.type_name in APPEARS_WHOLE:
                with self.fs.open_output_stream(path) as stream:
                    stream.write(content)
                return
            folder, _, base = path.rpartition("/")
            scratch = f"{folder}/.{base}.{uuid4().hex[:8]}"
            self.fs.create_dir(folder, recursive=True)
            with self.fs.open_output_stream(scratch) as stream:
                stream.write(content)
            self.fs.move(scratch, path)

    def delete(self, name: str) -> None:
        """Remove one file, if it is there."""
        with suppress(FileNotFoundError), self._naming_errors(name):
            self.fs.delete_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self.path.rstrip('/')}/{name}"

    @contextmanager
    def _naming_errors(self, name: str = "") -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:  # pyarrow's, and whatever an fsspec filesystem raises
            raise StorageError(f"{join(shown(self.uri), name) if name else self}: {_reason(error)}") from error


def _filesystem(uri: str) -> tuple[Any, str]:
    import pyarrow as pa
    from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

    try:
        fs, path = FileSystem.from_uri(uri)
        return fs, path
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        if "nrecognized filesystem" not in str(error) and "without" not in str(error):
            raise StorageError(f"{shown(uri)}: {_reason(error)}") from None
    except OSError as error:  # hdfs without its library; S3 that does not answer
        raise StorageError(f"{shown(uri)}: {_reason(error)}") from None
    try:
        from fsspec.core import url_to_fs

        fs, path = url_to_fs(uri)
    except (ImportError, ValueError) as error:
        scheme = urlsplit(uri).scheme
        raise StorageError(
            f"{shown(uri)}: no storage is known for {scheme}:// ({_reason(error)}); a path that every node sees, or "
            f"s3://, gs://, abfs://, hdfs://"
        ) from None
    return PyFileSystem(FSSpecHandler(fs)), path


def _reason(error: BaseException) -> str:
    text = masked(one_line(error))
    hint = next((hint for pattern, hint in HINTS.items() if re.search(pattern, text, re.IGNORECASE)), None)
    text = re.sub(r"\s*\(Request ID:[^)]*\)", "", text)
    short = text if len(text) <= 200 else f"{text[:200]}..."
    return f"{hint} ({short})" if hint else short
