"""Results behind a URI: everything reads and writes a local folder, and this keeps it in step with the storage.

The storage is the truth, and looks like a results folder. The launcher works in a copy under the cache folder, without
checkpoints; a slot's worker trains in a folder of its own, publishes what a trial has written with its reports, and
begins a trial that another has begun with what that one published. Of a trial, `results.json` is published last, and a
checkpoint counts when its `.whole` lists its files, which is written after them.

For a path that every node sees there is nothing to do, and nothing is done.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from attnlab.records import storage
from attnlab.records.paths import SweepDir, TrialDir
from attnlab.records.results import Job
from attnlab.records.storage import Store
from attnlab.util.errors import StorageError
from attnlab.util.files import cache_root, text_digest, write_json

AT_ONCE = 16  # files on their way at a time
PATIENCE_S = 120.0  # with storage that does not answer, where the sweep cannot go on without
WHOLE = ".whole"  # in a published checkpoint: {file: bytes}
SCRATCH = ("ray",)  # in a sweep's folder: never published


@dataclass(frozen=True)
class Mirror:
    """A sweep's folder and where it is kept. This one: a path, which needs no keeping."""

    folder: SweepDir

    def __str__(self) -> str:
        return str(self.folder.path)

    @property
    def remote(self) -> bool:
        return False

    def check(self) -> None:
        """Raises StorageError if nothing can be written there."""
        at = next(p for p in (self.folder.path, *self.folder.path.parents) if p.exists())
        if not at.is_dir():
            raise StorageError(f"{self}: {at} is no folder")
        if not os.access(at, os.W_OK):
            raise StorageError(f"{self}: {at} cannot be written to by this user")

    def pull(self) -> None:
        """Have the records of all trials here, and nothing else."""

    def fetch(self, trial: TrialDir) -> None:
        """Have the records of one trial here."""

    def fetch_final(self, trial: TrialDir) -> None:
        """Have the exported model of one trial here."""

    def push(self, *paths: Path) -> None:
        """Publish files, and the files in folders."""

    def at_worker(self, name: str) -> Mirror:
        """The same for a worker of that name: it keeps trials' files in a folder of its own."""
        return self

    def take(self, job: Job, lead: bool) -> Taken:
        """Begin a trial here, or go on with it. `lead`: this process writes its records."""
        return Taken(self.folder.trial(job.arm, job.trial_id))


@dataclass
class Taken:
    """A trial while it is trained."""

    home: TrialDir

    def publish(self) -> None:
        """Something was written; returns at once."""

    def ended(self) -> None:
        """Publish all of it; nothing is kept here. Raises StorageError when the storage does not take it."""


def mirror(results: str | Path, *names: str) -> Mirror:
    """The folder `<results>/<names>`, such as a sweep's, by path or URI.

    Raises:
        StorageError: a URI that nothing here knows.
    """
    if (path := storage.local(results)) is not None:
        return Mirror(SweepDir(path.resolve().joinpath(*names)))
    where = Store.open(str(results)).child(*names) if names else Store.open(str(results))
    return Remote(_copy(where.uri, "records"), where)


def _copy(uri: str, *use: str) -> SweepDir:
    name = uri.partition("?")[0].rstrip("/").rpartition("/")[2]
    return SweepDir(cache_root().joinpath("results", text_digest(uri, 12), *use, name))


@dataclass(frozen=True)
class Remote(Mirror):
    """A URI and a copy."""

    store: Store

    def __str__(self) -> str:
        return str(self.store)

    @property
    def remote(self) -> bool:
        return True

    def check(self) -> None:
        """Write an object and remove it."""
        name = f".attnlab-{os.getpid()}-{time.time_ns()}"
        self.store.write(name, b"attnlab")
        self.store.delete(name)

    def pull(self) -> None:
        root = self.folder.path
        there = {name: size for name, size in self.store.list().items() if _is_record(name)}
        here = {str(path.relative_to(root)): path.stat().st_size for path in root.rglob("*") if path.is_file()}
        for name in here.keys() - there.keys():
            (root / name).unlink()
        for part in SCRATCH:
            shutil.rmtree(root / part, ignore_errors=True)
        # a trial that has ended is not written again: what has its size is the same
        ended = {name.rpartition("/")[0] for name in here if name.endswith("/results.json")}
        wanted = [n for n in there if not (n.rpartition("/")[0] in ended and here.get(n) == there[n])]
        _fetch(self.store, root, wanted)

    def fetch(self, trial: TrialDir) -> None:
        _patiently(partial(self._fetch_records, trial))

    def _fetch_records(self, trial: TrialDir) -> None:
        below = self.store.child(trial.arm, trial.trial_id)
        names = [name for name in below.list() if _is_record(f"{trial.arm}/{trial.trial_id}/{name}")]
        _fetch(below, trial.path, names)

    def fetch_final(self, trial: TrialDir) -> None:
        below = self.store.child(trial.arm, trial.trial_id)
        shutil.rmtree(trial.final, ignore_errors=True)
        _fetch_checkpoints(below, below.list(), trial, only="final")

    def push(self, *paths: Path) -> None:
        files = [f for path in paths for f in (path.rglob("*") if path.is_dir() else [path]) if f.is_file()]
        names = {str(file.relative_to(self.folder.path)): file for file in files}
        _patiently(partial(_side_by_side, lambda name: self.store.put(names[name], name), names))

    def at_worker(self, name: str) -> Remote:
        return Remote(_copy(self.store.uri, "workers", name), self.store)

    def take(self, job: Job, lead: bool) -> Taken:
        home = self.folder.trial(job.arm, job.trial_id)
        below = self.store.child(job.arm, job.trial_id)
        shutil.rmtree(self.folder.path, ignore_errors=True)  # of this or another trial, left by a process that died
        there = below.list()
        records = [n for n in there if not n.startswith("checkpoints/")]
        _fetch(below, home.path, records)
        if not home.results_file.exists():
            _fetch_checkpoints(below, there, home)
        if not home.config_file.exists():
            write_json(home.config_file, job.model_dump(mode="json"))
        return RemotelyTaken(home, below, lead, {name.split("/")[1] for name in there if name not in records})


