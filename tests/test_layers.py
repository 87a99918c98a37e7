"""The layers hold, function-local imports included."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINT = "from importlinter.cli import lint_imports; import sys; sys.exit(lint_imports())"


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The project's source and its contracts, in a folder of their own."""
    folder = tmp_path_factory.mktemp("layers")
    for package in ("attnlab", "analysis"):
        shutil.copytree(
            ROOT / package, folder / package, ignore=shutil.ignore_patterns("corpus", "data", "__pycache__")
        )
        if package == "attnlab":
            shutil.copytree(ROOT / package / "data", folder / package / "data", ignore=shutil.ignore_patterns("corpus"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def lint(folder):
    command = [sys.executable, "-c", LINT]
    return subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True)


def test_the_layers_hold(copy):
    found = lint(copy)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize(
    "module, planted",
    [
        ("attnlab/config/trial.py", "from attnlab.sweep import engine"),
        ("attnlab/training/loop.py", "import attnlab.plan.load"),
        ("attnlab/sweep/engine.py", "from analysis.report import page"),
        ("analysis/records/load.py", "from attnlab.sweep import engine"),
        ("attnlab/training/loop.py", "import ray"),
        ("attnlab/ranking/leaderboard.py", "import torch"),
    ],
)
def test_a_local_import_upwards_is_caught(copy, module, planted):
    path = copy / module
    before = path.read_text()
    path.write_text(f"{before}\n\ndef planted():\n    {planted}\n")
    try:
        found = lint(copy)
    finally:
        path.write_text(before)
    assert found.returncode == 1 and module.replace("/", ".").removesuffix(".py") in found.stdout, found.stdout
