"""A sweep's folder, and the storage that keeps it where the results have a URI.

Everything reads and writes a local folder. A mirror keeps it in step with the storage, which is the truth and looks
like a results folder. The launcher works in a copy under the cache folder, without checkpoints. A slot's worker trains
in a folder of its own, publishes with a trial's reports what it has written, and goes on from what others published.
`results.json` is published last. A checkpoint counts when its `.whole`, which is written last, lists its files.

On a path that every node sees trials are written in place and a mirror does nothing, hence the two classes.
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
from typing import Any, ClassVar

from attnlab.records import storage
from attnlab.records.paths import SweepDir, TrialDir
from attnlab.records.results import Job
from attnlab.records.storage import Store
from attnlab.util.errors import StorageError
from attnlab.util.files import cache_root, text_digest, write_json

MAX_THREADS = 16  # files on their way at a time
PATIENCE_S = 120.0  # with storage that does not answer, when the sweep cannot go on without it
WHOLE = ".whole"  # in a published checkpoint: {file: bytes}
SCRATCH = ("ray",)  # in a sweep's folder: never published


@dataclass(frozen=True)
class Mirror:
    """A sweep's folder at a path, which needs no copy."""

    folder: SweepDir
    remote: ClassVar[bool] = False  # whether `folder` is a copy of what a URI holds

    def __str__(self) -> str:
        return str(self.folder.path)

    def check(self) -> None:
        """Raise StorageError if the folder cannot be written to."""
        existing = next(p for p in (self.folder.path, *self.folder.path.parents) if p.exists())
        if not existing.is_dir():
            raise StorageError(f"{self}: {existing} is no folder")
        if not os.access(existing, os.W_OK):
            raise StorageError(f"{self}: {existing} cannot be written to by this user")

    def pull(self) -> None:
        """Fetch the records of all trials, and remove here what the storage does not hold."""

    def fetch_sweep_file(self) -> None:
        """Fetch sweep.yaml alone. A launcher may be at work with all else."""

    def fetch(self, trial: TrialDir) -> None:
        """Fetch the records of one trial."""

    def fetch_final(self, trial: TrialDir) -> None:
        """Fetch the exported model of one trial."""

    def push(self, *paths: Path) -> None:
        """Publish files, and the files in folders."""

    def remove(self, *paths: Path) -> None:
        """Remove files, here and where they are published."""
        for path in paths:
            path.unlink(missing_ok=True)

    def discard(self, path: Path) -> None:
        """Remove a file that is no longer here from the storage."""

    def for_worker(self, name: str) -> Mirror:
        """The mirror of a worker of that name, with a folder of its own."""
        return self

    def open_trial(self, job: Job, lead: bool) -> OpenTrial:
        """Begin or continue a trial here. `lead`: this process writes its records."""
        return OpenTrial(self.folder.trial(job.arm, job.trial_id))


@dataclass
class OpenTrial:
    """A trial while it is trained."""

    folder: TrialDir

    def publish(self) -> None:
        """Start to publish what was written since, and return at once."""

    def close(self) -> None:
        """Publish everything and keep nothing here. Raises StorageError when the storage does not take it."""


def mirror(results: str | Path, *names: str) -> Mirror:
    """The folder `<results>/<names>` by path or URI. Raises StorageError for a URI that no library knows."""
    if (path := storage.local(results)) is not None:
        return Mirror(SweepDir(path.resolve().joinpath(*names)))
    store = Store.open(str(results)).child(*names) if names else Store.open(str(results))
    return RemoteMirror(_copy(store.uri, "records"), store)


def _copy(uri: str, *use: str) -> SweepDir:
    name = uri.partition("?")[0].rstrip("/").rpartition("/")[2]
    return SweepDir(cache_root().joinpath("results", text_digest(uri, 12), *use, name))


