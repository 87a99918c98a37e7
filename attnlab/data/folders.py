"""Which files of a folder are for training, which for validation, and which are left out.

The folder's card decides, else names, as in `datasets` (huggingface.co/docs/datasets/repository_structure). If there
are files such as `data/train-00000-of-00004.parquet`, they are the dataset. Else the split is a whole word in the name
of one of the file's folders, or of the file: train, training; validation, valid, val, dev; test, testing, eval,
evaluation. A word ends where no letter follows. Beyond `datasets`, case does not matter, a file of a test split is in
no other, a file that its folders do not name may be named by itself, files without a word are trained on unless some
are named train, and what is ambiguous is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from attnlab.data import card as cards
from attnlab.data.card import CardConfig
from attnlab.data.formats import PACKED, SUFFIXES, kind_of
from attnlab.util.text import did_you_mean
from attnlab.util.text import listed as listed_text

# the most careful first: what is named both test and train is test
KEYWORDS = {
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev"),
    "train": ("train", "training"),
}
SHARD = re.compile(r"data/(\w+)-\d{5}-of-\d{5}[^/]*\.[^/]*")
ABOUT = re.compile(
    r"(readme.*|licen[cs]e|copying|notice|citation|changelog)\.\w+|(dataset_infos?|dataset_dict|state|config)\.json"
)
NAMED = 3  # files that a message names, at most


@dataclass(frozen=True)
class Files:
    """A folder's files, each in one list."""

    root: Path
    train: list[Path]
    validation: list[Path]
    left_out: list[Path]
    card_problem: str = ""  # why the folder's card was not heeded

    def __str__(self) -> str:
        shown = [path for path in self.left_out if not _hidden(path.relative_to(self.root))]
        held = f"{len(self.validation)} as validation" if self.validation else "none as validation (a part is held out)"
        names = f" ({_names(shown, self.root)})" if shown else ""
        said = f"read {len(self.train)} files as training, {held}, {len(shown)} left out{names}"
        return said + _card_text(self.card_problem)


def divide(
    root: Path,
    split: str = "train",
    validation: str | None = None,
    config: str | None = None,
    pattern: str | None = None,
) -> Files:
    """Divide a folder's files.

    Args:
        split: which files are trained on. If no file is named `train`, it means those without a name of a split.
        validation: which files are validated on; None: those named `validation`, if any.
        config: a config of the folder's card, or a folder within, to which all else is confined.
        pattern: a pattern (`*.parquet`, `en/*`) that the files' relative paths match; then nothing is ambiguous.

    Raises:
        ValueError: one line that begins with the setting that is wrong, if it is one.
    """
    everything = sorted(path for path in root.rglob("*") if not path.is_dir())
    relative = {path: path.relative_to(root) for path in everything}
    found = [path for path, name in relative.items() if _is_data(path, name)]
    if not found:
        raise ValueError(f"dataset {root}: no {', '.join(SUFFIXES)} file in this folder")
    data: dict[Path, PurePath] = {path: relative[path] for path in found}
    card = cards.Card([]) if pattern else cards.read(root, data.values())
    try:
        names = _names_of(root, data, card.configs, config, pattern)
    except ValueError as error:
        raise ValueError(f"{error}{_card_text(card.problem)}") from None
    held = names.of(validation) if validation else names.of("validation")
    if validation and not held:
        near = did_you_mean(validation, names.known)
        raise ValueError(f"validation: {root} has no files of split {validation!r}{near}")
    chosen = [path for path in names.of(split) if path not in held or not validation]
    if not chosen and split == "train":
        chosen = [path for path in names.unnamed if path not in held]
    if not chosen:
        near = did_you_mean(split, names.known)
        if held:
            raise ValueError(f"dataset {root}: every file belongs to the validation split; nothing is left to train on")
        raise ValueError(f"split: {root} has no files of split {split!r}{near}")
    held = [path for path in held if path not in chosen]
    if not (pattern or names.given):
        for what, paths in (("training", chosen), ("validation", held)):
            _refuse_ambiguous(root, what, paths, names)
    taken = {*chosen, *held}
    return Files(root, chosen, held, [path for path in everything if path not in taken], card.problem)


def _card_text(problem: str) -> str:
    return f"; its README.md is no card ({problem}), so names decide" if problem else ""


def _names_of(
    root: Path, relative: dict[Path, PurePath], listed: list[CardConfig], config: str | None, pattern: str | None
) -> _Names:
    """The files that a config and a pattern leave, by what the card or their names say. Raises as `divide` does."""
    paths = {name: path for path, name in relative.items()}
    card = next((each for each in listed if each.name == config), None) if config else _default(root, listed)
    if card and card.splits is not None:
        careful = sorted(card.splits, key=lambda split: {"test": 2, "validation": 1}.get(_standard(split), 0))
        given = {paths[name]: _standard(split) for split in careful for name in card.splits[split]}
        return _Names(relative, given)
    folder = card.folder if card else PurePath(config or ".")
    inside = {path: name.relative_to(folder) for path, name in relative.items() if name.is_relative_to(folder)}
    if not inside:
        near = did_you_mean(config or "", [*(each.name for each in listed), *_folders(relative.values())])
        raise ValueError(f"config: {root} has no config or folder {config!r} with data{near}")
    if pattern:
        inside = {path: name for path, name in inside.items() if fnmatchcase(relative[path].as_posix(), pattern)}
        if not inside:
            raise ValueError(f"files: no data file in {root} has a path like {pattern!r}")
    return _Names(inside)


