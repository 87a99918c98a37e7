"""Whose a mistake is: the shared `trial:`'s, told once, or an arm's own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

ARM = "\0"  # stands in a line for `arm NAME`
TRIAL = (".", ":")  # a line of an arm's trial begins so: `.train.eval_every: ...`, or `: ...` of all of it


def of_arm(line: str, arm: str) -> str:
    """Name the arm in a line."""
    return f"arms.{arm}{line}" if line.startswith(TRIAL) else line.replace(ARM, f"arm {arm}")


def told(by_arm: Mapping[str, Iterable[str]], trees: Mapping[str, Any]) -> Iterator[str]:
    """Tell the mistakes of arms, each line once, and as the shared trial's where all arms have it from there.

    Args:
        by_arm: the arms' lines, those of a trial as TRIAL says, others with ARM in place of the arm.
        trees: by arm, what the file gives it besides the shared trial.
    """
    lines_of = {arm: list(dict.fromkeys(lines)) for arm, lines in by_arm.items()}
    having = Counter(line for lines in lines_of.values() for line in lines)
    known = set[str]()
    for arm, lines in lines_of.items():
        for line in lines:
            shared = having[line] == len(lines_of) and not any(_gives(tree, line) for tree in trees.values())
            if shared and (line.startswith(".") or len(lines_of) > 1):
                said = f"trial{line}" if line.startswith(TRIAL) else line.replace(ARM, "every arm")
            else:
                said = of_arm(line, arm)
            if said not in known:
                known.add(said)
                yield said


def _gives(tree: Any, line: str) -> bool:
    """Whether an arm's tree itself sets what a trial's line is about. A mixer's or task's is all of it, by its name."""
    for part in filter(None, re.split(r"[: ]", line, maxsplit=1)[0].split(".")):
        if not isinstance(tree, Mapping) or part not in tree:
            return False
        tree = tree[part]
    return line.startswith(".") and (not isinstance(tree, Mapping) or "name" in tree)
