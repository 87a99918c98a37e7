"""Mutate the shipped sweep files and overrides, and see that each gives a plan or short lines that say what is wrong.

    python tests/tools/mutate_sweeps.py 4000            # mutants, from seed 0
    python tests/tools/mutate_sweeps.py 4000 --seed 7

Bytes, lines, values, keys, types and `a.b=c` texts are changed, one to three at a time. Exit code 1: some mutant ended
in anything else than a plan or a UserError, in a line that is long or holds a control character, or took too long; each
is printed with its number, which `case` makes again.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from attnlab.config import yaml_text
from attnlab.plan.load import load
from attnlab.util.errors import UserError

SWEEPS = sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml"))
LONGEST = 320  # characters of a line
SLOWEST_S = 5.0  # of one core
SNIPPETS = [
    "!!int abc", "!!float x", "!!bool maybe", "2020-13-45", "9" * 5000, "[" * 300, "&a [*a]", "*nowhere", "<<: *x",
    "? [a]", "\x00", "\x1b[31m", "\x85", "\u2028", "\ud83d", "é", "'", '"', "{", "}", "]", ": ", "- ", "#", "%", "@",
    "|", ">", "\t", "a" * 2000, "010", "1_000", "12:30", ".inf", ".nan", "-.inf", "~", "null", "1e400",
    "0x" + "f" * 400, "---", "...",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 3, 10**6, 10**9, 2**31, 2**32, 2**63 - 1, 2**63, 10**30, 1.5, 1e-300, 1e300, -0.0,
    float("inf"), float("-inf"), float("nan"), "", " ", "a" * 2000, "\x1b[31mred", "a\nb", "\x85", "\ufeff", "no",
    "1e-3", "9" * 40, "9" * 5000, "..", "../x", "/etc/passwd", "/dev/zero", "x" * 300, "hub/name", "a:b", "os:system",
    ":", [], {}, [[]], [["a"]], [1, 2], [1, 1.0, True], [None], list(range(3000)), ["a" * 500] * 50, {"a": 1}, {"": 1},
    {"choice": []}, {"choice": [1, 1]}, {"choice": list(range(2000))}, {"loguniform": [1e-3, 1e-2]},
    {"uniform": [-1e308, 1e308]}, {"int": [1, 10**12]}, {"logint": [1, 2**62]}, {"uniform": ["a", None]},
    {"name": "gla"}, {"name": None}, {"name": ["gla"]}, "gla", "standard", "mqar", "text", "min", "max", "val_loss",
    "val_accuracy", "params",
]  # fmt: skip
KEYS = [
    "", " ", "a" * 300, "\x1b", "name", "trial", "arms", "search", "model.mixer", "model.mixer.expand_k", "task.name",
    "optim.lr", "search.space", "space", "differs", "recipe", "seed", "n_layers", "a.b.c.d", ".", "..", "tiny",
    "noise", "budget", "rank", "confirm", "guards", "resources", "match", "mode", "sampler", "asha", "extend",
]  # fmt: skip


def mutated_text(rng: random.Random, text: str) -> bytes:
    """The file with bytes or lines changed."""
    raw = bytearray(text.encode())
    lines = text.split("\n")
    kind = rng.randrange(7)
    at, line = rng.randrange(len(raw)), rng.randrange(len(lines))
    if kind == 0:
        raw[at] = rng.randrange(256)
    elif kind == 1:
        raw[at:at] = rng.choice(SNIPPETS).encode("utf-8", "surrogatepass")
    elif kind == 2:
        del raw[at : at + rng.randrange(1, 40)]
    elif kind == 3:
        other = rng.randrange(len(lines))
        lines[line], lines[other] = lines[other], lines[line]
    elif kind == 4:
        lines.insert(line, lines[rng.randrange(len(lines))] * rng.choice([1, 1, 2, 40]))
    elif kind == 5:
        key, colon, _ = lines[line].partition(":")
        lines[line] = f"{key}{colon} {rng.choice(SNIPPETS)}"
    else:
        lines[line] = " " * rng.randrange(9) + lines[line].strip()
    return bytes(raw) if kind < 3 else "\n".join(lines).encode("utf-8", "surrogatepass")


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key or index) of a tree."""
    items = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    return [place for key, value in items for place in ((tree, key), *places(value))]


