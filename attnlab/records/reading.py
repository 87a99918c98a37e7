"""What is sound in a record: one reader for each file, with one rule for what is not.

A record that cannot be read is never guessed at. Reading commands leave it out, training sets it aside
(`attnlab.records.mend`), and both name the file and the reason in one line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import Field, PositiveInt, TypeAdapter, ValidationError

from attnlab.config import words
from attnlab.records.results import Job, Results
from attnlab.util.errors import StorageError, UserError
from attnlab.util.files import json_digest
from attnlab.util.text import one_line

MAX_DIGITS = 19  # of an integer, as many as 64 bits have; Python's own may be too large to compute with
# keys that older results.json lack
ADDED_LATER = {"flops_per_token": None, "state_bytes": None, "recipe": 1, "reports": None}

T = TypeVar("T")
Number = Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True, allow_inf_nan=False)]
Baselines = dict[str, Annotated[float, Field(strict=True, allow_inf_nan=False)]]

_report = TypeAdapter[dict[str, Any]](dict[str, Number | None])
_results = TypeAdapter[Results](Results)
_step = TypeAdapter[int](Annotated[PositiveInt, Field(strict=True)])
_baselines = TypeAdapter[dict[str, float]](Baselines)
_state = TypeAdapter[dict[str, Any]](dict[str, Number | str])


class Damaged(UserError):
    """A record that cannot be used. Its one line begins with the file."""


@dataclass(frozen=True)
class Reports:
    """The sound lines of a metrics.jsonl, oldest first, and what is wrong with the others."""

    rows: list[dict[str, Any]]
    left_out: str | None = None  # of the first line that cannot be used, which and why


def parse(raw: bytes) -> Any:
    """The value of strict JSON. Raises ValueError: not JSON, or what no record holds."""
    try:
        value = json.loads(raw.decode("utf-8"), parse_int=_integer, parse_constant=_not_strict)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")  # 1e999, lone surrogates
    except UnicodeError:
        raise ValueError("it is no text in UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _not_strict(word: str) -> NoReturn:
    raise ValueError(f"{word} is no value of strict JSON")


def read_results(path: Path) -> Results | None:
    """A trial's results.json, None without one. Raises Damaged."""
    if (raw := _read(path)) is None:
        return None
    if not isinstance(raw, dict):
        raise Damaged(f"{path}: it is no mapping")
    if missing := [key for key in Results.__annotations__ if key not in {**ADDED_LATER, **raw}]:
        raise Damaged(f"{path}: it lacks {', '.join(missing)}")
    _fits(_results, {**ADDED_LATER, **raw}, path)
    for key in ("best", "last"):
        if raw[key] is not None and (why := _no_report(raw[key])):
            raise Damaged(f"{path}: {key}: {why}")
    if raw["checkpoint"] is not None and {"..", ""} & set(raw["checkpoint"].split("/")):
        raise Damaged(f"{path}: checkpoint: {raw['checkpoint']!r} is no path below the trial's folder")
    return raw  # type: ignore[return-value]


def read_job(path: Path) -> Job:
    """A trial's experiment_config.json. Raises Damaged, also for a key of a newer version."""
    raw = _read(path)
    if raw is None:
        raise Damaged(f"{path}: it is missing")
    try:
        return Job.model_validate(raw)
    except (ValidationError, RecursionError) as error:
        raise Damaged(f"{path}: {_first(error)}") from None


def read_reports(path: Path) -> Reports:
    """The sound reports of a metrics.jsonl: whole, and each after the ones before it.

    What a crash cut short at its end is left out without a word, since it is written again.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return Reports([])
    except IsADirectoryError:
        return Reports([], "it is a folder")
    except OSError as error:  # of the machine's, such as a missing permission: nothing is damaged
        raise StorageError(f"{path}: {error.strerror}") from None
    rows, left_out = list[dict[str, Any]](), None
    for number, line in enumerate(lines, 1):
        try:
            row = parse(line) if line else None
            why = None if row is None else _no_report(row)
        except ValueError as error:
            cut_short = number == len(lines) and line.startswith(b"{")
            row, why = None, None if cut_short else one_line(error)
        if row is not None and why is None and rows and report_order(row) <= report_order(rows[-1]):
            why = f"step {row['step']} comes after step {rows[-1]['step']}"
        if why is None and row is not None:
            rows.append(row)
        elif why or not line and number < len(lines):
            left_out = left_out or f"line {number}: {why or 'it is empty'}"
    return Reports(rows, left_out)


def read_state(folder: Path) -> dict[str, Any]:
    """The state.json of a checkpoint's folder. Raises Damaged."""
    path = folder / "state.json"
    state = _fits(_state, _read(path), path)
    if f"step_{state.get('step')!s:0>8}" != folder.name:
        raise Damaged(f"{path}: it is not of {folder.name}")
    if "digest" in state and state.pop("digest") != json_digest(state):
        raise Damaged(f"{path}: a value in it was changed")
    return state


def signed(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state.json's content with the digest that shows a change in it."""
    return {**state, "digest": json_digest(state)}


def read_board(path: Path) -> dict[str, Any] | None:
    """A leaderboard.json as far as a sweep goes on from it: its baselines and guards. None without one.

    Raises Damaged.
    """
    if (raw := _read(path)) is None:
        return None
    if not isinstance(raw, dict) or "baselines" not in raw:
        raise Damaged(f"{path}: it has no baselines")
    _fits(_baselines, raw["baselines"], path)
    if not isinstance(raw.get("guards") or {}, dict):
        raise Damaged(f"{path}: guards: it is no mapping")
    return raw


def report_order(row: Mapping[str, Any]) -> tuple[int, bool]:
    """The key that sorts reports: by step, a branch after the report at its rung."""
    return row["step"], "branch_steps" in row


def _no_report(row: Any) -> str | None:
    """Why a value is no report, None if it is one."""
    try:
        _report.validate_python(row)
        for key in ("step", "branch_steps"):
            if key == "step" or key in row:
                _step.validate_python(row.get(key))
    except ValidationError as error:
        return f"no report: {_first(error)}"
    return None


def _read(path: Path) -> Any:
    """A file's value, None without a file."""
    try:
        return parse(path.read_bytes())
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        raise Damaged(f"{path}: it is a folder") from None
    except OSError as error:  # of the machine's, such as a missing permission: nothing is damaged
        raise StorageError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise Damaged(f"{path}: {one_line(error)}") from None


def _fits(schema: TypeAdapter[T], value: Any, path: Path) -> T:
    try:
        return schema.validate_python(value)
    except ValidationError as error:
        raise Damaged(f"{path}: {_first(error)}") from None


def _first(error: Exception) -> str:
    """The first of a schema's complaints, with the key that it is about."""
    said = one_line(words.first(error) if isinstance(error, ValidationError) else error)
    return said if len(said) <= 200 else f"{said[:200]}..."
