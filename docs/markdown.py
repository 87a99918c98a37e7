"""Pieces of Markdown that the generated pages share."""

from __future__ import annotations

from collections.abc import Iterable

WRITTEN = "Written by `make references` from the code; do not edit."


def table(titles: list[str], rows: Iterable[list[str]], right: int = 0) -> str:
    """A Markdown table, whose last `right` columns are of numbers."""
    ruler = ["---"] * (len(titles) - right) + ["--:"] * right
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [titles, ruler, *rows])


def code(text: str) -> str:
    """Text in Markdown's code marks, fit for a table's cell."""
    return f"`{text}`".replace("|", "\\|")