def mutated_tree(rng: random.Random, text: str) -> bytes:
    """The file with values, keys or types changed. PyYAML writes it, as a person may."""
    tree = yaml_text.load(text)
    holder, key = rng.choice(places(tree))
    kind = rng.randrange(5)
    if kind == 0 or (kind == 4 and not isinstance(holder, dict)):
        holder[key] = rng.choice(VALUES)
    elif kind == 1 and isinstance(holder, dict):
        holder[rng.choice(KEYS)] = holder.pop(key)
    elif kind == 2 and isinstance(holder, dict):
        holder[rng.choice(KEYS)] = rng.choice(VALUES)
    elif kind == 3:
        del holder[key]
    else:
        holder[key] = [holder[key]] if rng.random() < 0.5 else {"a": holder[key]}
    return yaml.dump(tree, sort_keys=False).encode("utf-8", "surrogatepass")


def override(rng: random.Random, text: str) -> str:
    """An `a.b=c` text, of one of the file's keys or a made-up one."""
    tree = yaml_text.load(text)
    path, node = [], tree
    while isinstance(node, dict) and node and rng.random() < 0.85:
        path.append(rng.choice([*node, *node, rng.choice(KEYS)]))
        node = node.get(path[-1])
    value = rng.choice(SNIPPETS) if rng.random() < 0.5 else yaml.dump(rng.choice(VALUES), default_flow_style=True)
    return f"{'.'.join(path)}{rng.choice(['=', '=', '=', '=', '', '=='])}{value}"


def case(number: int) -> tuple[bytes, list[str], dict[str, Any]]:
    """Mutant `number`: a file's bytes, overrides and how it is loaded."""
    rng = random.Random(number)
    text = rng.choice(SWEEPS).read_text(encoding="utf-8")
    raw, overrides = text.encode(), list[str]()
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        kind = rng.choice([mutated_text, mutated_tree, mutated_tree, None])
        if kind is None:
            overrides.append(override(rng, text))
        else:
            try:
                raw = kind(rng, raw.decode())
            except (UserError, UnicodeDecodeError, IndexError, TypeError, AttributeError, ValueError):
                break  # what is no sweep any more is mutated no further
    return raw, overrides, {"plain": rng.random() < 0.1, "scale": "tiny" if rng.random() < 0.1 else None}


def wrong(number: int, folder: Path) -> str | None:
    """What is wrong with how mutant `number` ends. None: nothing."""
    raw, overrides, how = case(number)
    file = folder / "s.yaml"
    file.write_bytes(raw)
    start = time.process_time()
    try:
        load(file, overrides, solve=False, **how)
    except UserError as error:
        for line in error.problems:
            if not line.isprintable() or len(line) > LONGEST + len(str(file)) or not line.strip():
                return f"{len(line)} characters: {line!r}"
        if not error.problems:
            return "no problem named"
    except Exception as error:  # noqa: BLE001 -- whatever it is, it is what this looks for
        return f"{type(error).__name__}: {str(error)[:300]!r}"
    took = time.process_time() - start
    return f"took {took:.1f} s" if took > SLOWEST_S else None


def main() -> int:
    """Run mutants; print what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mutants", type=int)
    parser.add_argument("--seed", type=int, default=0, help="number of the first mutant")
    args = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.seed, args.seed + args.mutants):
            if problem := wrong(number, Path(folder)):
                bad += 1
                print(f"{number}: {problem}", flush=True)
    print(f"{bad} of {args.mutants} mutants ended in something else than a plan or short lines")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
