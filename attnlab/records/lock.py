"""One launcher at a time on a sweep's folder.

A launcher leaves a file that names it in the folder and renews it every HEARTBEAT_S. Another is refused while that file
lives. It is dead when its process is gone, on the same host, and elsewhere when it was not renewed for LIMIT_S. Ages
are told by the storage's own clock: that of a file written there just now.

Files are numbered. Who finds none alive makes the next number, which succeeds once. Whoever made one looks again and
gives way to any other that lives, so that two never hold a folder however they came by it.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from attnlab.records.lock_file import lock_files
from attnlab.records.mirror import Mirror
from attnlab.util.errors import StorageError, UserError
from attnlab.util.text import one_line

HEARTBEAT_S = 10.0
POLL_S = 1.0
LIMIT_S = 120.0  # without a heartbeat; attributes that NFS keeps are at most 60 s old
NAME = re.compile(r"\.launcher-(\d{6,18})")  # hidden, so that it is no record


@dataclass(frozen=True)
class Owner:
    """Who holds a folder."""

    host: str
    place: str  # of the process id: the host's boot and the container
    pid: int
    start: str  # what tells the process from a later one of its id
    since: float  # Unix time by its host's clock, for people
    token: str  # of this hold

    @classmethod
    def me(cls) -> Owner:
        """This process."""
        pid = os.getpid()
        return cls(socket.gethostname(), _place(), pid, _start(pid) or "", time.time(), uuid4().hex)

    @classmethod
    def read(cls, content: bytes) -> Owner | None:
        """The owner that a file names, None if it is not whole."""
        with suppress(ValueError, TypeError, AttributeError, KeyError, RecursionError, OverflowError, OSError):
            said = json.loads(content)
            del said["beat"]
            owner = cls(**said)
            texts = (owner.host, owner.place, owner.start, owner.token)
            if type(owner.pid) is int and all(type(text) is str for text in texts) and str(owner):
                return owner
        return None

    def lives(self, age_s: float) -> bool:
        """Whether the process is there, or may be: its last heartbeat was `age_s` ago."""
        if self.place != _place():
            return age_s < LIMIT_S
        return _start(self.pid) == self.start

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {one_line(self.host)} since {since}"


def _place() -> str:
    """What tells this host and its process ids from others."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return " ".join(parts)


def _start(pid: int) -> str | None:
    """What tells a live process from others that had its id: its start, in ticks since the boot. None: it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:  # a system without /proc
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except OSError:
            return ""
        return ""
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


class Lock:
    """A context in which this process alone runs the sweep of a folder.

    Raises UserError, one line that names the owner, if another does, and StorageError if nothing can be written there.
    """

    def __init__(self, mirror: Mirror):
        self._mirror, self._files = mirror, lock_files(mirror)
        self._owner, self._name, self._beats = Owner.me(), "", 0
        self._dead = dict[str, bytes]()  # files of owners that are known to be gone
        self._lost: Callable[[str], object] = print
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lock", daemon=True)

    def __enter__(self) -> Lock:
        for _ in range(5):
            others = self._others()
            number = max([0, *(int(name.rpartition("-")[2]) for name in others)]) + 1
            self._name = f".launcher-{number:06d}"
            if not self._files.create(self._name, self._content):
                continue  # another was first, and is told next time
            try:
                dead = self._others()
            except BaseException:
                self._files.delete(self._name)
                raise
            if (mine := dead.pop(self._name, None)) and mine == self._owner:
                for name in dead:
                    self._files.delete(name)
                self._thread.start()
                return self
        raise UserError(f"{self._mirror}: another launcher is starting on this sweep")

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join(HEARTBEAT_S)
        with suppress(StorageError, OSError):  # a storage that is gone; the file is then found dead
            self._files.delete(self._name)
            self._files.tidy()

    def check(self) -> None:
        """Raise UserError if another launcher holds the folder now."""
        self._others()

    def tell(self, lost: Callable[[str], object]) -> None:
        """Call `lost` with a line should another launcher take over, as from a host that was suspended."""
        self._lost = lost

    @property
    def _content(self) -> bytes:
        self._beats += 1  # so that each renewal shows, where the storage tells no times
        return json.dumps({**asdict(self._owner), "beat": self._beats}).encode()

    def _watched(self, name: str, content: bytes, owner: Owner | None) -> float:
        """A file's age in storage that tells no times: watch it for as long as it may live without a heartbeat."""
        if owner and owner.place == _place():
            return 0.0  # its process is asked
        print(f"attnlab: {self._mirror}: waiting up to {LIMIT_S:.0f} s for a sign of {owner or name}", flush=True)
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            time.sleep(POLL_S)
            now = self._files.list().get(name)
            if now is None or now[0] != content:
                return 0.0 if now else LIMIT_S
        return LIMIT_S

    def _others(self) -> dict[str, Owner | None]:
        """The files there by name, this launcher's included. Raises UserError if another's lives."""
        found = {}
        for name, (content, said_s) in self._files.list().items():
            if not NAME.fullmatch(name):
                continue
            owner = found[name] = Owner.read(content)
            if owner == self._owner or (said_s is None and self._dead.get(name) == content):
                continue
            age_s = said_s if said_s is not None else self._watched(name, content, owner)
            if owner is None and age_s < LIMIT_S:
                raise UserError(f"{self._mirror}: another launcher is starting on this sweep ({name})")
            if owner and owner.lives(age_s):
                elsewhere = f", last seen {age_s:.0f} s ago; if it died, --resume goes on {LIMIT_S:.0f} s after that"
                raise UserError(
                    f"{self._mirror}: this sweep is being run by {owner}{elsewhere if owner.place != _place() else ''}"
                )
            self._dead[name] = content
        return found

    def _renew(self) -> None:
        while not self._over.wait(HEARTBEAT_S):
            try:
                files = self._files.list()
                if (held := files.get(self._name)) is None or Owner.read(held[0]) != self._owner:
                    gone = f"{self._mirror}: its lock is gone; was the folder removed?"
                    self._lost("another launcher has taken this sweep over" if files else gone)
                    return
                self._files.renew(self._name, self._content)
            except (UserError, OSError) as error:  # the next one may get through
                print(f"attnlab: no heartbeat: {error}", flush=True)
