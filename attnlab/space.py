"""Search spaces: the sweep file's `{loguniform: [1e-4, 1e-2]}` forms, checked, and turned into Optuna distributions.

Neither torch nor ray is imported, and optuna only when a distribution is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice, product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

RANGES = {"uniform": float, "loguniform": float, "int": int, "logint": int}
KINDS = (*RANGES, "choice")


@dataclass(frozen=True)
class Dimension:
    """One searched setting: `kind` of KINDS; `low`, `high` of a range, or `choices`."""

    kind: str
    low: float = math.nan
    high: float = math.nan
    choices: tuple[Any, ...] = ()

    @property
    def log(self) -> bool:
        """Whether the range is searched on a logarithmic scale."""
        return self.kind in ("loguniform", "logint")

    @property
    def corners(self) -> tuple[Any, ...]:
        """The extreme values, which must all be valid settings."""
        return self.choices or (self.low, self.high)

    def distribution(self) -> BaseDistribution:
        """The same dimension for Optuna."""
        from optuna import distributions as d

        if self.kind == "choice":
            return d.CategoricalDistribution(self.choices)
        if RANGES[self.kind] is int:
            return d.IntDistribution(int(self.low), int(self.high), log=self.log)
        return d.FloatDistribution(self.low, self.high, log=self.log)


def parse(form: Any) -> Dimension:
    """`{kind: [...]}` -> Dimension.

    Raises:
        ValueError: one line that says what is wrong and what would be right.
    """
    if not isinstance(form, Mapping) or len(form) != 1 or next(iter(form)) not in KINDS:
        raise ValueError(f"{form!r} is no range; write one of {{{': [...]}, {'.join(KINDS)}: [...]}}")
    kind, values = next(iter(form.items()))
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"{kind} takes a list, not {values!r}")
    return _choice(values) if kind == "choice" else _range(kind, values)


def _choice(values: Iterable[Any]) -> Dimension:
    values = tuple(values)
    if not values:
        raise ValueError("choice: [] is empty; give at least one value")
    if bad := [v for v in values if not isinstance(v, (bool, int, float, str, type(None)))]:
        raise ValueError(f"choice takes numbers, strings, booleans and null, not {bad[0]!r}")
    if len({(type(v), v) for v in values}) < len(values):
        raise ValueError(f"choice: {list(values)} names a value twice")
    return Dimension("choice", choices=values)


def _range(kind: str, values: Iterable[Any]) -> Dimension:
    values = list(values)
    want = RANGES[kind]
    if len(values) != 2 or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in values):
        raise ValueError(f"{kind} takes [low, high], two numbers, not {values}")
    if want is int and any(v != int(v) for v in values):
        raise ValueError(f"{kind} takes whole numbers, not {values}")
    low, high = (want(v) for v in values)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{kind}: {values} is not finite")
    if low == high:
        raise ValueError(f"{kind}: {values} is empty; set the value in `trial` instead of searching it")
    if low > high:
        raise ValueError(f"{kind}: {values} is reversed; write [{high}, {low}]")
    if kind.startswith("log") and low <= 0:
        raise ValueError(f"{kind}: {values} must be above 0")
    return Dimension(kind, low, high)


def corners(dimensions: Mapping[str, Dimension], limit: int = 256) -> list[dict[str, Any]]:
    """Settings at the corners of the space: all of them up to `limit`; beyond that each dimension's extremes with the
    others at their first value."""
    count = math.prod(len(d.corners) for d in dimensions.values())
    names = list(dimensions)
    if count <= limit:
        return [dict(zip(names, values, strict=True)) for values in product(*(d.corners for d in dimensions.values()))]
    first = {name: d.corners[0] for name, d in dimensions.items()}
    one_at_a_time = ({**first, name: value} for name, d in dimensions.items() for value in d.corners)
    return list(islice(one_at_a_time, limit))
