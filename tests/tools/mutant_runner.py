"""Run tests once per mutant, each time in a process forked after all imports and pytest's collection.

A mutated function is put in place by its code object, so whatever holds the function runs the mutant. A mutant outside
of functions (a constant, a default) is imported anew, in a process that has imported only other packages so far. By
either way each module is first run unchanged. If that dies, the way itself kills, and no mutant is judged by it.
"""

from __future__ import annotations

import gc
import importlib.abc
import importlib.util
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

from tests.tools.mutation import Mutant, unchanged

SLOW = ("numpy", "pydantic", "scipy.stats", "optuna", "statsmodels.api", "torch", "fla", "transformers", "ray.tune")
OWN = ("attnlab", "analysis", "tests", "launch")
MORE_MEMORY = 6 << 30  # bytes that a mutant may take on top
FAST_S = 2.0  # of processor; tests that take longer are left out where there are quicker ones
CPU_S, LONGEST_S = 10, 3600  # of processor a mutant may take beyond ten times what the tests take; of time in any case
KILLED, ALIVE, TIMEOUT, UNTESTED = "killed", "alive", "timeout", "untested"
UNJUDGED = "not judged"  # the module dies unchanged too
DEAD = (KILLED, TIMEOUT)

Key = tuple[str, str, int]  # file, function, its first line
Say = Callable[[Mutant, str], None]


@dataclass
class Batch:
    """Modules whose tests run in one process, and their mutants."""

    root: Path
    tests: Mapping[str, list[str]]  # module -> its test files
    mutants: list[Mutant]
    left_out: list[str]  # beginnings of the ids of tests that take long

    @property
    def files(self) -> list[str]:
        """All test files, each once."""
        return list(dict.fromkeys(file for files in self.tests.values() for file in files))


def run(batch: Batch, say: Say) -> None:
    """Tell every mutant's verdict. Raises RuntimeError where the tests fail without one."""
    with tempfile.TemporaryDirectory() as name:
        notes, log = Path(name) / "notes.json", Path(name) / "log.txt"
        _forked(lambda: _pytest(batch.files, batch.left_out, _Loop(batch, notes, say)), log=log)
        if not notes.exists():
            raise RuntimeError(f"the tests fail without a mutant\n{log.read_text(encoding='utf-8')[-3000:]}")
        found = json.loads(notes.read_text(encoding="utf-8"))
    for package in found["imported"]:
        __import__(package)
    left = [mutant for mutant in batch.mutants if [mutant.module, mutant.name] in found["left"]]
    _judge(batch, left, say, lambda m: _forked(lambda: _imported_anew(batch, m), found["cpu_s"]))


def _judge(batch: Batch, mutants: list[Mutant], say: Say, verdict_of: Callable[[Mutant], str]) -> None:
    """Tell mutants' verdicts. Those of a module whose unchanged source dies in the same way are not judged."""
    modules = dict.fromkeys(mutant.module for mutant in mutants)
    void = {module for module in modules if verdict_of(unchanged(module, batch.root)) in DEAD}
    for mutant in mutants:
        say(mutant, UNJUDGED if mutant.module in void else verdict_of(mutant))


def _pytest(files: list[str], left_out: list[str], *plugins: Any) -> int:
    # What a plugin of pytest brings may be imported already: it is not rewritten then, which is no fault of a mutant.
    calm = ["-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"]
    options = ["-q", "-x", "-p", "no:cacheprovider", "-n0", *calm, *(f"--deselect={each}" for each in left_out)]
    return int(pytest.main([*options, *files], plugins=[_Unshrunk(), *plugins]))


class _Unshrunk:
    """Has hypothesis draw what it always draws, and no more once a test has failed."""

    def pytest_sessionstart(self) -> None:
        from hypothesis import HealthCheck, Phase, settings  # once pytest has seen to it

        quick = {"phases": (Phase.explicit, Phase.generate), "suppress_health_check": list(HealthCheck)}
        settings.register_profile("mutants", deadline=None, derandomize=True, database=None, **quick)
        settings.load_profile("mutants")


def _imported_anew(batch: Batch, mutant: Mutant) -> int:
    sys.meta_path.insert(0, _Finder(batch.root, mutant))
    return _pytest(batch.tests[mutant.module], batch.left_out)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports the mutant in its module's place."""

    def __init__(self, root: Path, mutant: Mutant):
        self.path, self.mutant = root / mutant.module, mutant
        self.name = mutant.module.removesuffix(".py").replace("/", ".").removesuffix(".__init__")

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> Any:
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)

    def get_source(self, fullname: str) -> str:
        return self.mutant.source


