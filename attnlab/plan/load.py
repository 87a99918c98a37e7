"""A sweep file or tree becomes a checked, resolved `Plan`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from attnlab.config import sweep_file, words
from attnlab.config.resolved import Plan
from attnlab.config.sweep import Sweep
from attnlab.config.trial import NEWEST_RECIPE
from attnlab.plan import direction, match, seeds
from attnlab.plan.checks import validate
from attnlab.plan.scale import SCALES, tiny
from attnlab.records.mirror import mirror
from attnlab.util import trust
from attnlab.util.errors import UserError
from attnlab.util.text import did_you_mean, one_line


def load(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    plain: bool = False,
    scale: str | None = None,
    solve: bool = True,
    resume_in: str | Path | None = None,
) -> Plan:
    """Read, override, check and resolve a sweep file.

    Args:
        path: the YAML file.
        overrides: `a.b=c` texts, whose values are read as YAML.
        plain: without its search, see `sweep_file.plain`.
        scale, solve, resume_in: as `resolve`'s.

    Raises:
        UserError: everything wrong with the file and the overrides, one line per mistake.
    """
    raw = sweep_file.read(path)
    problems: list[str] = []
    try:
        sweep_file.override(raw, overrides)  # applies those that can be
    except UserError as error:
        problems += error.problems
    try:
        tree = sweep_file.plain(raw) if plain else raw
        plan = resolve(tree, scale=scale, solve=solve and not problems, resume_in=resume_in)
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError(problems)
    return plan


def read(path: str | Path) -> Plan:
    """The plan of a results folder's sweep.yaml, checked when the sweep began. Raises UserError if it is none.

    It is data: the modules that it names are not imported for that (`attnlab.util.trust`).
    """
    try:
        plan = direction.filled(Plan.of(Sweep.model_validate(sweep_file.read(path))))
        for arm in plan.arms:
            arm.trial.digest  # noqa: B018 (it is validated when it is first read)
        return plan
    except UserError as error:
        raise UserError(one_line(error.problems[0])) from None
    except ValidationError as error:
        raise UserError(one_line(f"{path}: {words.first(error)}")) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:  # of a damaged one
        raise UserError(one_line(f"{path}: it is no sweep ({type(error).__name__}: {one_line(error)})")) from None


def resolve(
    tree: Mapping[str, Any], *, scale: str | None = None, solve: bool = True, resume_in: str | Path | None = None
) -> Plan:
    """Check and resolve a sweep's tree, which the user gave: modules of own mixers in it count as named.

    Args:
        tree: as in a sweep file, its dotted keys expanded (`sweep_file.normal`).
        scale: `tiny`: checked as it is, then made small and checked again.
        solve: fill in the recipe, confirm seeds apart from the search's, and what `match:` and `budget:` come to, which
            takes torch.
        resume_in: the results whose folder of this sweep, if there is one, keeps its recipe, seeds and what was solved.

    Raises:
        UserError: every mistake found, each on one line that names its key.
    """
    trust.name(trust.modules_in(tree))
    if scale:
        if scale not in SCALES:
            raise UserError([f"scale {scale}: there is none of this name{did_you_mean(scale, SCALES)}"])
        plan = resolve(tree, solve=False)
        try:
            return resolve(tiny(plan), solve=solve, resume_in=resume_in)
        except UserError as error:  # of a value that the file gives for the scale, its key in the file is named
            given = tuple(f"{key}:" for key in plan.sweep.tiny or ())
            lines = (f"tiny.{line}" if line.startswith(given) else line for line in error.problems)
            raise UserError(list(lines)) from None
    sweep, problems = validate.parse(tree)
    if sweep is None or problems:
        raise UserError(problems)
    folder_counts = solve and (match.wanted(sweep) or sweep.confirm or NEWEST_RECIPE > 1)
    folder = _folder(sweep.name, resume_in) if resume_in and folder_counts else None
    plan = direction.filled(Plan.of(_with_recipe(sweep, folder) if solve else sweep))
    if solve and match.wanted(sweep):
        plan = match.solve(plan, folder)
    if solve or sweep.budget is None:  # until a budget is solved, its runs have no length
        problems = list(dict.fromkeys(validate.plan_problems(plan)))
    if problems:
        raise UserError(problems)
    return seeds.with_own_seeds(plan, folder) if solve else plan


def _with_recipe(sweep: Sweep, folder: Plan | None) -> Sweep:
    """Give a sweep that names no recipe its folder's, else the newest. A folder that names none has the first."""
    recipe = folder.sweep.trial.get("recipe", 1) if folder else NEWEST_RECIPE
    if recipe == 1 or "recipe" in sweep.trial:
        return sweep
    return sweep.model_copy(update={"trial": {**sweep.trial, "recipe": recipe}})


def _folder(name: str, results: str | Path) -> Plan | None:
    """The plan that a sweep's folder holds, None where none can be read."""
    try:
        copy = mirror(results, name)
        copy.fetch_sweep_file()
        return read(copy.folder.sweep_file)
    except (ValueError, OSError):  # the engine says what is wrong with it
        return None