@dataclass(frozen=True)
class RemoteMirror(Mirror):
    """A sweep's folder at a URI, with a copy here."""

    store: Store
    remote: ClassVar[bool] = True

    def __str__(self) -> str:
        return str(self.store)

    def check(self) -> None:
        """Write an object and remove it."""
        name = f".attnlab-{os.getpid()}-{time.time_ns()}"
        self.store.write(name, b"attnlab")
        self.store.delete(name)

    def pull(self) -> None:
        """Fetch all trials' records, except same-sized files of ended trials."""
        root = self.folder.path
        stored = {name: size for name, size in self.store.list().items() if _is_record(name)}
        here = {str(path.relative_to(root)): path.stat().st_size for path in root.rglob("*") if path.is_file()}
        for name in here.keys() - stored.keys():
            (root / name).unlink()
        for scratch in SCRATCH:
            shutil.rmtree(root / scratch, ignore_errors=True)
        # an ended trial is not written again: a file of the same size is the same
        ended = {name.rpartition("/")[0] for name in here if name.endswith("/results.json")}
        wanted = [n for n in stored if not (n.rpartition("/")[0] in ended and here.get(n) == stored[n])]
        _fetch(self.store, root, wanted)

    def fetch_sweep_file(self) -> None:
        """Fetch sweep.yaml alone, or remove the copy of one that is gone."""
        file = self.folder.sweep_file
        try:
            self.store.get(file.name, file)
        except FileNotFoundError:
            file.unlink(missing_ok=True)

    def fetch(self, trial: TrialDir) -> None:
        """Fetch the records of one trial, patiently."""
        store = self.store.child(trial.arm, trial.trial_id)
        _patiently(lambda: _fetch(store, trial.path, [name for name in store.list() if _is_record(name)]))

    def fetch_final(self, trial: TrialDir) -> None:
        """Fetch the exported model of one trial."""
        store = self.store.child(trial.arm, trial.trial_id)
        shutil.rmtree(trial.final, ignore_errors=True)
        _fetch_checkpoints(store, store.list(), trial, only="final")

    def push(self, *paths: Path) -> None:
        """Publish files under their paths below the folder, patiently."""
        files = [f for path in paths for f in (path.rglob("*") if path.is_dir() else [path]) if f.is_file()]
        names = {str(file.relative_to(self.folder.path)): file for file in files}
        _patiently(partial(_in_threads, lambda name: self.store.put(names[name], name), names))

    def remove(self, *paths: Path) -> None:
        """Remove files, here and in the storage."""
        super().remove(*paths)
        for path in paths:
            self.store.delete(str(path.relative_to(self.folder.path)))

    def discard(self, path: Path) -> None:
        """Remove what is published under a file's path, patiently."""
        _patiently(lambda: self.store.delete(str(path.relative_to(self.folder.path))))

    def for_worker(self, name: str) -> RemoteMirror:
        """The mirror of a worker of that name, with a copy of its own."""
        return RemoteMirror(_copy(self.store.uri, "workers", name), self.store)

    def open_trial(self, job: Job, lead: bool) -> OpenTrial:
        """Fetch what another worker has published of the trial, its checkpoints too."""
        folder, store = self.folder.trial(job.arm, job.trial_id), self.store.child(job.arm, job.trial_id)
        shutil.rmtree(self.folder.path, ignore_errors=True)  # of this or another trial, left by a process that died
        stored = store.list()
        records = [name for name in stored if not name.startswith("checkpoints/")]
        _fetch(store, folder.path, records)
        if not folder.results_file.exists():
            _fetch_checkpoints(store, stored, folder)
        if not folder.config_file.exists():
            write_json(folder.config_file, job.model_dump(mode="json"))
        return RemoteOpenTrial(folder, store, lead, {name.split("/")[1] for name in stored if name not in records})


def _fetch(store: Store, to: Path, names: Iterable[str]) -> None:
    _in_threads(lambda name: store.get(name, to / name), names)


