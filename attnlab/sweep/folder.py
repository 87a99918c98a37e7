"""A sweep's folder before the sweep begins: what lies there already, and whether this sweep may go on with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attnlab.config.sweep import Sweep
from attnlab.config.sweep_file import normal, parse
from attnlab.records.mirror import Mirror, mirror
from attnlab.records.paths import SweepDir
from attnlab.util.errors import StorageError, UserError


def opened(sweep: Sweep, results: str | Path, resume: bool) -> Mirror:
    """The sweep's folder, with the records that are in it at hand; see `check_folder`. Raises UserError."""
    try:
        place = mirror(results, sweep.name)
        place.pull()
    except StorageError as error:
        raise UserError(f"--results {error}") from None
    check_folder(sweep, place.folder, resume, str(place))
    return place


def check_folder(sweep: Sweep, folder: SweepDir, resume: bool, where: str) -> None:
    """A folder of another sweep, or one to be resumed, is never written over. `where`: what it is to the user.

    Raises:
        UserError
    """
    if not folder.sweep_file.exists():
        return
    try:
        old = Sweep.model_validate(normal(parse(folder.sweep_file.read_text(), str(folder.sweep_file))))
    except ValueError as error:
        raise UserError(f"{where}/sweep.yaml: not a sweep of this version ({error}); use another --results") from None
    if differs := changes(old, sweep):
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


def changes(old: Sweep, new: Sweep) -> list[str]:
    """What differs so that trials of `old` would not be trials of `new`. More trials, more or fewer arms,
    other resources, seeds or words do not."""
    out = []
    for arm in old.arms:
        if arm in new.arms:
            a, b = (s.trial_of(arm).model_dump(mode="json") for s in (old, new))
            out += [f"arms.{arm} {path}: {x!r} there, {y!r} here" for path, x, y in _differences(a, b)]
    for key in ("space", "metric", "mode", "sampler", "seed", "asha"):
        a, b = (getattr(s.search, key, None) for s in (old, new))
        if a != b:
            out.append(f"search.{key}: {a!r} there, {b!r} here")
    if (old.metric, old.mode) != (new.metric, new.mode) and not (old.search and new.search):
        out.append(f"rank: {old.mode} {old.metric} there, {new.mode} {new.metric} here")
    for arm in old.arms.keys() & new.arms.keys():
        a, b = (s.arms[arm].get("search") for s in (old, new))
        if a != b:
            out.append(f"arms.{arm}.search: {a!r} there, {b!r} here")
    return list(dict.fromkeys(out))


def _differences(a: Any, b: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {**a, **b}:
            yield from _differences(a.get(key), b.get(key), f"{path}.{key}" if path else key)
    elif a != b:
        yield path, a, b
