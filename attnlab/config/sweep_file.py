"""The sweep file as text: read, overridden, and written again."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attnlab.config import yaml_text
from attnlab.config.merge import expand
from attnlab.config.sweep import Sweep, trial_part
from attnlab.util.errors import UserError
from attnlab.util.text import did_you_mean, shortened

SWEEPS = Path(__file__).parents[2] / "sweeps"


def parse(text: str, name: str) -> Any:
    """Read YAML text. Raises UserError with its name and the line."""
    try:
        return yaml_text.load(text)
    except UserError as error:
        alone = "\n" not in text.strip()  # an override: its line would say nothing
        problems = (line.removeprefix("line 1: ") if alone else line for line in error.problems)
        raise UserError([f"{name}: {problem}" for problem in problems]) from None


def read(path: str | Path) -> dict[str, Any]:
    """The file's raw tree, dotted keys of arms expanded. Raises UserError."""
    path = Path(path)
    raw = parse(_text(path), str(path))
    if not isinstance(raw, dict):
        raise UserError([f"{path}: a sweep file is a mapping with the keys {', '.join(Sweep.model_fields)}"])
    return normal(raw)


def _text(path: Path) -> str:
    """The file's text. Raises UserError: it cannot be read, or is not UTF-8."""
    most = 4 * yaml_text.CHARACTERS + 4
    try:
        with open(path, "rb") as file:
            raw = file.read(most)  # a longer one is refused for its length
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise UserError([f"{path}: {getattr(error, 'strerror', None) or error}{_near(path)}"]) from None
    try:
        return raw.decode("utf-8-sig", errors="strict" if len(raw) < most else "ignore")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        found = "UTF-16" if raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else f"the byte {raw[error.start]:#x}"
        raise UserError(f"{path}: line {line}: {found} is not UTF-8; save the file as UTF-8") from None


def _near(path: Path) -> str:
    """The end of an error message: which sweep file may be meant, beside the path, in `sweeps` or of this project."""
    found: dict[str, Path] = {}
    for folder in (SWEEPS, Path("sweeps"), path.parent):  # the nearest last, so that it counts
        found |= {each.stem: each for each in _yaml_files(folder) if _is_sweep(each)}
    hint = did_you_mean(path.stem, found)
    if not hint.startswith("; did"):
        return "; launch.py --list names the sweeps there are"
    meant = next(each for stem, each in found.items() if f"'{stem}'" in hint).absolute()
    return f"; did you mean '{meant.relative_to(Path.cwd()) if meant.is_relative_to(Path.cwd()) else meant}'?"


def _yaml_files(folder: Path) -> list[Path]:
    try:
        return sorted(each for ending in ("*.yaml", "*.yml") for each in folder.glob(ending))
    except (OSError, ValueError):  # a name that no folder can have
        return []


def _is_sweep(path: Path) -> bool:
    """Whether a file looks like a sweep, by the keys at its top."""
    try:
        return any(
            line.startswith(("name:", "trial:", "arms:")) for line in path.read_text(encoding="utf-8").splitlines()
        )
    except (OSError, ValueError):
        return False