def _default(root: Path, listed: Sequence[CardConfig]) -> CardConfig | None:
    """The config that is meant where none is named. Raises ValueError if that cannot be told."""
    default = [each for each in listed if each.default] or listed
    if len(default) > 1:
        names = listed_text([repr(each.name) for each in default[: NAMED * 2]])
        raise ValueError(f'config: the card of {root} has several, {names}: set config to one, or files: "*" for all')
    return default[0] if default else None


class _Names:
    """What is said of the splits of files. `relative`: each file's path below the folder or config.

    `given`: the splits of files by the folder's card; without it, their names say them.
    """

    def __init__(self, relative: dict[Path, PurePath], given: dict[Path, str] | None = None):
        self.relative, self.given = relative, given
        if given:
            self.split: dict[Path, str | None] = {path: given.get(path, "") for path in relative}
            return
        shards = {path: m[1] for path, name in relative.items() if (m := SHARD.fullmatch(name.as_posix()))}
        self.split = {path: _split_of(name) for path, name in relative.items()}
        if shards:  # as datasets has it, `train_sft` is a split of its own
            self.split = {path: _standard(shards.get(path, "")) for path in relative}

    @property
    def known(self) -> list[str]:
        """The splits there are."""
        first = {
            re.split(r"[.-]", name.parts[0])[0] for path, name in self.relative.items() if self.split[path] is None
        }
        return sorted({*first, *(split for split in self.split.values() if split)})

    @property
    def unnamed(self) -> list[Path]:
        """The files whose names say no split."""
        return [path for path, split in self.split.items() if split is None]

    def of(self, split: str) -> list[Path]:
        """The files of a split: those of a standard one, else those with just this word in their path."""
        if split in KEYWORDS:
            return [path for path, own in self.split.items() if own == split]
        word = _word((re.escape(split.lower()),))
        files = [p for p, name in self.relative.items() if any(word.search(part.lower()) for part in name.parts)]
        files = [path for path in files if self.split[path] != ""]
        return files or (self.of(standard) if (standard := _standard(split)) in KEYWORDS else [])

    def config_of(self, path: Path) -> PurePath:
        """The folder that a file's split is a part of."""
        name = self.relative[path]
        for depth, part in enumerate(name.parts[:-1]):
            if _keyword(part):
                return PurePath(*name.parts[:depth])
        return name.parent


def _word(words: Iterable[str]) -> re.Pattern[str]:
    return re.compile(rf"(?<![^\W\d_])(?:{'|'.join(words)})(?![^\W\d_])")


WORDS = {split: _word(words) for split, words in KEYWORDS.items()}


def _keyword(part: str) -> str | None:
    """The split that a part of a path names."""
    return next((split for split, word in WORDS.items() if word.search(part.lower())), None)


def _standard(split: str) -> str:
    """A split's standard name, if it has one: `validation` of `dev`."""
    return next((standard for standard, words in KEYWORDS.items() if split.lower() in words), split)


def _split_of(name: PurePath) -> str | None:
    """The split that a relative path names: by the folders, else by the file."""
    folders = {split for part in name.parts[:-1] if (split := _keyword(part))}
    return next((split for split in KEYWORDS if split in folders), None) or _keyword(name.name)


def _is_data(path: Path, name: PurePath) -> bool:
    about = ABOUT.fullmatch(_unpacked(name.name.lower()))
    return bool(kind_of(path)) and not about and not _hidden(name) and path.is_file()


def _hidden(name: PurePath) -> bool:
    return any(part.startswith((".", "__")) for part in name.parts)


def _unpacked(name: str) -> str:
    """A file's name or path without the ending of its compression."""
    return name.rpartition(".")[0] if name.lower().endswith(tuple(PACKED)) else name


def _folders(names: Iterable[PurePath]) -> list[str]:
    parents = {parent.as_posix() for name in names for parent in name.parents if not _hidden(parent)}
    return sorted(parents - {"."})


def _names(paths: Sequence[Path], root: Path) -> str:
    shown = [path.relative_to(root).as_posix() for path in paths[:NAMED]]
    return ", ".join([*shown, *(["..."] if len(paths) > NAMED else [])])


def _refuse_ambiguous(root: Path, what: str, paths: Sequence[Path], names: _Names) -> None:
    """Raise ValueError if files of one split look like several datasets, or like one in several forms."""
    where = sorted({names.config_of(path).as_posix() for path in paths if names.split[path]})
    if len(where) > 1:
        shown = listed_text([repr(place) for place in where[: NAMED * 2]])
        raise ValueError(
            f"config: {root} has {what} files in several folders, {shown}: set config to the one that is meant, or "
            f'files: "*" for all'
        )
    kinds: dict[str, Path] = {}
    for path in paths:
        kinds.setdefault((kind_of(path) or "").removesuffix("l"), path)  # .json and .jsonl are one
    if len(kinds) > 1:
        shown = _names(list(kinds.values()), root)
        raise ValueError(
            f"files: the {what} files of {root} have several formats ({shown}): set files to a pattern of those that "
            f'are meant, such as "*{next(iter(kinds))}*", or "*" for all'
        )
    for first, second in _twice(paths):
        raise ValueError(
            f"files: {_names([first, second], root)} in {root} are one {what} file twice: set files to a pattern of "
            f'those that are meant, such as "*{second.suffix}", or "*" for all'
        )


def _twice(paths: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Pairs of files whose paths differ in their compression alone."""
    seen: dict[str, Path] = {}
    for path in paths:
        if (first := seen.setdefault(_unpacked(str(path)), path)) != path:
            yield first, path
