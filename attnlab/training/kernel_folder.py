"""Where kernels are kept. What lies there is unpickled and run, so it is used only if nobody else can have written it.

DIR as given    used if it belongs to this user, and neither group nor others may write to it
by default      `.attnlab-kernels` beside the results, if it carries this user's mark besides (`private.mark`);
where a folder of that name came with the results, another one, whose name nobody can tell
"""

from __future__ import annotations

import getpass
import logging
import os
import re
import tempfile
from pathlib import Path

from attnlab.records.storage import local
from attnlab.util import private
from attnlab.util.errors import UserError
from attnlab.util.files import cache_root, write_text

VARIABLE = "ATTNLAB_KERNEL_CACHE"  # names DIR where no argument does; set for the workers of a sweep
DEFAULT = ".attnlab-kernels"  # next to the results root
SWEEP_FILE = "sweep.yaml"  # of a results folder

logger = logging.getLogger(__name__)


def directory(given: str | Path | None, results: str | Path) -> Path:
    """DIR as given, else by $ATTNLAB_KERNEL_CACHE, else next to the results (in the host's cache for a URI).

    Raises:
        UserError: DIR lies in a results folder, which may come from anyone.
    """
    root = (local(results) or cache_root() / "results").resolve()
    if not (chosen := given or os.environ.get(VARIABLE)):
        return _beside(root)
    path = Path(chosen).resolve()
    if root in (path, *path.parents) or _in_a_sweep(path):
        raise UserError(f"--kernel-cache {path}: it lies in a results folder, whose files are data; give one outside")
    return path


def _beside(root: Path) -> Path:
    """The folder next to the results: in the host's cache if they lie in another sweep's."""
    if _in_a_sweep(root.parent):
        return cache_root() / "kernels"
    usual = root.parent / DEFAULT
    if not usual.exists() or private.is_marked(usual):
        return usual
    other = root.parent / f"{DEFAULT}-{(private.mark(usual) or '')[:16]}"
    logger.warning("kernel cache %s is left alone, as this user did not make it here; using %s", usual, other)
    return other


def _in_a_sweep(path: Path) -> bool:
    return any((folder / SWEEP_FILE).is_file() for folder in (path, *path.parents))


def prepare(root: Path) -> None:
    """Make DIR, for this user alone and ignored by git.

    Raises OSError if it cannot be made or written to; `private.NotPrivate` if others may have written to it.
    """
    fresh = not root.exists()
    private.make(root)
    if fresh and (mark := private.mark(root)):
        write_text(root / private.MARK, mark)
    if not (root / ".gitignore").exists():
        write_text(root / ".gitignore", "*\n")


def refusal(root: Path) -> str | None:
    """Why an existing DIR is not used, on one line; None if it may be, or is not there yet."""
    why = private.why_not(root) if root.is_dir() else None
    return why and f"kernel cache {root} is not used: {why}"


def keep_inductor_private() -> None:
    """Have Inductor keep its files in the user's cache where others may write to the folder that torch would take.

    That is one in /tmp, named after the user, which anybody may have made (torch 2.13, `default_cache_dir`).
    """
    usual = Path(tempfile.gettempdir()) / f"torchinductor_{re.sub(r'[^A-Za-z0-9._-]', '_', getpass.getuser())}"
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ or not usual.is_dir() or not private.why_not(usual):
        return
    own = cache_root() / "inductor"
    try:
        private.make(own)
    except OSError as error:
        logger.warning("%s, and %s is no better: %s", private.why_not(usual), own, error)
        return
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(own)
