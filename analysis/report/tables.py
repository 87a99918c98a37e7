"""Tables that are shown on the page and written as CSV from the same rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.report import wording
from attnlab.ranking.tests import Interval

FORMATS = {
    "text": lambda v: wording.NONE if v is None else str(v),
    "arm": str,
    "value": wording.value_text,
    "count": wording.count_text,
    "large": wording.large_text,
    "seconds": wording.seconds_text,
    "p": lambda v: wording.NONE if v is None else f"{v:.2g}",
    "percent": lambda v: wording.NONE if v is None else f"{100 * v:.1f} %",
}


@dataclass(frozen=True)
class Column:
    """A key of the rows, its heading, and how its values are shown: a key of FORMATS, or `interval` or `stacked` [of
    FORMATS]; stacked, the ends stand below the value, without n."""

    key: str
    label: str
    form: str = "value"

    @property
    def text(self) -> bool:
        return self.form in ("text", "arm")

    def show(self, value: Any) -> str:
        """A cell."""
        if isinstance(value, Interval):
            form = FORMATS[self.form.partition(" ")[2] or "value"]
            ends = "" if value.low is None else f" [{form(value.low)}, {form(value.high)}]"
            if self.form.startswith("stacked"):
                return form(value.value)
            return f"{form(value.value)}{ends} ({value.n:,})"
        if self.form.startswith(("interval", "stacked")):
            return wording.NONE if value is None else str(value)
        return FORMATS[self.form](value)

    def below(self, value: Any) -> str:
        """A stacked cell's second line."""
        if not isinstance(value, Interval) or value.low is None or not self.form.startswith("stacked"):
            return ""
        form = FORMATS[self.form.partition(" ")[2] or "value"]
        return f"[{form(value.low)}, {form(value.high)}]"


@dataclass(frozen=True)
class Table:
    """`name` is the CSV file's. Of a row, `_index` is its arm's place (the swatch); `_strong`, `_tied`: marked."""

    name: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]

    def csv(self) -> str:
        """Every row with raw values; an interval as four columns; unknown cells are empty."""
        spread = {c.key for c in self.columns if any(isinstance(row.get(c.key), Interval) for row in self.rows)}
        head = [name for c in self.columns for name in (_four(c.key) if c.key in spread else [c.key])]
        buffer = io.StringIO()
        out = csv.DictWriter(buffer, head, lineterminator="\n")
        out.writeheader()
        for row in self.rows:
            cells: dict[str, Any] = {}
            for c in self.columns:
                value = row.get(c.key)
                if isinstance(value, Interval):
                    cells |= dict(zip(_four(c.key), (value.value, value.low, value.high, value.n), strict=True))
                else:
                    cells[c.key] = value
            out.writerow({key: cell for key, cell in cells.items() if key in head})
        return buffer.getvalue()


def _four(key: str) -> list[str]:
    return [key, f"{key}_low", f"{key}_high", f"{key}_n"]
