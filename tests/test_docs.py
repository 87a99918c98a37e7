"""The documentation is true where a machine can tell: its sweep file loads, links lead somewhere, the map is whole."""

import importlib
import re
from pathlib import Path

import pytest

from attnlab.plan.load import load

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert target.startswith("https:") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_sweep_file_shown_is_one(tmp_path):
    path = tmp_path / "my_study.yaml"
    path.write_text(re.search(r"## The sweep file\n\n```yaml\n(.*?)```", README, re.DOTALL)[1])
    plan = load(path)
    assert set(plan.names) == {"attention", "gla", "no_gate", "hybrid"} and plan.sweep.noise.arm == "gla"


@pytest.mark.parametrize("root", ["attnlab", "analysis"])
def test_the_map_names_every_package(root):
    for path in sorted((ROOT / root).iterdir()):
        if (path / "__init__.py").exists():
            assert f"  {path.name}/" in README, path


def test_what_moved_is_where_the_page_says():
    for target in re.findall(r"`((?:attnlab|analysis)[.\w]*)`(?:,| \|$)", (ROOT / "docs/changes.md").read_text(), re.M):
        path = ROOT.joinpath(*target.split("."))
        if not (path.with_suffix(".py").exists() or path.is_dir()):  # then it is a name in a module
            module, _, name = target.rpartition(".")
            assert hasattr(importlib.import_module(module), name), target
