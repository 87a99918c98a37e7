"""A sweep's folder before the sweep begins: whether this sweep may go on with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attnlab.config.resolved import Plan
from attnlab.plan.load import read
from attnlab.records.mirror import Mirror, mirror
from attnlab.records.paths import SweepDir
from attnlab.util.errors import StorageError, UserError


def opened(plan: Plan, results: str | Path, resume: bool) -> Mirror:
    """The sweep's folder, its records at hand; see `check_folder`. Raises UserError."""
    try:
        folder = mirror(results, plan.name)
        folder.pull()
    except StorageError as error:
        raise UserError(f"--results {error}") from None
    check_folder(plan, folder.folder, resume, str(folder))
    return folder


def check_folder(plan: Plan, folder: SweepDir, resume: bool, where: str) -> None:
    """Raise UserError for another sweep's folder, or one that can only be resumed. `where`: its name to the user."""
    if not folder.sweep_file.exists():
        return
    try:
        old = read(folder.sweep_file)
        differs = changes(old, plan)
    except ValueError as error:
        raise UserError(f"{where}/sweep.yaml: not a sweep of this version ({error}); use another --results") from None
    if differs:
        raise UserError(
            f"{where} holds another sweep of this name: {'; '.join(differs[:4])}. "
            f"Give this one a name of its own (name=...), or another folder (--results DIR)"
        )
    if not resume:
        ended = len(folder.results())
        raise UserError(
            f"{where} already holds this sweep, {ended} trials ended: go on with --resume, or keep it and start "
            f"afresh under another folder (--results DIR) or name (name=...)"
        )


def changes(old: Plan, new: Plan) -> list[str]:
    """What differs so that trials of `old` would not be trials of `new`.

    More trials, more or fewer arms, other resources, seeds or words are no such difference.
    """
    out, common = [], [name for name in old.names if name in new.names]
    for name in common:
        a, b = (plan.arm(name).trial.model_dump(mode="json") for plan in (old, new))
        out += [f"arms.{name} {path}: {x!r} there, {y!r} here" for path, x, y in _differences(a, b)]
    for key in ("space", "metric", "mode", "sampler", "seed", "asha"):
        a, b = (getattr(plan.sweep.search, key, None) for plan in (old, new))
        if a != b:
            out.append(f"search.{key}: {a!r} there, {b!r} here")
    if (old.metric, old.mode) != (new.metric, new.mode) and not (old.sweep.search and new.sweep.search):
        out.append(f"rank: {old.mode} {old.metric} there, {new.mode} {new.metric} here")
    for name in common:
        a, b = (plan.sweep.arms[name].get("search") for plan in (old, new))
        if a != b:
            out.append(f"arms.{name}.search: {a!r} there, {b!r} here")
    return list(dict.fromkeys(out))


def _differences(a: Any, b: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {**a, **b}:
            yield from _differences(a.get(key), b.get(key), f"{path}.{key}" if path else key)
    elif a != b:
        yield path, a, b
