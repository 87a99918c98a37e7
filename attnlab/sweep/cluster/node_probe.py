"""Whether a cluster's nodes see what a sweep's trials will need, asked before the first one.

The launcher writes a token into each folder that nodes must share; every node that can hold a worker reads it and
answers in a file beside it, which the launcher reads in turn. A node that comes later is asked when its workers start.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from attnlab.config.resolved import Plan
from attnlab.records.mirror import Mirror, RemoteMirror
from attnlab.records.storage import Store
from attnlab.util.errors import StorageError, UserError
from attnlab.util.text import last_line

PATIENCE_S = 10.0  # for what one host wrote to be seen by another: network file systems remember what was not there
ANSWER_S = 90.0  # for a node's answer: it starts a process that imports attnlab
POLL_S = 0.25


@dataclass(frozen=True)
class Spot:
    """A place that every node must share, for tokens: a folder, or a URI's."""

    option: str  # what the user names it by
    shown: str
    at: Path | Store

    def write(self, name: str, text: str) -> None:
        """Raises StorageError or OSError."""
        if isinstance(self.at, Store):
            self.at.write(name, text.encode())
            return
        path = self.at / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def read(self, name: str, expected: str, patience_s: float = PATIENCE_S) -> str | None:
        """None if it can be read here and is as expected; else what is wrong with it."""
        end = time.monotonic() + patience_s
        while True:
            try:
                found = self.at.read(name).decode() if isinstance(self.at, Store) else (self.at / name).read_text()
                if found == expected:
                    return None
                wrong = "another file of this name is there"
            except FileNotFoundError:
                wrong = "nothing of what the launcher wrote is there"
            except (OSError, StorageError) as error:
                wrong = str(error)
            if time.monotonic() > end:
                return wrong
            time.sleep(POLL_S)

    def clear(self, folder: str) -> None:
        if isinstance(self.at, Store):
            for name in self.at.child(folder).list():
                self.at.delete(f"{folder}/{name}")
        else:
            shutil.rmtree(self.at / folder, ignore_errors=True)


def spots(place: Mirror, kernel_cache: Path | None, own: Path) -> list[Spot]:
    """What nodes must share: the results, and the kernel cache unless it is each host's own (in the folder `own`)."""
    where = place.store if isinstance(place, RemoteMirror) else place.folder.path.parent
    found = [Spot("--results", str(where), where)]
    if kernel_cache and not (place.remote and kernel_cache.is_relative_to(own)):
        found.append(Spot("--kernel-cache", str(kernel_cache), kernel_cache))
    return found


def datasets(plan: Plan) -> list[str]:
    """Local files and folders that trials read, absolute."""
    named = [getattr(plan.arm(arm).trial.task, key, None) for arm in plan.names for key in ("dataset", "validation")]
    here = [Path(name).expanduser() for name in named if isinstance(name, str)]
    return sorted({str(path.resolve()) for path in here if path.exists()})


def holding(nodes: Iterable[Mapping[str, Any]], cpus: float, gpus: float) -> list[Mapping[str, Any]]:
    """Of `ray.nodes()`, those that are up and that one worker fits on."""
    fit = [n for n in nodes if n["Alive"] and n["Resources"].get("CPU", 0) >= cpus]
    return [n for n in fit if not gpus or n["Resources"].get("GPU", 0) >= gpus]


def probe(
    nodes: Sequence[Mapping[str, Any]], shared: Sequence[Spot], files: Sequence[str], answer_s: float = ANSWER_S
) -> list[str]:
    """Ask every node; returns what is wrong, one line per node and place. What is written for it is removed again."""
    token, folder = uuid4().hex, f".attnlab-probe-{uuid4().hex[:8]}"
    made = [path for spot in shared if isinstance(spot.at, Path) for path in _missing(spot.at)]
    try:
        for spot in shared:
            try:
                spot.write(f"{folder}/token", token)
            except (OSError, StorageError) as error:
                return [f"{spot.option} {spot.shown}: {error}"]
        problems = []
        for node, wrong in _answers(nodes, shared, files, folder, token, answer_s):
            problems += [f"node {name(node)}: {line}" for line in wrong]
        return problems
    finally:
        for spot in shared:
            spot.clear(folder)
        for path in made:  # the deepest first
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def name(node: Mapping[str, Any]) -> str:
    """`host (address)`."""
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"


def _missing(path: Path) -> list[Path]:
    return [p for p in (path, *path.parents) if not p.exists()]


def _answers(
    nodes: Sequence[Mapping[str, Any]],
    shared: Sequence[Spot],
    files: Sequence[str],
    folder: str,
    token: str,
    answer_s: float,
) -> Iterable[tuple[Mapping[str, Any], list[str]]]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(look)
    calls = {}
    for node in nodes:
        there = task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        calls[there.remote(shared, files, folder, token, node["NodeID"])] = node
    done, late = ray.wait(list(calls), num_returns=len(calls), timeout=answer_s)
    for call in late:
        yield calls[call], [f"gave no answer within {answer_s:.0f} s"]
    for call in done:
        try:
            wrong = ray.get(call)
        except Exception as error:  # the node is gone, or cannot import attnlab
            yield calls[call], [last_line(str(error))]
            continue
        unheard = [
            f"what it writes to {spot.option} {spot.shown} is not seen here: {why}"
            for spot in shared
            if not wrong and (why := spot.read(f"{folder}/{calls[call]['NodeID']}", token))
        ]
        yield calls[call], wrong or unheard


def look(shared: Sequence[Spot], files: Sequence[str], folder: str, token: str, answer: str) -> list[str]:
    """On a node: what is wrong with it, one line each."""
    problems = []
    for spot in shared:
        must = "every node must see it (a shared file system, or for results a URI such as s3://bucket/results)"
        if wrong := spot.read(f"{folder}/token", token):
            problems.append(f"does not see {spot.option} {spot.shown}: {wrong}; {must}")
            continue
        try:
            spot.write(f"{folder}/{answer}", token)
        except (OSError, StorageError) as error:
            problems.append(f"cannot write to {spot.option} {spot.shown}: {error}; its workers must")
    problems += [f"does not see the dataset {file}; every node must" for file in files if not os.path.exists(file)]
    return problems


def seal(place: Mirror) -> str:
    """What a worker that comes later holds its view of the sweep's folder against: its sweep.yaml."""
    return place.folder.sweep_file.read_text()


def check(place: Mirror, seal: str) -> None:
    """At a worker's start: it sees the sweep's folder.

    Raises:
        UserError: it does not, or it sees another one.
    """
    spot = Spot("--results", str(place), place.store if isinstance(place, RemoteMirror) else place.folder.path)
    if wrong := spot.read("sweep.yaml", seal):
        raise UserError(f"node {os.uname().nodename} does not see {spot.option} {spot.shown}: {wrong}; every node must")
