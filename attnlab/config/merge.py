"""Trees of settings: dotted keys and merging."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attnlab.util.errors import UserError
from attnlab.util.text import quoted


def nest(key: str, value: Any) -> dict[str, Any]:
    """Nest a dotted key: `a.b`, v -> {a: {b: v}}."""
    *outer, last = key.split(".")
    tree = {last: value}
    for name in reversed(outer):
        tree = {name: tree}
    return tree


def expand(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys of `tree` (at its top) as nested mappings. Raises UserError: two of them give one setting twice."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        given = nest(str(key), value)
        if twice := "; ".join(_contradictions(out, given)):
            raise UserError(twice)
        out = merge(out, given)
    return out


def _contradictions(first: Any, second: Any, path: str = "") -> Iterator[str]:
    """Settings to which two trees give different values."""
    if path.rpartition(".")[2] == "mixer" and {type(first), type(second)} == {str, dict}:
        first, second = ({"name": form} if isinstance(form, str) else form for form in (first, second))
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in filter(second.__contains__, first):
            yield from _contradictions(first[key], second[key], f"{path}.{key}".lstrip("."))
    elif first != second:
        yield f"{path}: given twice, as {quoted(first)} and as {quoted(second)}; keep one"


def merge(base: Any, change: Any, key: str = "") -> Any:
    """Put `change` over `base`, mappings merged key by key.

    A mixer or task that names itself replaces the old one whole, whose arguments would be meaningless to it.
    """
    if key == "mixer" and isinstance(base, str):
        base = {"name": base}
    if not isinstance(base, Mapping) or not isinstance(change, Mapping):
        return change
    if key in ("mixer", "task") and change.get("name", base.get("name")) != base.get("name"):
        return dict(change)
    if key == "mixer" and "name" in change:
        return dict(change)
    return {**base, **{name: merge(base.get(name), value, name) for name, value in change.items()}}
