"""The generated references are what the code says now; `make references` writes them anew."""

from pathlib import Path

import pytest

from attnlab.models import MIXERS
from docs.make_references import PAGES

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "mixers" else []) for name in PAGES]
)
def test_a_page_is_fresh(name):
    assert (DOCS / f"{name}.md").read_text() == PAGES[name](), "run `make references`"


def test_the_page_of_mixers_has_a_row_of_each():
    """The quick part of it: the rest is measured, in half a minute."""
    rows = [line.split(" | ")[:2] for line in (DOCS / "mixers.md").read_text().splitlines() if line.startswith("| `")]
    assert rows == [[f"| `{name}`", spec.source] for name, spec in MIXERS.items()], "run `make references`"
