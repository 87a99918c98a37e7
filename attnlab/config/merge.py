"""Trees of settings: dotted keys and merging."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def nest(key: str, value: Any) -> dict[str, Any]:
    """Nest a dotted key: `a.b`, v -> {a: {b: v}}."""
    *outer, last = key.split(".")
    tree = {last: value}
    for name in reversed(outer):
        tree = {name: tree}
    return tree


def expand(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys of `tree` (at its top) as nested mappings."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out = merge(out, nest(str(key), value))
    return out


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
