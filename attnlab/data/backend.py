"""The tokenizers library called on text that may be damaged: whatever it does, a UserError of one line.

It is written in Rust, where some mistakes are panics. These reach Python as `PanicException`, a BaseException, after a
page on stderr.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from attnlab.util.errors import UserError
from attnlab.util.text import first_line

PANIC = "PanicException"  # of pyo3_runtime, which is no module to import
TRIED = "Aé 1\n"
_one = threading.Lock()  # stderr is the whole process's


def is_panic(error: BaseException) -> bool:
    """Whether an exception is a panic of a library written in Rust."""
    return type(error).__name__ == PANIC


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Raise UserError, one line that begins with `what`, for whatever the library raises."""
    try:
        yield
    except BaseException as error:  # tokenizers raises bare Exception, and panics
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        raise UserError(f"{what}: {first_line(error)}") from None


def build(text: str, what: str) -> Any:
    """The `tokenizers.Tokenizer` of a tokenizer.json's text. Raises UserError, one line that begins with `what`.

    It is tried on a word, so that one that panics on any text does so here, without its page.
    """
    import tokenizers

    with refusing(what), panics_unsaid():
        built = tokenizers.Tokenizer.from_str(text)
        built.no_truncation()
        built.no_padding()
        with suppress(Exception):  # it may lack these letters, which is no panic
            built.decode(built.encode(TRIED, add_special_tokens=False).ids)
        return built


@contextmanager
def panics_unsaid() -> Iterator[None]:
    """Keep what a panic writes to the process's stderr, and give back what others write meanwhile."""
    with _one, tempfile.TemporaryFile() as kept:
        sys.stderr.flush()
        before = os.dup(2)
        os.dup2(kept.fileno(), 2)
        panic = False
        try:
            yield
        except BaseException as error:
            panic = is_panic(error)
            raise
        finally:
            os.dup2(before, 2)
            os.close(before)
            kept.seek(0)
            if not panic and (said := kept.read()):
                os.write(2, said)
