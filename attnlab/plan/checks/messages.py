"""What a sweep's schemas found wrong, in one line per key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from attnlab.config.trial import Trial
from attnlab.config.words import said
from attnlab.util.text import did_you_mean

UNION = [
    (kind,) for kind in ("constrained-int", "float", "literal['auto']", "int")
]  # which of a key's types an error is of


def lines(error: ValidationError, root: type[BaseModel], prefix: str = "") -> list[str]:
    """One line per mistake pydantic found: `key: what is wrong, what would be right`."""
    out = []
    for e in error.errors():
        parts = e["loc"] if e["type"] == "extra_forbidden" or e["loc"][-1:] not in UNION else e["loc"][:-1]
        loc = [str(part) for part in parts]
        key = ".".join([*filter(None, [prefix]), *loc])
        if e["type"] == "extra_forbidden":
            out.append(f"{key}: unknown key{did_you_mean(loc[-1], known_keys(root, loc[:-1]))}")
        elif e["type"] == "value_error":
            out += [f"{key}.{text}" if key.endswith("space") else f"{key}: {text}" for text in said(e)]
        else:
            out += [f"{key}: {text}{_searched(e, loc) if root is Trial else ''}" for text in said(e)]
    return list({line.partition(":")[0]: line for line in out}.values())  # one line per key: unions report twice


def _searched(error: Any, loc: list[str]) -> str:
    """How to search a setting, where a list or a range stands for a number."""
    if error["type"] not in ("int_type", "float_type") or not isinstance(error["input"], (list, Mapping)):
        return ""
    return f"; to search it, write {'.'.join(loc)}: {{loguniform: [low, high]}} under search.space"


def known_keys(root: type[BaseModel], loc: list[str]) -> list[str]:
    """The fields of the node at `loc` below `root`."""
    node: Any = root
    for name in loc:
        kinds = [node.model_fields[name].annotation] if name in getattr(node, "model_fields", {}) else []
        kinds += [a for k in kinds for a in getattr(k, "__args__", ())]
        node = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), node)
    return list(node.model_fields)
