"""What a class's constructor takes, read from its source without importing it.

FLA takes seconds to import and many of its layers swallow unknown keywords through `**kwargs`; a sweep file's arguments
are checked against what is read here, in milliseconds.
"""

from __future__ import annotations

import ast
import functools
import importlib.machinery
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from attnlab.util.text import did_you_mean, quoted

REQUIRED = object()  # the default of a parameter that has none
OPAQUE = object()  # the default of a parameter whose default is no plain literal


@dataclass(frozen=True)
class Parameter:
    """One argument of a constructor; `kinds`: the plain types its annotation allows."""

    name: str
    kinds: frozenset[str] = frozenset()
    default: Any = REQUIRED


def constructor(path: str) -> dict[str, Parameter]:
    """The named parameters of `module.path:Class`'s `__init__`, in order, without self, `*args` and `**kwargs`.

    A class without an `__init__` has its base's, if the base is in the same file; else it takes nothing.

    Raises:
        ValueError: no such module or class, or the file cannot be parsed; one line.
    """
    module, _, name = path.partition(":")
    if not (module and name):
        raise ValueError(f"{quoted(path)} is no `package.module:Class`")
    classes = {node.name: node for node in _tree(module).body if isinstance(node, ast.ClassDef)}
    if name not in classes:
        raise ValueError(f"module {module} defines no class {name}{did_you_mean(name, classes)}")
    return _parameters(classes[name], classes)


def type_problem(parameter: Parameter, value: Any) -> str | None:
    """Why `value` does not fit an annotation of plain types; None if it fits."""
    kinds = parameter.kinds
    if value is None and parameter.default is None:
        return None  # FLA writes `layer_idx: int = None`
    kind = "None" if value is None else type(value).__name__
    if not kinds or kind in kinds or (kind == "int" and "float" in kinds):
        return None
    return f"is {quoted(value)}, but should be {' or '.join(sorted(kinds))}"


def locate(module: str) -> str:
    """The source file of a module, found as the import system would, importing nothing.

    Raises:
        ValueError: there is none.
    """
    paths: Iterable[str] | None = [p or os.getcwd() for p in sys.path]
    if os.getcwd() not in sys.path and "" not in sys.path:
        paths = [*paths, os.getcwd()]  # a user's own file next to the sweep's
    spec, reached = None, ""
    for name in module.split("."):
        reached = f"{reached}.{name}" if reached else name
        spec = importlib.machinery.PathFinder.find_spec(reached, paths)
        if spec is None:
            raise ValueError(f"there is no module {reached}")
        paths = spec.submodule_search_locations or []
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise ValueError(f"module {module} has no Python source")
    return spec.origin


@functools.cache
def _parsed(file: str, changed_ns: int) -> ast.Module:
    with open(file, encoding="utf-8") as source:
        return ast.parse(source.read(), file)


def _tree(module: str) -> ast.Module:
    file = locate(module)
    try:
        return _parsed(file, os.stat(file).st_mtime_ns)
    except SyntaxError as error:
        raise ValueError(f"{file}, line {error.lineno}: {error.msg}") from None


def _parameters(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> dict[str, Parameter]:
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if init is None:
        bases = [b.id for b in node.bases if isinstance(b, ast.Name) and b.id in classes and b.id != node.name]
        return _parameters(classes[bases[0]], classes) if bases else {}
    args = init.args
    positional = [*args.posonlyargs, *args.args][1:]
    missing: list[ast.expr | None] = [None] * (len(positional) - len(args.defaults))
    pairs = [*zip(positional, [*missing, *args.defaults], strict=False)]
    pairs += list(zip(args.kwonlyargs, args.kw_defaults, strict=True))
    return {arg.arg: Parameter(arg.arg, _kinds(arg.annotation), _literal(default)) for arg, default in pairs}


def _literal(default: ast.expr | None) -> Any:
    if default is None:
        return REQUIRED
    try:
        return ast.literal_eval(default)
    except ValueError:
        return OPAQUE


def _kinds(annotation: ast.expr | None) -> frozenset[str]:
    """{'int', 'None'} for `int | None` or `Optional[int]`; empty for other types."""
    if annotation is None:
        return frozenset()
    text = ast.unparse(annotation).strip("'\"").replace(" ", "")
    if text.startswith("Optional[") and text.endswith("]"):
        text = text[len("Optional[") : -1] + "|None"
    names = frozenset(text.split("|"))
    return names if names <= {"int", "float", "bool", "str", "None"} else frozenset()
