"""Text files are written and read as UTF-8, whatever the locale."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OTHERS = {"os.open", "Store.open", "crash_log.open"}  # no text files


@pytest.mark.parametrize("package", ["attnlab", "analysis"])
def test_every_text_file_is_opened_with_an_encoding(package):
    """Ruff's PLW1514 knows the type of some paths only."""
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _opens_text(node) and "encoding" not in {k.arg for k in node.keywords}:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    assert not found


def _opens_text(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    if name in OTHERS:
        return False
    if name.endswith(".read_text"):
        return not call.args
    if name.endswith(".write_text"):  # `files.write_text(path, text)` is UTF-8 always
        return len(call.args) == 1
    modes = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    return (name == "open" or name.endswith(".open")) and not any("b" in mode and len(mode) < 4 for mode in modes)
