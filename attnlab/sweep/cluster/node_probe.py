"""Check before the first trial that a cluster's nodes see what trials will need.

The launcher writes a token into each shared folder. Every node that fits a worker reads it and answers in a file, which
the launcher reads. A node that comes later is checked as its workers start.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from attnlab.config.resolved import Plan
from attnlab.records.mirror import Mirror, RemoteMirror
from attnlab.records.storage import Store
from attnlab.sweep.cluster.ask_nodes import Node, ask_nodes
from attnlab.util.errors import StorageError, UserError
from attnlab.util.text import reason

PATIENCE_S = 10.0  # until a host sees another's file: network file systems remember what was missing
ANSWER_S = 90.0  # until a node answers: it starts a process that imports attnlab
POLL_S = 0.25


@dataclass(frozen=True)
class SharedFolder:
    """A folder or URI that every node must see."""

    option: str  # the user's name of it
    location: Path | Store

    def __str__(self) -> str:
        return f"{self.option} {self.location}"

    def write(self, name: str, text: str) -> None:
        """Write a file. Raises StorageError or OSError."""
        if isinstance(self.location, Store):
            self.location.write(name, text.encode())
        else:
            path = self.location / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    def read(self, name: str, expected: str, patience_s: float = PATIENCE_S) -> str | None:
        """Read a file. Returns what is wrong with it, None if it is as expected."""
        end = time.monotonic() + patience_s
        while True:
            try:
                if self._read(name) == expected:
                    return None
                wrong = "another file of this name is there"
            except FileNotFoundError:
                wrong = "nothing of what the launcher wrote is there"
            except (OSError, StorageError) as error:
                wrong = str(error)
            if time.monotonic() > end:
                return wrong
            time.sleep(POLL_S)

    def _read(self, name: str) -> str:
        if isinstance(self.location, Store):
            return self.location.read(name).decode()
        return (self.location / name).read_text(encoding="utf-8")

    def clear(self, folder: str) -> None:
        """Remove one of its folders."""
        if isinstance(self.location, Store):
            for name in self.location.child(folder).list():
                self.location.delete(f"{folder}/{name}")
        else:
            shutil.rmtree(self.location / folder, ignore_errors=True)


def shared_folders(mirror: Mirror, kernel_cache: Path | None, host_cache: Path) -> list[SharedFolder]:
    """What nodes must share: the results, and a kernel cache outside each host's `host_cache`."""
    results = mirror.store if isinstance(mirror, RemoteMirror) else mirror.folder.path.parent
    folders = [SharedFolder("--results", results)]
    if kernel_cache and not (mirror.remote and kernel_cache.is_relative_to(host_cache)):
        folders.append(SharedFolder("--kernel-cache", kernel_cache))
    return folders


def datasets(plan: Plan) -> list[str]:
    """Local files and folders that trials read, absolute."""
    names = [getattr(arm.trial.task, key, None) for arm in plan.arms for key in ("dataset", "validation")]
    paths = [Path(name).expanduser() for name in names if isinstance(name, str)]
    return sorted({str(path.resolve()) for path in paths if path.exists()})


def nodes_that_fit(nodes: Iterable[Node], cpus: float, gpus: float) -> list[Node]:
    """The nodes that are up and have room for a worker."""
    fit = [n for n in nodes if n["Alive"] and n["Resources"].get("CPU", 0) >= cpus]
    return [n for n in fit if not gpus or n["Resources"].get("GPU", 0) >= gpus]


def probe(
    nodes: Sequence[Node], shared: Sequence[SharedFolder], files: Sequence[str], answer_s: float = ANSWER_S
) -> list[str]:
    """Check every node and leave no trace. Returns a line for each problem of a node."""
    token, folder = uuid4().hex, f".attnlab-probe-{uuid4().hex[:8]}"
    local = [each.location for each in shared if isinstance(each.location, Path)]
    made = [path for location in local for path in (location, *location.parents) if not path.exists()]
    problems = []
    try:
        for each in shared:
            try:
                each.write(f"{folder}/token", token)
            except (OSError, StorageError) as error:
                return [f"{each}: {error}"]
        answers = ask_nodes(nodes, check_node, lambda node: (shared, files, folder, token, node["NodeID"]), answer_s)
        for node, answer in answers:
            if isinstance(answer, Exception):  # late, gone, or without attnlab
                answer = [reason(str(answer))]
            wrong = answer or [
                f"what it writes to {each} is not seen here: {why}"
                for each in shared
                if (why := each.read(f"{folder}/{node['NodeID']}", token))
            ]
            host = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            problems += [f"node {host}: {line}" for line in wrong]
        return problems
    finally:
        for each in shared:
            each.clear(folder)
        for path in made:  # the deepest first
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def check_node(shared: Sequence[SharedFolder], files: Sequence[str], folder: str, token: str, answer: str) -> list[str]:
    """Check the node that runs this. Returns a line for each problem."""
    problems = []
    for each in shared:
        must = "every node must see it (a shared file system, or for results a URI such as s3://bucket/results)"
        if wrong := each.read(f"{folder}/token", token):
            problems.append(f"does not see {each}: {wrong}; {must}")
            continue
        try:
            each.write(f"{folder}/{answer}", token)
        except (OSError, StorageError) as error:
            problems.append(f"cannot write to {each}: {error}; its workers must")
    problems += [f"does not see the dataset {file}; every node must" for file in files if not os.path.exists(file)]
    return problems


def check_results(mirror: Mirror, sweep_file: str) -> None:
    """Raise UserError if this host does not see the sweep's folder with its sweep.yaml."""
    folder = mirror.store if isinstance(mirror, RemoteMirror) else mirror.folder.path
    if wrong := SharedFolder("--results", folder).read("sweep.yaml", sweep_file):
        raise UserError(f"node {os.uname().nodename} does not see --results {mirror}: {wrong}; every node must")
