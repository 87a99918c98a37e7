"""The digests of a folder's files, kept beside them, so that a bit that flips later shows.

They are no proof of who wrote the files: who changes a file can write its digest too.
"""

from __future__ import annotations

import os
from pathlib import Path

from attnlab.util.errors import UserError
from attnlab.util.files import file_digest, json_digest, read_json, write_json

NAME = "digests.json"  # {"files": {name: SHA-256}, "digest": of these}


def sign(folder: Path) -> None:
    """Keep the digests of every file that lies in a folder."""
    files = {file.name: file_digest(file) for file in sorted(folder.iterdir()) if file.is_file() and file.name != NAME}
    write_json(folder / NAME, {"files": files, "digest": json_digest(files)})


def unsign(folder: Path) -> None:
    """Forget the digests of a folder that is written anew."""
    (folder / NAME).unlink(missing_ok=True)


def check(folder: Path) -> None:
    """Raise UserError naming a file that is not as it was signed. Folders without digests pass, as older ones are.

    A file that is missing is left to whoever reads it.
    """
    kept = folder / NAME
    if not os.path.lexists(kept):
        return
    try:
        tree = read_json(kept)
        files, digest = dict(tree["files"]), tree["digest"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        files, digest = {}, None
    if json_digest(files) != digest:
        raise UserError(f"{kept}: damaged; it kept the digests of the files beside it")
    for name, signed in files.items():
        file = folder / Path(name).name
        if file.is_file() and file_digest(file) != signed:
            raise UserError(f"{file}: damaged, its content was changed since it was exported")