def _fetch(where: Store, to: Path, names: Iterable[str]) -> None:
    _side_by_side(lambda name: where.get(name, to / name), names)


def _fetch_checkpoints(below: Store, there: Mapping[str, int], home: TrialDir, only: str | None = None) -> None:
    """Every published checkpoint that is whole."""
    for marker in [n for n in there if n.startswith("checkpoints/") and n.endswith(f"/{WHOLE}")]:
        at = marker.rpartition("/")[0]
        files = json.loads(below.read(marker))
        if only in (None, at.rpartition("/")[2]) and all(there.get(f"{at}/{n}") == size for n, size in files.items()):
            _fetch(below.child(at), home.path / at, files)


@dataclass
class RemotelyTaken(Taken):
    """Publishes beside the training, one round at a time; a round that fails is made up for by the next."""

    below: Store
    lead: bool
    published: set[str]  # checkpoints of which anything is there
    _sent: dict[str, tuple[int, int]] = field(default_factory=dict)
    _whole: dict[str, int] = field(default_factory=dict)
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "publish"))
    _round: Future[None] | None = None

    def publish(self) -> None:
        if not self.lead or (self._round and not self._round.done()):
            return
        if self._round and (error := self._round.exception()):
            print(f"attnlab: not published yet, will be tried again: {error}", flush=True)
        self._round = self._thread.submit(self._publish)

    def ended(self) -> None:
        self._thread.shutdown(wait=True)
        if self.lead:
            _patiently(partial(self._publish, last=True))
        shutil.rmtree(self.home.path, ignore_errors=True)

    def _publish(self, last: bool = False) -> None:
        """Records first, which may be ahead of the checkpoints listed before; results.json with the last round."""
        checkpoints = {p.name: p for p in self.home.checkpoints.glob("*") if not p.name.startswith(".")}
        for path in sorted(p for p in self.home.path.iterdir() if p.is_file() and not p.name.startswith(".")):
            if path != self.home.results_file:
                self._send(path)
        for name, path in sorted(checkpoints.items()):
            self._send_checkpoint(name, path)
        for name in self.published - checkpoints.keys():
            self._remove(name)
        if last and self.home.results_file.exists():
            self._send(self.home.results_file)

    def _send(self, path: Path) -> None:
        stat = path.stat()
        if self._sent.get(path.name) != (stat.st_size, stat.st_mtime_ns):
            self.below.put(path, path.name)
            self._sent[path.name] = (stat.st_size, stat.st_mtime_ns)

    def _send_checkpoint(self, name: str, path: Path) -> None:
        try:
            made = path.stat().st_mtime_ns  # the folder is written aside and renamed into place
            if self._whole.get(name) == made:
                return
            at = f"checkpoints/{name}"
            if name in self.published:
                self.below.delete(f"{at}/{WHOLE}")
            self.published.add(name)
            files = {file.name: self.below.put(file, f"{at}/{file.name}") for file in sorted(path.iterdir())}
        except FileNotFoundError:  # removed meanwhile, because there are newer ones
            return
        self.below.write(f"{at}/{WHOLE}", json.dumps(files).encode())
        self._whole[name] = made

    def _remove(self, name: str) -> None:
        at = f"checkpoints/{name}"
        self.below.delete(f"{at}/{WHOLE}")
        for file in self.below.child(at).list():
            self.below.delete(f"{at}/{file}")
        self.published.discard(name)
        self._whole.pop(name, None)


def _is_record(name: str) -> bool:
    """Of a sweep's or a suite's files: neither in a checkpoint nor scratch nor half of anything."""
    parts = name.split("/")
    return "checkpoints" not in parts[:-1] and parts[0] not in SCRATCH and not parts[-1].startswith(".")


def _patiently(do: Callable[[], None]) -> None:
    """Again and again while it raises StorageError, up to PATIENCE_S."""
    end, pause_s = time.monotonic() + PATIENCE_S, 0.5
    while True:
        try:
            return do()
        except StorageError as error:
            if time.monotonic() > end:
                raise
            print(f"attnlab: trying again: {error}", flush=True)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 10.0)


def _side_by_side(do: Callable[[str], Any], names: Iterable[str]) -> None:
    names = list(names)
    if len(names) < 2:
        for name in names:
            do(name)
        return
    with ThreadPoolExecutor(min(AT_ONCE, len(names))) as threads:
        list(threads.map(do, names))
