"""YAML as sweep files use it: read by YAML 1.2's core schema, and written so that it reads back equal.

PyYAML follows YAML 1.1, where `1e-4` is a text, `no` is false, `010` is 8, `12:30` is 750 and `2026-11-28` a date. Here
they are a number, and texts. Keys are texts as they stand (an arm may be called `1e-3`), given once; `<<: *base`
merges. A document that would take long or could not be held is refused before it does: what is nested deeper than
DEPTH, aliases that come to more than NODES values or hold themselves, and texts of more than CHARACTERS.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from attnlab.util.errors import UserError
from attnlab.util.text import quoted

CHARACTERS = 1_000_000  # PyYAML reads some 100,000 a second
DEPTH = 50
NODES = 100_000
DIGITS = 400  # no float and no integer that anything here takes has more

_INT = r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"
_FLOAT = (
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)[eE][-+]?[0-9]+|[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
# YAML 1.2.2, section 10.3.2: tag -> its pattern and the characters it may begin with
CORE = {
    "null": (r"~|null|Null|NULL|", "~nN\0"),  # PyYAML looks an empty text up under ""
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (_INT, "-+0123456789"),
    "float": (_FLOAT, "-+0123456789."),
    "merge": (r"<<", "<"),
}
MEANT = {"int": "a whole number", "float": "a number", "bool": "true or false", "null": "null"}


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    out: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, (pattern, first) in CORE.items():
        for character in first.replace("\0", ""):
            out.setdefault(character, []).append((f"tag:yaml.org,2002:{tag}", re.compile(rf"\A(?:{pattern})\Z")))
    out[""] = [("tag:yaml.org,2002:null", re.compile(r"\A\Z"))]
    return out


class Loader(yaml.SafeLoader):
    """Reads one document; `load` says in one line why one cannot be read."""

    yaml_implicit_resolvers = _resolvers()
    _core_tags = {f"tag:yaml.org,2002:{kind}" for kind in MEANT}

    def __init__(self, text: str):
        super().__init__(text)
        self._depth = 0
        self._merged: set[int] = set()  # ids of mappings whose keys were looked at and merged

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node, counting how deep it lies."""
        self._depth += 1
        if self._depth > DEPTH:
            raise self.refused(f"nested deeper than {DEPTH} levels", self.peek_event())
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put what `<<` names among a mapping's keys, whose own come first. Refuses equal keys."""
        if id(node) in self._merged:
            return
        self._merged.add(id(node))
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            key, line = self._key(key_node), key_node.start_mark.line + 1
            if key in seen:
                raise self.refused(f"{quoted(key)[1:-1]}: given twice, in lines {seen[key]} and {line}; keep one")
            seen[key] = line
        super().flatten_mapping(node)
        node.value = list({key.value: (key, value) for key, value in node.value}.values())

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            kind = "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
            raise self.refused(f"{kind} as a key; a key is a text", node)
        if node.tag in self._core_tags:
            node.tag = "tag:yaml.org,2002:str"
        node.value = joined(str(node.value))
        return str(node.value)

    def refused(self, problem: str, at: Any = None) -> UserError:
        """The mistake, with its line."""
        return UserError(f"line {at.start_mark.line + 1}: {problem}" if at is not None else problem)

    def scalar(self, node: yaml.Node) -> Any:
        """A null, boolean, whole number or float, as `!!float 1` names it or as CORE finds it."""
        kind = node.tag.rpartition(":")[2]
        text = node.value if isinstance(node, yaml.ScalarNode) else ""
        pattern = CORE[kind][0] if kind != "float" else f"{_FLOAT}|{_INT}"
        if not isinstance(node, yaml.ScalarNode) or not re.fullmatch(pattern, text):
            raise self.refused(f"!!{kind} {quoted(text)[1:-1]} is not {MEANT[kind]}", node)
        if len(text) > DIGITS:
            raise self.refused(f"a number of {len(text):,} digits, {quoted(text)[1:-1]}", node)
        if kind == "int":
            return int(text, 0 if text[:2] in ("0o", "0x") else 10)
        if kind == "float":
            return float(re.sub(r"\.(inf|nan)", r"\1", text.lower()))
        return None if kind == "null" else text.lower() == "true"

    def string(self, node: yaml.ScalarNode) -> str:
        """Compose a text. A pair of surrogates in it, as JSON escapes a character, is that character."""
        return joined(str(self.construct_scalar(node)))

    def unknown(self, node: yaml.Node) -> Any:
        """Refuse a tag that is not of the core schema, such as `!!python/object` or `!!timestamp`."""
        raise self.refused(f"the tag {quoted(node.tag)[1:-1]} is not known; leave it out", node)


Loader.yaml_constructors = {
    **{f"tag:yaml.org,2002:{tag}": Loader.scalar for tag in MEANT},
    **{f"tag:yaml.org,2002:{tag}": yaml.SafeLoader.yaml_constructors[f"tag:yaml.org,2002:{tag}"] for tag in
       ("seq", "map")},
    "tag:yaml.org,2002:str": Loader.string,
    None: Loader.unknown,
}  # fmt: skip


def joined(text: str) -> str:
    """A text in which two halves of one character (a surrogate pair) are that character. A lone half stays."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


class Dumper(yaml.SafeDumper):
    """Writes what `Loader` reads back equal."""

    yaml_implicit_resolvers = Loader.yaml_implicit_resolvers

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal parts out, each where it stands."""
        return True

    def text(self, data: str) -> yaml.ScalarNode:
        """A text, in double quotes and escaped if any of its characters cannot be seen."""
        style = None if data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


Dumper.add_representer(str, Dumper.text)


def load(text: str) -> Any:
    """Read YAML text. Raises UserError: one line that says what is wrong and in which line."""
    if len(text) > CHARACTERS:
        raise UserError(f"{len(text):,} characters; at most {CHARACTERS:,} are read")
    try:
        tree = Loader(text).get_single_data()
        _size(tree, {})
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UserError(f"{f'line {mark.line + 1}: ' if mark else ''}{error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"line {line}: the character {error.character:#04x} may not stand in YAML") from None
    except RecursionError:
        raise UserError(f"nested deeper than {DEPTH} levels") from None
    return tree


def dump(tree: Any, **layout: Any) -> str:
    """Write a tree of mappings, lists and scalars as YAML, its keys in their order."""
    return str(yaml.dump(tree, Dumper=Dumper, sort_keys=False, allow_unicode=True, **layout))


def _size(tree: Any, known: dict[int, int]) -> int:
    """Count the values of a tree, each as often as aliases repeat it."""
    children = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, list) else ()
    if not children:
        return 1
    if id(tree) not in known:
        known[id(tree)] = 0  # while its parts are counted
        known[id(tree)] = 1 + sum(_size(child, known) for child in children)
    if not 0 < known[id(tree)] <= NODES:
        raise UserError("an alias holds itself" if not known[id(tree)] else f"more than {NODES:,} values")
    return known[id(tree)]