def _fetch_checkpoints(store: Store, stored: Mapping[str, int], trial: TrialDir, only: str | None = None) -> None:
    """Fetch every published checkpoint that is whole."""
    for marker in [n for n in stored if n.startswith("checkpoints/") and n.endswith(f"/{WHOLE}")]:
        name = marker.rpartition("/")[0]
        files = json.loads(store.read(marker))
        whole = all(stored.get(f"{name}/{n}") == size for n, size in files.items())
        if whole and only in (None, name.rpartition("/")[2]):
            _fetch(store.child(name), trial.path / name, files)


@dataclass
class RemoteOpenTrial(OpenTrial):
    """Publishes while the trial trains, one round at a time. The next round makes up for a failed one."""

    store: Store
    lead: bool
    published: set[str]  # checkpoints of which the storage has any file
    _sent: dict[str, tuple[int, int]] = field(default_factory=dict)
    _whole: dict[str, int] = field(default_factory=dict)
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "publish"))
    _round: Future[None] | None = None

    def publish(self) -> None:
        """Start a round of publishing in a thread, unless one is on its way."""
        if not self.lead or (self._round and not self._round.done()):
            return
        if self._round and (error := self._round.exception()):
            print(f"attnlab: not published yet, will be tried again: {error}", flush=True)
        self._round = self._thread.submit(self._publish)

    def close(self) -> None:
        """Publish everything, patiently, and remove it here."""
        self._thread.shutdown(wait=True)
        if self.lead:
            _patiently(partial(self._publish, last=True))
        shutil.rmtree(self.folder.path, ignore_errors=True)

    def _publish(self, last: bool = False) -> None:
        """Publish records, then checkpoints, and in the last round results.json."""
        checkpoints = {p.name: p for p in self.folder.checkpoints.glob("*") if not p.name.startswith(".")}
        for path in sorted(p for p in self.folder.path.iterdir() if p.is_file() and not p.name.startswith(".")):
            if path != self.folder.results_file:
                self._send(path)
        for name, path in sorted(checkpoints.items()):
            self._send_checkpoint(name, path)
        for name in self.published - checkpoints.keys():
            self._remove(name)
        if last and self.folder.results_file.exists():
            self._send(self.folder.results_file)

    def _send(self, path: Path) -> None:
        stat = path.stat()
        if self._sent.get(path.name) != (stat.st_size, stat.st_mtime_ns):
            self.store.put(path, path.name)
            self._sent[path.name] = (stat.st_size, stat.st_mtime_ns)

    def _send_checkpoint(self, name: str, path: Path) -> None:
        try:
            written_ns = path.stat().st_mtime_ns  # the folder appears under its name when it is whole
            if self._whole.get(name) == written_ns:
                return
            if name in self.published:
                self.store.delete(f"checkpoints/{name}/{WHOLE}")
            self.published.add(name)
            files = {f.name: self.store.put(f, f"checkpoints/{name}/{f.name}") for f in sorted(path.iterdir())}
        except FileNotFoundError:  # removed meanwhile, because there are newer ones
            return
        self.store.write(f"checkpoints/{name}/{WHOLE}", json.dumps(files).encode())
        self._whole[name] = written_ns

    def _remove(self, name: str) -> None:
        self.store.delete(f"checkpoints/{name}/{WHOLE}")
        for file in self.store.child("checkpoints", name).list():
            self.store.delete(f"checkpoints/{name}/{file}")
        self.published.discard(name)
        self._whole.pop(name, None)


def _is_record(name: str) -> bool:
    """Whether a file is neither in a checkpoint nor scratch nor half written."""
    parts = name.split("/")
    return "checkpoints" not in parts[:-1] and parts[0] not in SCRATCH and not parts[-1].startswith(".")


def _patiently(do: Callable[[], None]) -> None:
    """Call `do` again while it raises StorageError, for up to PATIENCE_S."""
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


def _in_threads(do: Callable[[str], Any], names: Iterable[str]) -> None:
    with ThreadPoolExecutor(MAX_THREADS) as threads:  # it starts only as many as there are names
        list(threads.map(do, names))
