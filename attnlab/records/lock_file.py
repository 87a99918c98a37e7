"""The few operations on files that a lock needs, on a path and in object storage."""

from __future__ import annotations

import os
import stat
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import uuid4

from attnlab.records.mirror import Mirror, RemoteMirror
from attnlab.records.storage import Store
from attnlab.util.errors import UserError

SETTLE_S = 5.0  # what a write is given to show everywhere, where creation is not exclusive


class LockFiles(ABC):
    """Small files of a sweep's folder. Every method raises StorageError or OSError, and UserError for other things."""

    @abstractmethod
    def list(self) -> dict[str, tuple[bytes, float | None]]:
        """Every hidden file's content and age in seconds, by the storage's clock. None where it tells no times."""

    @abstractmethod
    def create(self, name: str, content: bytes) -> bool:
        """Make a file that is not there yet. False if there is one."""

    @abstractmethod
    def renew(self, name: str, content: bytes) -> None:
        """Make a file's age zero."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""

    def tidy(self) -> None:  # noqa: B027 (object storage has no folders)
        """Remove folders that were made for the files alone."""


def lock_files(mirror: Mirror) -> LockFiles:
    """The files of a mirror's folder."""
    return StoreFiles(mirror.store) if isinstance(mirror, RemoteMirror) else PathFiles(mirror.folder.path)


class PathFiles(LockFiles):
    """Files in a folder that launchers see at a path, also over NFS."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._made = [path for path in (folder, *folder.parents) if not path.exists()]

    def list(self) -> dict[str, tuple[bytes, float | None]]:
        """Every hidden file's content and age in seconds."""
        found, times = {}, dict[str, float]()
        for path in self._folder.glob(".launcher-*"):
            _refuse_other_than_file(path)
            with suppress(FileNotFoundError), path.open("rb") as file:  # opening it makes NFS ask the server
                found[path.name] = file.read()
                times[path.name] = os.fstat(file.fileno()).st_mtime
        try:
            now = self._now() if found else 0.0
        except FileNotFoundError:  # another launcher has removed the folder that it had made
            return {}
        return {name: (content, max(0.0, now - times[name])) for name, content in found.items()}

    def _now(self) -> float:
        probe = self._folder / f".clock-{uuid4().hex}"
        try:
            probe.touch()
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def create(self, name: str, content: bytes) -> bool:
        """Make a file that is not there yet, whole at once where the filesystem has links."""
        scratch = self._folder / f".clock-{uuid4().hex}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            scratch.write_bytes(content)
            os.link(scratch, self._folder / name)
        except (FileExistsError, FileNotFoundError):  # another was first, or has removed the folder that it had made
            if not self._folder.is_dir() and not self._folder.parent.exists():
                raise
            return False
        except OSError:  # no links here
            if not scratch.exists():
                raise
            with suppress(FileExistsError), (self._folder / name).open("xb") as file:
                file.write(content)
                return True
            return False
        finally:
            scratch.unlink(missing_ok=True)
        return True

    def renew(self, name: str, content: bytes) -> None:
        """Make a file's age zero, by the server's clock."""
        os.utime(self._folder / name)

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self._folder / name).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove the folders made here that have stayed empty."""
        for path in self._made:
            with suppress(OSError):
                path.rmdir()


def _refuse_other_than_file(path: Path) -> None:
    """Raise UserError for what no launcher has made, and which to open may wait for ever."""
    with suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "a link" if stat.S_ISLNK(mode) else "a special file"
            raise UserError(f"{path}: {what}, where launchers keep a file; remove it")


class StoreFiles(LockFiles):
    """Objects below a URI. Creation is exclusive on S3, by boto3, if the store knows conditional writes."""

    def __init__(self, store: Store):
        self._store = store

    def list(self) -> dict[str, tuple[bytes, float | None]]:
        """Every hidden object's content and age in seconds."""
        times = {name: at for name, at in self._store.times().items() if name.startswith(".launcher-")}
        if not times:
            return {}
        probe = f".clock-{uuid4().hex}"
        self._store.write(probe, b"x")
        try:
            now = self._store.times().get(probe)
        finally:
            self._store.delete(probe)
        found = dict[str, tuple[bytes, float | None]]()
        for name, at in times.items():
            with suppress(FileNotFoundError):
                age_s = None if at is None or now is None else max(0.0, now - at)
                found[name] = (self._store.read(name), age_s)
        return found

    def create(self, name: str, content: bytes) -> bool:
        """Make an object that is not there yet. Elsewhere than on S3: write, wait, and let the caller look again."""
        made = _put_if_none(self._store, name, content)
        if made is None:
            if name in self._store.times():
                return False
            known = "no conditional writes are known here (S3 has them, by boto3)"
            print(f"attnlab: {self._store}: {known}; waiting {SETTLE_S:g} s for other launchers", flush=True)
            self._store.write(name, content)
            time.sleep(SETTLE_S)
            return True
        return made

    def renew(self, name: str, content: bytes) -> None:
        """Make an object's age zero, by writing it again."""
        self._store.write(name, content)

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""
        self._store.delete(name)


def _put_if_none(store: Store, name: str, content: bytes) -> bool | None:
    """Put an object on S3 if there is none of the name. None where that cannot be had."""
    if store.fs.type_name != "s3":
        return None
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return None
    bucket, _, prefix = store.path.strip("/").partition("/")
    try:
        client = boto3.client("s3", **_client_options(store.uri))
        client.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=content, IfNoneMatch="*")
    except ClientError as error:
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (409, 412):
            return False
        return None  # whatever is wrong, a plain write says so in pyarrow's words
    except (BotoCoreError, ValueError):
        return None
    return True


def _client_options(uri: str) -> dict[str, Any]:
    """What a URI says of the server and the credentials, as pyarrow reads it, in boto3's words."""
    parts = urlsplit(uri)
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    options: dict[str, Any] = {}
    if endpoint := query.get("endpoint_override"):
        options["endpoint_url"] = endpoint if "://" in endpoint else f"{query.get('scheme', 'https')}://{endpoint}"
    if region := query.get("region"):
        options["region_name"] = region
    if parts.username and parts.password:
        options["aws_access_key_id"] = unquote(parts.username)
        options["aws_secret_access_key"] = unquote(parts.password)
    return options
