"""Text files are written and read as UTF-8, whatever the locale."""

import ast
import os
import subprocess
import sys
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


IN_LATIN_1 = """
import locale, sys
from pathlib import Path
from attnlab.config.trial import Trial
from attnlab.records.paths import TrialDir
from attnlab.records.results import Job
from attnlab.training.loop import rehearse
from attnlab.util.command import run

assert locale.getencoding() == "ISO-8859-1"
task = {{"name": "text", "dataset": {text!r}, "seq_len": 16, "vocab_size": 300, "eval_tokens": 64}}
trial = {{"model": {{"d_model": 16, "n_heads": 2}}, "task": task}}
rehearse(Job.make("arm", 0, Trial.model_validate(trial)), TrialDir(Path({scratch!r})))
run(lambda: print(chr(0x2264), "done") or 0)
"""


@pytest.mark.slow
def test_in_a_latin_1_locale_a_trial_comes_to_its_end_and_is_told(tmp_path, cache):
    """A tokenizer's file and a task's text have letters that this encoding lacks."""
    name = "en_US.ISO-8859-1"
    made = subprocess.run(["localedef", "-i", "en_US", "-f", "ISO-8859-1", tmp_path / name], capture_output=True)
    if made.returncode:
        pytest.skip("no such locale can be made here")
    (tmp_path / "text.txt").write_text("\u201cNo\u201d, she said \u2014 \u03c0 \u2264 4.\n\n" * 200, encoding="utf-8")
    code = IN_LATIN_1.format(text=str(tmp_path / "text.txt"), scratch=str(tmp_path / "scratch"))
    env = {
        **os.environ,
        "LOCPATH": str(tmp_path),
        "LC_ALL": name,
        "LANG": name,
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "",
    }
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr.decode("latin-1")
    assert done.stdout.endswith(b"\\u2264 done\n")
