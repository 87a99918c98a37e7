"""Measurements in processes of their own, so that each one's peak memory is its own.

    python -m analysis.efficiency.isolated    reads a JSON case per line of stdin; answers with a line of stdout each

A server imports everything once and is forked for every case: so a case costs no imports, and what the imports hold is
in its memory before it begins. The server runs no operator itself, because threads do not survive a fork.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any, NoReturn, TextIO

from analysis.efficiency import measurement


class Server:
    """Starts by itself with the first case; a context manager, which ends it.

    A case that the system kills costs its `error`; a server that cannot be started is every case's error.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.terminate()
            with suppress(OSError):
                self._process.communicate()

    def start(self) -> None:
        """Returns when everything is imported, so that no case waits for it."""
        self._ask("")

    def measure(self, case: measurement.Case, part: str) -> dict[str, Any]:
        """As `analysis.efficiency.measurement.run`."""
        told = self._ask(json.dumps({"case": case.tree(), "part": part}))
        return json.loads(told) if told else {"error": "the measuring process could not be started or was ended"}

    def _ask(self, text: str) -> str:
        if self._process is None or self._process.poll() is not None:
            # a mixer of the user's lies where this process looks for it
            path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "analysis.efficiency.isolated"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env={**os.environ, "PYTHONPATH": path},
            )  # fmt: skip
        try:
            print(text, file=self._process.stdin, flush=True)
            return self._process.stdout.readline()  # type: ignore[union-attr]
        except OSError:
            return ""


def serve(lines: TextIO, answers: TextIO) -> None:
    """Fork for every line until there is no more; an empty line is answered with one."""
    for text in lines:
        if not text.strip():
            print(file=answers, flush=True)
            continue
        if (child := os.fork()) == 0:
            _answer(text, answers)
        _, status = os.waitpid(child, 0)
        if status:
            number = os.WTERMSIG(status)
            why = "out of memory" if number == signal.SIGKILL else signal.strsignal(number) if number else "it exited"
            print(json.dumps({"error": f"the process was ended by the system: {why}"}), file=answers, flush=True)


def _answer(text: str, answers: TextIO) -> NoReturn:
    """One case, in the forked process, which ends past everything that the server would do at its end."""
    try:
        asked = json.loads(text)
        found = measurement.run(measurement.Case.of(asked["case"]), asked["part"])
        print(json.dumps(found), file=answers, flush=True)
        os._exit(0)
    except Exception as error:
        print(json.dumps({"error": measurement.line(error)}), file=answers, flush=True)
        os._exit(0)
    finally:
        os._exit(1)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a mixer may print is no answer
    for module in (
        "attnlab.training.loop",
        "attnlab.models.fused",
        "fla.layers",
    ):  # all that a case needs, which brings torch
        importlib.import_module(module)
    with suppress(KeyboardInterrupt):  # the parent tells of it
        serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
