"""Tables shown on the page, on the terminal and as CSV from the same rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attnlab.ranking.tests import Interval
from attnlab.util.text import NONE, count_text, large_text, seconds_text, value_text

FORMATS = {
    "text": lambda v: NONE if v is None else str(v),
    "arm": str,
    "value": value_text,
    "count": count_text,
    "large": large_text,
    "seconds": seconds_text,
    "p": lambda v: NONE if v is None else f"{v:.2g}",
    "percent": lambda v: NONE if v is None else f"{100 * v:.1f} %",
}


@dataclass(frozen=True)
class Column:
    """A key of the rows, its heading, and how its values are shown."""

    key: str
    label: str
    form: str = "value"  # of FORMATS, or `interval` or `stacked` (ends below the value, no n) and one of FORMATS

    @property
    def text(self) -> bool:
        """Whether it is set to the left."""
        return self.form in ("text", "arm")

    def show(self, value: Any) -> str:
        """A cell."""
        kind, _, form = self.form.partition(" ")
        if isinstance(value, Interval):
            figure = FORMATS[form or "value"](value.value)
            rest = () if kind == "stacked" else (_ends(form, value), f"({value.n:,})")
            return " ".join(filter(None, (figure, *rest)))
        return FORMATS["text" if kind in ("interval", "stacked") else kind](value)

    def below(self, value: Any) -> str:
        """A stacked cell's second line."""
        kind, _, form = self.form.partition(" ")
        return _ends(form, value) if kind == "stacked" and isinstance(value, Interval) else ""


ARM = Column("arm", "arm", "arm")


@dataclass(frozen=True)
class Table:
    """`name` is the CSV file's; `_index` is a row's arm, `_strong` and `_tied` mark cells."""

    name: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]

    def csv(self) -> str:
        """Every row with raw values, an interval as four columns, unknown cells empty."""
        head: list[str] = []
        for c in self.columns:
            spread = any(isinstance(row.get(c.key), Interval) for row in self.rows)
            head += _four(c.key) if spread else [c.key]
        return csv_text(head, ({k: v for c in self.columns for k, v in _cells(c.key, row)} for row in self.rows))


def _ends(form: str, interval: Interval) -> str:
    show = FORMATS[form or "value"]
    return "" if interval.low is None else f"[{show(interval.low)}, {show(interval.high)}]"


def _four(key: str) -> list[str]:
    return [key, f"{key}_low", f"{key}_high", f"{key}_n"]


def _cells(key: str, row: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    value = row.get(key)
    if isinstance(value, Interval):
        return zip(_four(key), (value.value, value.low, value.high, value.n), strict=True)
    return [(key, value)]


def csv_text(head: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """CSV with a heading; cells that a row lacks are empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, head, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, every column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