def normal(raw: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys of `trial` and of every arm as nested mappings. Raises UserError: settings that are given twice."""
    out, problems = dict(raw), list[str]()

    def expanded(tree: Any, key: str) -> Any:
        try:
            return expand(tree) if isinstance(tree, dict) else tree
        except UserError as error:
            problems.extend(f"{key}.{line}" for line in error.problems)

    if "trial" in out:
        out["trial"] = expanded(out["trial"], "trial")
    if isinstance(out.get("arms"), dict):
        arms = {arm: {} if tree is None else tree for arm, tree in out["arms"].items()}
        out["arms"] = {arm: expanded(tree, f"arms.{arm}") for arm, tree in arms.items()}
    if problems:
        raise UserError(problems)
    return out


def override(raw: dict[str, Any], overrides: Sequence[str]) -> None:
    """Apply `a.b=c` texts, their values read as YAML, to a raw tree in place. Raises UserError."""
    problems, changes = [], []
    for text in overrides:
        beginning = _beginning(text, raw.get("arms"))  # an arm's name may hold a "=", as `lr=0.1` does
        key, equals, value = text.removeprefix(beginning).partition("=")
        key = beginning + key
        if equals and key:
            changes.append((key, parse(value, key)))
        else:
            problems.append(
                f"{shortened(text, 100)}: not an override; write key=value, such as trial.train.max_steps=100"
            )
    try:
        change(raw, changes)
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError(problems)


def change(raw: dict[str, Any], changes: Iterable[tuple[str, Any]], prefix: str = "") -> None:
    """Set dotted keys of a raw tree, in place. `prefix` begins the mistakes' lines. Raises UserError."""
    problems = []
    arms = tree if isinstance(tree := raw.get("arms"), Mapping) else {}
    for key, value in changes:
        parts, key = _parts(key, arms), shortened(key, 100)
        if parts[0] not in Sweep.model_fields:
            hint = f"; did you mean 'trial.{key}'?" if parts[0] in ("model", "task", "optim", "train") else ""
            problems.append(f"{prefix}{key}: unknown key{hint or did_you_mean(parts[0], Sweep.model_fields)}")
        elif parts[0] == "arms" and (len(parts) < 3 or parts[1] not in arms):
            problems.append(f"{prefix}{key}: no such arm{did_you_mean('.'.join(parts[1:2]), arms)}")
        elif prefix and parts[0] == "name":
            problems.append(f"{prefix}{key}: a tiny sweep is called NAME-tiny, so that its results have a folder apart")
        elif prefix and len(parts) == 1 and isinstance(value, Mapping):
            problems.append(f"{prefix}{key}: its keys are dotted, as in {prefix[:-1]}: {{trial.train.max_steps: 12}}")
        else:
            _set(raw, parts, value)
    if problems:
        raise UserError(problems)


def _parts(key: str, arms: Mapping[str, Any]) -> list[str]:
    """A dotted key's parts; a space's own keys and the arms' names, which may hold dots, stay whole."""
    if key.startswith("tiny."):
        return ["tiny", key.removeprefix("tiny.")]
    if key.startswith("search.space."):
        return ["search", "space", key.removeprefix("search.space.")]
    if not (beginning := _beginning(key, arms)):
        return key.split(".")
    inner = key.removeprefix(beginning)
    own = inner.removeprefix("search.space.")
    arm = beginning.removeprefix("arms.").removesuffix(".")
    return ["arms", arm, *(["search", "space", own] if own != inner else inner.split("."))]


def _beginning(text: str, arms: Any) -> str:
    """The `arms.NAME.` that a key or an override begins with, of the longest name that fits. "" without one."""
    known = [f"arms.{arm}." for arm in arms or () if isinstance(arm, str)] if isinstance(arms, Mapping) else []
    return max((each for each in known if text.startswith(each)), key=len, default="")


def plain(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A raw tree without its search: every arm once, or per seed of `confirm`.

    Its name ends in `-plain`, so that its results get their own folder. A sweep without a search stays as it is.
    """
    search = raw.get("search")
    if not isinstance(search, Mapping):
        return dict(raw)
    out = {key: value for key, value in raw.items() if key != "search"} | {"name": f"{raw.get('name')}-plain"}
    if rank := {key: search[key] for key in ("metric", "mode") if key in search}:
        out["rank"] = rank
    if isinstance(arms := raw.get("arms"), Mapping):
        out["arms"] = {arm: trial_part(tree) if isinstance(tree, Mapping) else tree for arm, tree in arms.items()}
    if isinstance(tiny := raw.get("tiny"), Mapping):
        out["tiny"] = {key: value for key, value in tiny.items() if not str(key).startswith("search.")}
    return out


def _set(tree: dict[str, Any], parts: Sequence[str], value: Any) -> None:
    for name in parts[:-1]:
        node = tree.get(name)
        if name == "mixer" and isinstance(node, str):
            node = {"name": node}
        tree[name] = dict(node) if isinstance(node, dict) else {}
        tree = tree[name]
    tree[parts[-1]] = value


def dump(sweep: Sweep) -> str:
    """The resolved sweep as a sweep file: reading it back gives an equal Sweep."""
    tree = sweep.model_dump(mode="json", exclude_none=True)
    return yaml_text.dump(tree, width=120)
