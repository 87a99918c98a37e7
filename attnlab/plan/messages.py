"""What pydantic found wrong, in one line per key."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from attnlab.util.text import did_you_mean

# pydantic's words for the commonest mistakes, in ours
SAY = {
    **dict.fromkeys(("int_parsing", "int_from_float", "int_type"), "a whole number, not {input!r}"),
    **dict.fromkeys(("float_parsing", "float_type"), "a number, not {input!r}"),
    "bool_parsing": "true or false, not {input!r}",
    "string_type": "a text, not {input!r}",
    "dict_type": "a mapping, not {input!r}",
    "literal_error": "one of {ctx[expected]}, not {input!r}",
    "greater_than": "above {ctx[gt]}, not {input!r}",
    "greater_than_equal": "at least {ctx[ge]}, not {input!r}",
    "less_than": "below {ctx[lt]}, not {input!r}",
    "less_than_equal": "at most {ctx[le]}, not {input!r}",
    "missing": "missing, and it has no default",
    "too_short": "empty; give at least one",
    "string_pattern_mismatch": "letters, digits, '.', '_' and '-' only, not {input!r}",
}


def lines(error: ValidationError, root: type[BaseModel], prefix: str = "") -> list[str]:
    """One line per mistake pydantic found: `key: what is wrong, what would be right`."""
    out = []
    for e in error.errors():
        loc = [str(p) for p in e["loc"] if p not in ("constrained-int", "float", "literal['auto']", "int")]
        key = ".".join([*filter(None, [prefix]), *loc])
        if e["type"] == "extra_forbidden":
            out.append(f"{key}: unknown key{did_you_mean(loc[-1], known_keys(root, loc[:-1]))}")
        elif e["type"] == "value_error":
            texts = str(e["ctx"]["error"]).split("\n")
            out += [f"{key}.{text}" if key.endswith("space") else f"{key}: {text}" for text in texts]
        elif e["type"] in SAY:
            out.append(f"{key}: " + SAY[e["type"]].format(input=e["input"], ctx=e.get("ctx", {})))
        else:
            out.append(f"{key}: {e['msg']}")
    return list({line.partition(":")[0]: line for line in out}.values())  # one line per key: unions report twice


def known_keys(root: type[BaseModel], loc: list[str]) -> list[str]:
    """The fields of the node at `loc` below `root`."""
    node: Any = root
    for name in loc:
        kinds = [node.model_fields[name].annotation] if name in getattr(node, "model_fields", {}) else []
        kinds += [a for k in kinds for a in getattr(k, "__args__", ())]
        node = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), node)
    return list(node.model_fields)
