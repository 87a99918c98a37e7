"""The sweep file as text: read without YAML's two traps, overridden, and written again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from attnlab.config.merge import expand
from attnlab.config.sweep import Sweep, trial_part
from attnlab.util.errors import UserError
from attnlab.util.text import did_you_mean


class Loader(yaml.SafeLoader):
    """Reads YAML 1.2's numbers and booleans and refuses equal keys. PyYAML reads `1e-4` as a string, `no` as false."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Read a mapping. Raises UserError if a key is given twice."""
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if key in seen:
                raise UserError([f"{key}: given twice, in lines {seen[key]} and {line}; keep one"])
            seen[key] = line
        return super().construct_mapping(node, deep)


def _resolve(tag: str, pattern: str, first: str) -> None:
    Loader.add_implicit_resolver(tag, re.compile(pattern, re.X), list(first))


# PyYAML's own resolvers, less those for the two types that YAML 1.2 reads otherwise (its section 10.3).
Loader.yaml_implicit_resolvers = {
    first: [(tag, regex) for tag, regex in rules if not tag.endswith((":float", ":bool"))]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_resolve("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF")
_resolve(
    "tag:yaml.org,2002:float",
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)[eE][-+]?[0-9]+|[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
    "-+0123456789.",
)


def parse(text: str, name: str) -> Any:
    """Read YAML text. Raises UserError with its name and the line."""
    try:
        return yaml.load(text, Loader)  # a SafeLoader
    except UserError as error:
        raise UserError([f"{name}: {problem}" for problem in error.problems]) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise UserError([f"{name}:{line} {getattr(error, 'problem', error)}"]) from None


def read(path: str | Path) -> dict[str, Any]:
    """The file's raw tree, dotted keys of arms expanded. Raises UserError."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*.yaml")]) if path.parent.is_dir() else ""
        raise UserError([f"{path}: {error.strerror or error}{near}"]) from None
    raw = parse(text, str(path))
    if not isinstance(raw, dict):
        raise UserError([f"{path}: a sweep file is a mapping with the keys {', '.join(Sweep.model_fields)}"])
    return normal(raw)


def normal(raw: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys of `trial` and of every arm as nested mappings."""
    out = dict(raw)
    if isinstance(out.get("trial"), dict):
        out["trial"] = expand(out["trial"])
    if isinstance(out.get("arms"), dict):
        arms = {arm: {} if tree is None else tree for arm, tree in out["arms"].items()}
        out["arms"] = {arm: expand(tree) if isinstance(tree, dict) else tree for arm, tree in arms.items()}
    return out


def override(raw: dict[str, Any], overrides: Sequence[str]) -> None:
    """Apply `a.b=c` texts, their values read as YAML, to a raw tree in place. Raises UserError."""
    problems, changes = [], []
    for text in overrides:
        key, equals, value = text.partition("=")
        if equals and key:
            changes.append((key, parse(value, key)))
        else:
            problems.append(f"{text}: not an override; write key=value, such as trial.train.max_steps=100")
    try:
        change(raw, changes)
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError(problems)


def change(raw: dict[str, Any], changes: Iterable[tuple[str, Any]], prefix: str = "") -> None:
    """Set dotted keys of a raw tree, in place. `prefix` begins the mistakes' lines. Raises UserError."""
    problems = []
    for key, value in changes:
        parts = key.split(".")
        if key.startswith("search.space."):  # the space's own keys are dotted
            parts = ["search", "space", key.removeprefix("search.space.")]
        elif parts[0] == "arms" and parts[2:4] == ["search", "space"] and len(parts) > 4:
            parts = [*parts[:4], ".".join(parts[4:])]
        elif parts[0] == "tiny":
            parts = ["tiny", key.removeprefix("tiny.")]
        if parts[0] not in Sweep.model_fields:
            hint = f"; did you mean 'trial.{key}'?" if parts[0] in ("model", "task", "optim", "train") else ""
            problems.append(f"{prefix}{key}: unknown key{hint or did_you_mean(parts[0], Sweep.model_fields)}")
        elif parts[0] == "arms" and (len(parts) < 3 or parts[1] not in raw.get("arms", {})):
            problems.append(f"{prefix}{key}: no such arm{did_you_mean('.'.join(parts[1:2]), raw.get('arms', {}))}")
        elif prefix and parts[0] == "name":
            problems.append(f"{prefix}{key}: a tiny sweep is called NAME-tiny, so that its results have a folder apart")
        elif prefix and len(parts) == 1 and isinstance(value, Mapping):
            problems.append(f"{prefix}{key}: its keys are dotted, as in {prefix[:-1]}: {{trial.train.max_steps: 12}}")
        else:
            _set(raw, parts, value)
    if problems:
        raise UserError(problems)


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
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)
