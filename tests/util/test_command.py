"""A command ends at once at Ctrl-C from its first import on, and in silence where its reader has read enough."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attnlab.sweep.ui import interrupt
from attnlab.sweep.ui.interrupt import Interrupts
from attnlab.util import command
from attnlab.util.errors import Interrupted

ROOT = Path(__file__).parents[2]


def launch(*words, **how):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "launch.py", *words], cwd=ROOT, text=True, **{**pipes, **how})


def test_a_list_whose_reader_has_read_enough_ends_in_silence():
    with launch("--list") as process:
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() == command.CLOSED_PIPE


WAITS = """
import runpy, sys
sys.path.insert(0, {root!r})
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:  # its import is where the signal comes, and swallows what is raised
            print("here", flush=True)
            try:
                while True:
                    pass
            except BaseException:
                pass
sys.meta_path.insert(0, Slow())
{start}
"""
STARTS = {  # a command -> what starts it, and what it imports
    "launch.py": ("runpy.run_path(sys.path[0] + '/launch.py', run_name='__main__')", "attnlab.plan"),
    "analysis": ("runpy.run_module('analysis', run_name='__main__', alter_sys=True)", "analysis.records"),
}


@pytest.mark.parametrize("name", STARTS)
def test_ctrl_c_while_it_is_imported_ends_it_at_once(name):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    code = WAITS.format(root=str(ROOT), start=STARTS[name][0], name=STARTS[name][1])
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as process:
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130 and process.stderr.read() == ""


def test_ctrl_c_in_an_orderly_command_is_raised_in_it():
    old = signal.signal(signal.SIGINT, command.leave)
    closed = []

    def main():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            closed.append(True)

    try:
        assert command.run(main, orderly=True) == command.CTRL_C and closed
    finally:
        signal.signal(signal.SIGINT, old)


def test_until_ray_is_up_a_signal_ends_a_process_of_the_sweeps_own_at_once(monkeypatch):
    def left(signum):
        raise SystemExit(128 + signum)

    monkeypatch.setattr(interrupt.command, "leave", left)
    for own, before, after in ((True, SystemExit, Interrupted), (False, Interrupted, Interrupted)):
        for up, raised in ((False, before), (True, after)):
            with Interrupts(own) as interrupts:
                if up:
                    interrupts.handle()
                with pytest.raises(raised):
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(5)


def descendants(pid):
    """Processes of a process, by their parents in /proc."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found = {pid}
    while new := {child for child, parent in parents.items() if parent in found} - found:
        found |= new
    return found - {pid}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="by /proc")
def test_ctrl_c_while_ray_starts_ends_the_command_and_all_that_it_started(tmp_path):
    with launch("sweeps/quickstart.yaml", "--scale", "tiny", "--results", str(tmp_path / "results")) as process:
        while not (started := descendants(process.pid)):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == interrupt.EARLY.decode() and not (tmp_path / "results").exists()
        end = time.monotonic() + 60
        while any(Path(f"/proc/{pid}").exists() for pid in started):
            assert time.monotonic() < end, "left behind"
            time.sleep(0.1)
