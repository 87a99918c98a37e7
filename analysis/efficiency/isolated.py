"""Measurements in processes of their own, so that each one's peak memory is its own.

multiprocessing's fork server imports everything once and is forked for every case. So a case costs no imports, and what
the imports hold is in its memory before it begins. The server runs no operator itself: threads do not survive a fork.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from typing import Any

from analysis.efficiency import measurement
from attnlab.util import trust

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["analysis.efficiency.measurement", "fla.layers"])


def start() -> None:
    """Start the server; return when everything is imported, so that no case waits for it."""
    first = CONTEXT.Process(target=os.getpid, daemon=True)
    first.start()
    first.join()


def measure(case: measurement.Case, workload: str) -> dict[str, Any]:
    """As `measurement.run`, in its own process; `error` if the system ends that."""
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_answer, args=(case, workload, sender, trust.named()), daemon=True)
    try:
        process.start()
        sender.close()  # so that the pipe ends with the process
        return receiver.recv()
    except EOFError:
        process.join()
        number = -(process.exitcode or 0)  # of the signal, if there was one
        why = "out of memory" if number == signal.SIGKILL else signal.strsignal(number) if number > 0 else "it exited"
        return {"error": f"the process was ended by the system: {why}"}
    except OSError as error:
        return {"error": f"the measuring process could not be started: {error}"}
    finally:
        receiver.close()
        sender.close()


def _answer(case: measurement.Case, workload: str, sender: Connection, trusted: list[str]) -> None:
    """Measure in the forked process, with stdout on stderr: a mixer's prints are no output."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C: the parent reports it
    os.dup2(2, 1)
    trust.name(trusted)  # the fork server knows of none
    sender.send(measurement.run(case, workload))
