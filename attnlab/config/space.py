"""Search spaces: the sweep file's `{loguniform: [1e-4, 1e-2]}` forms, checked and made Optuna distributions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, product
from typing import TYPE_CHECKING, Any

from attnlab.config.values import scalar_problem
from attnlab.util.text import quoted

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

RANGES = {"uniform": float, "loguniform": float, "int": int, "logint": int}
KINDS = (*RANGES, "choice")


@dataclass(frozen=True)
class Dimension:
    """One searched setting: a range from `low` to `high`, or `choices`."""

    kind: str  # one of KINDS
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

    @property
    def ends(self) -> tuple[float, float] | tuple[None, None]:
        """The smallest and the largest value. (None, None) for a choice that is not among numbers."""
        if not self.choices:
            return self.low, self.high
        numbers = [v for v in self.choices if isinstance(v, (int, float)) and not isinstance(v, bool)]
        return (min(numbers), max(numbers)) if len(numbers) == len(self.choices) > 1 else (None, None)

    @property
    def points(self) -> float:
        """How many values there are. Infinite for a range of real numbers."""
        if self.choices:
            return len(self.choices)
        return self.high - self.low + 1 if RANGES[self.kind] is int else math.inf

    def position(self, value: Any) -> float | None:
        """A value's position between the ends, 0 to 1, on its scale or by rank. None without an order."""
        low, high = self.ends
        if low is None or high is None or isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        if self.choices:
            return sorted(self.choices).index(value) / (len(self.choices) - 1) if value in self.choices else None
        if self.log:
            return math.log(value / low) / math.log(high / low) if value > 0 else None
        return (value - low) / (high - low)

    def widened(self, edge: str) -> Dimension:
        """The range with half of its span more at its "lower" or "upper" end.

        On a log scale it is the root of its ratio. A choice stays as it is. A lower end from 0 on stops at 0.
        """
        if self.choices:
            return self
        low, high = self.low, self.high
        if self.log:
            factor = math.sqrt(high / low)
            low, high = (low / factor, high) if edge == "lower" else (low, high * factor)
        else:
            half = (high - low) / 2
            below = low - half if low < 0 or low >= half else 0.0
            low, high = (below, high) if edge == "lower" else (low, high + half)
        if RANGES[self.kind] is int:
            low, high = max(math.floor(low), 1 if self.log else -math.inf), math.ceil(high)
        return Dimension(self.kind, low, high)

    def distribution(self) -> BaseDistribution:
        """The same dimension for Optuna."""
        from optuna import distributions as d

        if self.kind == "choice":
            return d.CategoricalDistribution(self.choices)
        if RANGES[self.kind] is int:
            return d.IntDistribution(int(self.low), int(self.high), log=self.log)
        return d.FloatDistribution(self.low, self.high, log=self.log)


def parse(form: Any) -> Dimension:
    """Parse `{kind: [...]}`. Raises ValueError: one line that says what is wrong and what would be right."""
    if not isinstance(form, Mapping) or len(form) != 1 or next(iter(form)) not in KINDS:
        example = f", such as {{choice: {quoted(form, 40)}}}" if isinstance(form, (list, tuple)) else ""
        raise ValueError(f"{quoted(form)} is no range; write one of {{{': [...]}, {'.join(KINDS)}: [...]}}{example}")
    kind, values = next(iter(form.items()))
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"{kind} takes a list, not {quoted(values)}")
    if problem := next(filter(None, map(scalar_problem, values)), None):
        raise ValueError(f"{kind}: {problem}")
    return _choice(values) if kind == "choice" else _range(kind, values)


def _choice(values: Iterable[Any]) -> Dimension:
    values = tuple(values)
    if not values:
        raise ValueError("choice: [] is empty; give at least one value")
    if bad := [v for v in values if not isinstance(v, (bool, int, float, str, type(None)))]:
        raise ValueError(f"choice takes numbers, strings, booleans and null, not {quoted(bad[0])}")
    if len({(type(v), v) for v in values}) < len(values):
        raise ValueError(f"choice: {quoted(list(values))} names a value twice")
    return Dimension("choice", choices=values)


def _range(kind: str, values: Iterable[Any]) -> Dimension:
    values, want = list(values), RANGES[kind]
    shown = quoted(values)
    if len(values) != 2 or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in values):
        raise ValueError(f"{kind} takes [low, high], two numbers, not {shown}")
    if not math.isfinite(float(values[1]) - float(values[0])):
        raise ValueError(f"{kind}: {shown} is wider than a number can say")
    if want is int and any(v != int(v) for v in values):
        raise ValueError(f"{kind} takes whole numbers, not {shown}")
    low, high = (want(v) for v in values)
    if problem := scalar_problem(low) or scalar_problem(high):
        raise ValueError(f"{kind}: {problem}")
    if low == high:
        raise ValueError(f"{kind}: {shown} is empty; set the value in `trial` instead of searching it")
    if low > high:
        raise ValueError(f"{kind}: {shown} is reversed; write [{quoted(high)}, {quoted(low)}]")
    if kind.startswith("log") and low <= 0:
        raise ValueError(f"{kind}: {shown} must be above 0")
    return Dimension(kind, low, high)


def corners(dimensions: Mapping[str, Dimension], limit: int = 256) -> list[dict[str, Any]]:
    """Settings at the space's corners. All up to `limit`, else each dimension's with the others at their first."""
    each = [d.corners for d in dimensions.values()]
    if math.prod(map(len, each)) <= limit:
        return [dict(zip(dimensions, values, strict=True)) for values in product(*each)]
    first = {name: d.corners[0] for name, d in dimensions.items()}
    one_at_a_time = ({**first, name: value} for name, d in dimensions.items() for value in d.corners)
    return list(islice(one_at_a_time, limit))


def grid(dimensions: Mapping[str, Dimension]) -> Iterator[dict[str, Any]]:
    """Every point of a space of choices and whole numbers, the last setting varying fastest."""
    each = (d.choices or range(int(d.low), int(d.high) + 1) for d in dimensions.values())
    return (dict(zip(dimensions, values, strict=True)) for values in product(*each))