class _Loop:
    """Takes the place of pytest's loop: a process per mutant runs the tests that reach it, the quickest first."""

    def __init__(self, batch: Batch, notes: Path, say: Say):
        self.batch, self.notes, self.say = batch, notes, say
        self.files = {str(batch.root / module) for module in batch.tests}
        self.call_s = 0.0  # of processor that the last test took, without what it needed first

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Any:
        began = time.process_time()
        try:
            return (yield)
        finally:
            self.call_s = time.process_time() - began

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        reached, log = (self.notes.with_name(name) for name in ("reached.json", "log.txt"))
        if session.testsfailed or _forked(lambda: self._traced(session, reached), log=log) != ALIVE:
            return True  # without notes
        traced = json.loads(reached.read_text(encoding="utf-8"))
        for name in traced["imported"]:
            with suppress(Exception):  # imported in the midst of a test, perhaps under conditions of its own
                __import__(name)
        functions, items = self._functions(), {item.nodeid: item for item in session.items}
        gc.collect()
        gc.freeze()
        cpu_s = CPU_S + 10 * traced["cpu_s"]

        def verdict_of(mutant: Mutant) -> str:
            pairs = [(_key(before), after) for before, after in mutant.changed if functions.get(_key(before))]
            files = tuple(self.batch.tests[mutant.module])
            ran = sorted((s, i) for i, (s, keys) in traced["tests"].items()
                         if i.startswith(files) and any(list(key) in keys for key, _ in pairs))  # fmt: skip
            chosen = [items[i] for s, i in ran if s <= max(FAST_S, ran[0][0])]
            return _forked(lambda: _mutated(session, functions, pairs, chosen), cpu_s) if chosen else UNTESTED

        here, left = list[Mutant](), list[tuple[str, str]]()
        for mutant in self.batch.mutants:
            live = mutant.changed and all(functions.get(_key(before)) for before, _ in mutant.changed)
            here.append(mutant) if live else left.append((mutant.module, mutant.name))
        _judge(self.batch, here, self.say, verdict_of)
        imported = [name for name in SLOW if name in sys.modules]
        self.notes.write_text(json.dumps({"left": left, "cpu_s": cpu_s, "imported": imported}), encoding="utf-8")
        return True

    def _functions(self) -> dict[Key, list[FunctionType]]:
        """The modules' live functions."""
        found: dict[Key, list[FunctionType]] = {}
        for each in gc.get_objects():
            if type(each) is FunctionType and each.__code__.co_filename in self.files:
                found.setdefault(_key(each.__code__), []).append(each)
        return found

    def _traced(self, session: pytest.Session, reached: Path) -> int:
        """Run all tests as they are. Notes of each its seconds and the modules' functions that it runs."""
        tests, ran, before = {}, set[Key](), set(sys.modules)

        def note(frame: Any, event: str, arg: Any) -> None:
            if event == "call" and frame.f_code.co_filename in self.files:
                ran.add(_key(frame.f_code))

        for item, following in zip(session.items, [*session.items[1:], None], strict=True):
            ran.clear()
            sys.setprofile(note)
            threading.setprofile(note)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            sys.setprofile(None)
            tests[item.nodeid] = self.call_s, sorted(ran)
            if session.testsfailed:
                print(f"\nfailed: {item.nodeid}")
                return 1
        imported = [name for name, module in sys.modules.items() if name not in before and hasattr(module, "__file__")]
        facts = {"tests": tests, "imported": imported, "cpu_s": time.process_time()}
        reached.write_text(json.dumps(facts), encoding="utf-8")
        return 0


def _mutated(session: pytest.Session, functions: Mapping[Key, Any], pairs: list[Any], items: list[Any]) -> int:
    for key, code in pairs:
        for function in functions[key]:
            function.__code__ = code
    for item, following in zip(items, [*items[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return 1
    return 0


def _key(code: Any) -> Key:
    return code.co_filename, code.co_name, code.co_firstlineno


def _forked(act: Callable[[], int], cpu_s: float = 0.0, log: Path = Path(os.devnull)) -> str:
    """Do it in a process of its own, which prints to `log` and has a folder of its own for temporary files."""
    folder = tempfile.mkdtemp(prefix="mutant-")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _set_apart(folder, log, cpu_s)
            code = act()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1 if code else 0)
    ended, end = (0, 0), time.monotonic() + (LONGEST_S if cpu_s else 24 * LONGEST_S)
    try:
        while not (ended := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < end:
            time.sleep(0.005)
    finally:
        if not ended[0]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        shutil.rmtree(folder, ignore_errors=True)
    if not ended[0] or (os.WIFSIGNALED(ended[1]) and os.WTERMSIG(ended[1]) in (signal.SIGXCPU, signal.SIGKILL)):
        return TIMEOUT
    return KILLED if ended[1] else ALIVE


def _set_apart(folder: str, log: Path, cpu_s: float) -> None:
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(out, stream)
    os.environ["PYTEST_DEBUG_TEMPROOT"] = os.environ["TMPDIR"] = folder
    tempfile.tempdir = None
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + MORE_MEMORY)
    if cpu_s:
        _limit(resource.RLIMIT_CPU, int(cpu_s) + 1)


def _limit(kind: int, value: int) -> None:
    most = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if most == resource.RLIM_INFINITY else min(value, most), most))
