"""A sweep file and overrides become a checked sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attnlab.config.sweep import Sweep
from attnlab.util.errors import UserError


def load_sweep(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    plain: bool = False,
    scale: str | None = None,
    solve: bool = True,
) -> Sweep:
    """Read, override and check a sweep file.

    Args:
        path: the YAML file.
        overrides: `a.b=c` texts; the value is read as YAML.
        plain: without its search; see `sweepfile.plain`.
        scale: `tiny`: made small; see `scale.tiny`.
        solve: fill in what `match:` and `budget:` come to, which takes torch.

    Raises:
        UserError: everything wrong with the file and the overrides, one line per mistake.
    """
    from attnlab.config import sweep_file
    from attnlab.plan import validate  # the tables of mixers and tasks stand above this module: imported when called

    raw = sweep_file.read(path)
    problems: list[str] = []
    try:
        sweep_file.override(raw, overrides)  # applies those that can be
    except UserError as error:
        problems += error.problems
    try:
        sweep = validate.checked(sweep_file.plain(raw) if plain else raw, scale=scale, solve=solve and not problems)
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError(problems)
    return sweep
