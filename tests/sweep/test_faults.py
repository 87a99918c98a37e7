"""What breaks, and that nothing is waited for in vain."""

from attnlab.sweep.mailbox import STARTS
from tests.sweep.test_engine import nothing_left

NO_TRAINING = """
import sys


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "attnlab.train":
            raise ImportError("this host lacks a library")


if any("default_worker" in part for part in sys.orig_argv):  # a process of Ray's
    sys.meta_path.insert(0, Finder())
"""


def test_workers_that_cannot_start_end_the_sweep_with_the_reason(write_sweep, launch, folder, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(NO_TRAINING)
    done = launch(write_sweep(), ATTNLAB_TEST=str(tmp_path), PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: a slot failed: its workers failed to start")
    assert f"{STARTS} times in a row: ImportError: this host lacks a library" in last and "--resume goes on" in last
    assert (folder / "leaderboard.json").exists()
    nothing_left(str(tmp_path))
