"""Ray's GCS, without which the launcher cannot go on: its death told in one line, with the command that resumes.

Every call of Ray's then waits for it, and after a minute Ray's C++ ends the process with a text of its own.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from attnlab.util.command import again

POLL_S = 1.0
LOCAL_S = 5.0  # without an answer of one that was started here, which nobody starts again
CLUSTER_S = 40.0  # of a cluster's, which may come back: Ray itself gives it 60 s


@contextmanager
def gcs_watched(own_process: bool, local: bool) -> Iterator[None]:
    """While it is open, end this process soon after the GCS has gone.

    `own_process`: it runs the command line. `local`: the Ray was started here.
    """
    import ray  # once it is up

    over = threading.Event()
    how = (ray.get_runtime_context().gcs_address, own_process, LOCAL_S if local else CLUSTER_S, over)
    thread = threading.Thread(target=_watch, args=how, name="gcs", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(address: str, own_process: bool, patience_s: float, over: threading.Event) -> None:
    missed_s = 0.0
    while not over.wait(POLL_S):
        missed_s = 0.0 if answers(address) else missed_s + POLL_S
        if missed_s >= patience_s and not over.is_set():
            how = f"go on with: {again()}" if own_process else "run it again with resume=True"
            line = f"error: Ray's GCS at {address} is gone, and with it this Ray; what ended is kept: {how}\n"
            cursor = "\x1b[?25h" if sys.stdout.isatty() else ""  # a live table hides it
            os.write(2, f"{cursor}{line}".encode())
            os._exit(1)  # an orderly end would wait for the GCS; everything that was started here ends with it


def answers(address: str) -> bool:
    """Whether something listens at an address."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), 5.0).close()
    except (OSError, ValueError):
        return False
    return True
