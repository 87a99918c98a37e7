"""What the card of a dataset (README.md, as on the hub) says of its configs and their files.

    ---
    configs:
    - config_name: en
      default: true
      data_files:
      - {split: train, path: en/train-*}
      - {split: test, path: [en/test-*]}
    ---

The form is of huggingface.co/docs/hub/datasets-manual-configuration.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import yaml

from attnlab.util.text import one_line


@dataclass(frozen=True)
class CardConfig:
    """One config: a folder, in which `splits` names the files of each split; None: their names say it."""

    name: str
    default: bool
    folder: PurePath
    splits: dict[str, list[PurePath]] | None


@dataclass(frozen=True)
class Card:
    """The configs that a folder's card names and that have files there. `problem`: why it cannot be read, or ""."""

    configs: list[CardConfig]
    problem: str = ""


def read(root: Path, names: Iterable[PurePath]) -> Card:
    """The card of a folder, of whose files `names` are the relative paths. A page of text is a card without configs."""
    try:
        text = (root / "README.md").read_bytes().decode("utf-8-sig")
    except OSError:
        return Card([])
    except UnicodeDecodeError:
        return Card([], "it is not UTF-8")
    front = re.match(r"---\s*\n(.*?\n)---\s*(\n|$)", text, re.DOTALL)
    if not front:
        begun = text.startswith("---") and re.search(r"^configs:", text, re.MULTILINE)
        return Card([], "its front matter has no end, a line ---" if begun else "")
    try:
        tree = yaml.safe_load(front[1])
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 2}: " if mark else ""  # after the line that begins it
        return Card([], where + one_line(getattr(error, "problem", None) or error))
    except ValueError as error:  # a date that is none
        return Card([], one_line(error))
    except RecursionError:
        return Card([], "it is nested too deeply")
    listed = tree.get("configs") if isinstance(tree, dict) else None
    try:
        return Card([config for each in listed or () if (config := _config(each, sorted(names)))])
    except (ValueError, TypeError, AttributeError, KeyError):
        return Card([], "configs: not as huggingface.co/docs/hub/datasets-manual-configuration has it")


def _config(tree: dict[str, Any], names: list[PurePath]) -> CardConfig | None:
    """A config as the card gives it; None if none of its files is here."""
    name, folder = str(tree.get("config_name", "default")), PurePath(tree.get("data_dir") or ".")
    default, given = bool(tree.get("default", name == "default")), tree.get("data_files")
    if given is None:
        return CardConfig(name, default, folder, None) if any(each.is_relative_to(folder) for each in names) else None
    pairs = [(each["split"], each["path"]) for each in given if isinstance(each, dict)] or [("train", given)]
    splits = {str(split): _matching(folder, paths, names) for split, paths in pairs}
    return CardConfig(name, default, folder, splits) if any(splits.values()) else None


def _matching(folder: PurePath, patterns: Any, names: list[PurePath]) -> list[PurePath]:
    from fsspec.utils import glob_translate

    patterns = [patterns] if isinstance(patterns, str) else patterns
    rules = [re.compile(glob_translate((folder / pattern).as_posix())) for pattern in patterns]
    return [name for name in names if any(rule.match(name.as_posix()) for rule in rules)]
