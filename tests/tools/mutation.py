"""Mutants of a module: its source with one small fault each, by mutmut's operators.

mutmut's own runner leaves out decorated functions, properties and constants, so only its operators are taken. Text is
left out: string literals, f-strings and what is raised, whose wording no test fixes. So are annotations and casts.
"""

from __future__ import annotations

import inspect
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

import libcst as cst
from libcst.metadata import MetadataWrapper, WhitespaceInclusivePositionProvider
from mutmut.mutation.file_mutation import MutationVisitor
from mutmut.mutation.mutators import mutation_operators, operator_string
from mutmut.mutation.pragma_handling import IgnoredCode

TEXT = (cst.BaseString, cst.Raise, cst.Annotation, cst.Decorator)
# zip's own check, which only our mistake would fail, and encodings, which the linter asks for
NAMED = re.compile(r"(, *)?\b(strict|encoding)=(\w+|\"utf-8\")|,?\s*(?=\))")
UNCHANGED = "unchanged"
NO_EFFECT = {"cast", "isinstance", "len"}  # a wrong type for the checker alone; the other two as mutmut has it


@dataclass(frozen=True)
class Mutant:
    """One fault. `name`: where it is and what its line became, the same from run to run."""

    module: str  # the file, relative to the project's folder
    name: str
    source: str
    changed: tuple[tuple[CodeType, CodeType], ...]  # the outermost functions, before and after; () outside of any


class _Visitor(MutationVisitor):
    def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.FunctionDef):
            return False  # decorated ones too
        if isinstance(node, cst.Call) and isinstance(node.func, cst.Name) and node.func.value in NO_EFFECT:
            return True
        if isinstance(node, cst.Assign) and isinstance(name := node.targets[0].target, cst.Name):
            alias = name.value.lstrip("_")
            if alias[:1].isupper() and not alias.isupper():  # of types, which nothing reads at run time
                return True
        return isinstance(node, TEXT) or super()._skip_node_and_children(node)


def mutants_of(module: str, root: Path) -> list[Mutant]:
    """Every mutant of a module that compiles to something else."""
    filename = str(root / module)
    source = Path(filename).read_text(encoding="utf-8")
    operators = [(kind, operator) for kind, operator in mutation_operators if operator is not operator_string]
    visitor = _Visitor(operators, IgnoredCode(set(), set(), set()))
    wrapper = MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
    wrapper.visit(visitor)
    places, lines = wrapper.resolve(WhitespaceInclusivePositionProvider), [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    original, seen, found = compile(source, filename, "exec"), {NAMED.sub("", source)}, dict[str, Mutant]()
    for mutation in visitor.mutations:
        place = places[mutation.original_node]
        start, end = (lines[each.line - 1] + each.column for each in (place.start, place.end))
        text = source[:start] + wrapper.module.code_for_node(mutation.mutated_node) + source[end:]
        if (plain := NAMED.sub("", text)) in seen:
            continue
        seen.add(plain)
        try:
            code = compile(text, filename, "exec")
        except SyntaxError:
            continue
        changed = _changed(original, code)
        if changed == []:
            continue
        where = getattr(changed[0][0], "co_qualname", changed[0][0].co_name) if changed else "module"
        name = f"{where}: {_difference(source, text)}"
        while name in found:
            name += " (again)"
        found[name] = Mutant(module, name, text, tuple(changed or ()))
    return list(found.values())


def unchanged(module: str, root: Path) -> Mutant:
    """The module as it is, each function compiled anew. If tests kill it, what they say of its mutants is void."""
    filename = str(root / module)
    source = Path(filename).read_text(encoding="utf-8")
    before, after = (_outermost(compile(source, filename, "exec")) for _ in range(2))
    return Mutant(module, UNCHANGED, source, tuple(zip(before, after, strict=True)))


def sample_of(mutants: list[Mutant], size: int, seed: int) -> list[Mutant]:
    """At most `size` of them, the same ones each time that the seed is the same."""
    if len(mutants) <= size:
        return mutants
    chosen = set(random.Random(seed).sample(range(len(mutants)), size))
    return [mutant for i, mutant in enumerate(mutants) if i in chosen]


def _changed(before: CodeType, after: CodeType) -> list[tuple[CodeType, CodeType]] | None:
    """The outermost functions that differ, before and after. None if something outside of functions does."""
    if _own(before) != _own(after):
        return None
    pairs: list[tuple[CodeType, CodeType]] = []
    for old, new in zip(_parts(before), _parts(after), strict=True):
        if old.co_flags & inspect.CO_NEWLOCALS:  # a function
            pairs += [(old, new)] if _whole(old) != _whole(new) else []
        elif (inner := _changed(old, new)) is None:  # a class's body
            return None
        else:
            pairs += inner
    return pairs


def _outermost(code: CodeType) -> Iterator[CodeType]:
    """The module's functions and its classes' methods, without what is within those."""
    for part in _parts(code):
        if part.co_flags & inspect.CO_NEWLOCALS:
            yield part
        else:
            yield from _outermost(part)


def _parts(code: CodeType) -> list[CodeType]:
    return [const for const in code.co_consts if isinstance(const, CodeType)]


def _own(code: CodeType) -> tuple[object, ...]:
    """What a code object does by itself, whatever lines it stands on."""
    consts = [const.co_name if isinstance(const, CodeType) else repr(const) for const in code.co_consts]
    return code.co_code, consts, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars


def _whole(code: CodeType) -> tuple[object, ...]:
    return (*_own(code), [_whole(part) for part in _parts(code)])


def _difference(before: str, after: str) -> str:
    """`old line -> new line`, without what they have around it."""
    old, new = before.splitlines(), after.splitlines()
    for end in (0, -1):  # off with what they begin and what they end with alike
        while old and new and old[end] == new[end]:
            del old[end], new[end]
    return " -> ".join(" ".join(line.strip() for line in lines) for lines in (old, new))
