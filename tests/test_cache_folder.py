"""A cache folder that is not there or cannot be written to is one line that names the variable to set."""

import os
import pwd
from pathlib import Path

import pytest

from attnlab.data.packed import pack
from attnlab.data.sources import Dataset, open_dataset
from attnlab.data.tokenizer import Spec
from attnlab.util import files
from attnlab.util.errors import UserError
from attnlab.util.files import cache_root, write_text


def test_without_a_home_folder(monkeypatch):
    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.delenv("ATTNLAB_CACHE", raising=False)
    with pytest.raises(UserError, match=r"^this user has no home folder \(HOME\): set ATTNLAB_CACHE to a folder that"):
        cache_root()
    monkeypatch.setenv("ATTNLAB_CACHE", "/somewhere")
    assert cache_root() == Path("/somewhere")


@pytest.fixture
def read_only(tmp_path, monkeypatch):
    """A cache folder in which nothing can be made."""
    root = tmp_path / "cache"
    monkeypatch.setenv("ATTNLAB_CACHE", str(root))

    def refuse(path, *args, **kwargs):
        raise PermissionError(30, "Read-only file system", str(path))

    monkeypatch.setattr(os, "mkdir", refuse)
    return root


def test_one_that_is_read_only(read_only, tmp_path):
    told = f"^{read_only}: the cache cannot be written to \\(Read-only file system\\); set ATTNLAB_CACHE to a folder"
    (tmp_path / "text.txt").write_text("a few words\n" * 400)
    with pytest.raises(UserError, match=told):
        write_text(read_only / "built" / "x.json", "{}")
    with pytest.raises(UserError, match=told):
        pack(open_dataset(Dataset(str(tmp_path / "text.txt")), read_only), Spec.parse("bytes", None))
    with pytest.raises(OSError):  # not the cache's
        write_text(tmp_path / "elsewhere" / "x.json", "{}")


def test_a_source_that_cannot_be_read_is_no_fault_of_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNLAB_CACHE", str(tmp_path))
    with pytest.raises(PermissionError), files.naming_full_disk(tmp_path / "tokens"):
        raise PermissionError(13, "Permission denied", "/data/text.txt")
