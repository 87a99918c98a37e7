"""Arrows go one way: who may import whom (see the map in the README)."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIGHT = {"config", "trial", "trees", "space", "runs", "sweepfile", "standings", "check", "store", "mirror"}
PURE = {"torch", "ray", "fla", "transformers"}


def imports(path, lazy=True):
    """Modules a file imports; with `lazy` those inside functions too."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(package):
    return sorted((ROOT / package).rglob("*.py"))


def test_only_the_engine_imports_ray():
    for path in files("attnlab") + files("analysis"):
        if path.parent.name != "sweep":
            assert not any(m.split(".")[0] == "ray" for m in imports(path)), path


def test_analysis_never_reaches_into_the_engine_nor_attnlab_into_analysis():
    for path in files("analysis"):
        assert not any(m.startswith("attnlab.sweep.") for m in imports(path)), path
    for path in files("attnlab"):
        assert not any(m.split(".")[0] == "analysis" for m in imports(path)), path


def test_config_space_and_runs_import_neither_torch_nor_ray():
    for name in LIGHT:
        assert not PURE & {m.split(".")[0] for m in imports(ROOT / "attnlab" / f"{name}.py", lazy=False)}, name


def test_what_is_below_training_knows_nothing_of_training():
    for package in ("models", "tasks", "data", "kernels"):
        for path in files(f"attnlab/{package}"):
            bad = [
                m
                for m in imports(path)
                if m.startswith(("attnlab.training.loop", "attnlab.sweep.", "attnlab.training.checkpoint"))
            ]
            assert not bad, (path, bad)
