"""Caches are unpickled and run: one that anyone else may have written to is left alone, with a line."""

import os

import pytest
import torch

from attnlab.training import kernel_cache, kernel_folder
from attnlab.util.errors import UserError

PICKLE = b"cos\nsystem\n(S'touch ran'\ntR."
GPU = "NVIDIA H100 80GB HBM3"


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch, tmp_path):
    """As far as `use` can tell; the user's cache is in `own`."""
    monkeypatch.setattr(kernel_cache, "_used", None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: GPU)
    monkeypatch.setenv("ATTNLAB_CACHE", str(tmp_path / "own"))
    for name in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", kernel_cache.VARIABLE):
        monkeypatch.setenv(name, "elsewhere")  # so that it is as before afterwards
        monkeypatch.delenv(name)
    monkeypatch.setattr(kernel_folder.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))


@pytest.mark.parametrize("how", ["planted", "group", "world", "foreign", "inner"])
def test_a_cache_that_others_may_have_written_to_is_left_alone_with_a_line(tmp_path, monkeypatch, caplog, how):
    root = tmp_path / ".attnlab-kernels"
    folder = root / kernel_cache.folder_name(GPU) / "inductor"
    folder.mkdir(parents=True)
    (folder / "planted").write_bytes(PICKLE)
    for path in (root, folder.parent, folder):
        path.chmod(0o700)
    if how == "foreign":
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    elif how != "planted":
        (folder if how == "inner" else root).chmod({"group": 0o770, "world": 0o703, "inner": 0o777}[how])
    chosen = kernel_cache.directory(None if how == "planted" else root, tmp_path / "results")
    cache = kernel_cache.use(chosen, "cuda")
    assert (folder / "planted").read_bytes() == PICKLE
    assert str(root) in caplog.text and len(caplog.records) == 1
    if how == "planted":  # with the results: this user's now, and 0700
        assert cache is not None and root not in cache.folder.parents and chosen.parent == tmp_path
        assert kernel_cache.directory(None, tmp_path / "results") == chosen, "as the next process finds it"
        return
    assert cache is None and "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    assert how == "inner" or f"kernel cache {root} is not used: " in kernel_folder.refusal(root)
    assert how == "inner" or not (root / ".gitignore").exists()


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077])
def test_a_cache_is_made_for_this_user_alone_and_used_again(tmp_path, umask, caplog):
    before = os.umask(umask)
    try:
        made = kernel_cache.use(kernel_cache.directory(None, tmp_path / "results"), "cuda")
    finally:
        os.umask(before)
    assert made.folder.parent == tmp_path / ".attnlab-kernels"
    for path in (made.folder.parent, made.folder, *made.folder.iterdir()):
        assert path.stat().st_mode & 0o777 == 0o700
    assert kernel_cache.directory(None, tmp_path / "results") == made.folder.parent and not caplog.records
    assert (tmp_path / "own/folders.key").stat().st_mode & 0o777 == 0o600
    assert kernel_folder.refusal(made.folder.parent) is None


def test_a_cache_inside_results_is_never_used(tmp_path):
    (tmp_path / "shared/sweep").mkdir(parents=True)
    (tmp_path / "shared/sweep/sweep.yaml").write_text("")
    for given in ("results", "results/sweep/kernels", "shared/sweep/kernels"):
        with pytest.raises(UserError, match="it lies in a results folder"):
            kernel_cache.directory(tmp_path / given, tmp_path / "results")
    found = kernel_cache.directory(None, tmp_path / "shared/sweep/results")
    assert found == tmp_path / "own/kernels", "beside these results is inside the others"


def test_what_the_user_set_for_triton_or_inductor_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
    cache = kernel_cache.use(tmp_path / "kernels", "cuda")
    assert os.environ["TRITON_CACHE_DIR"] == "/mine"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(cache.folder / "inductor")


def test_what_a_parent_process_set_gives_way(tmp_path, monkeypatch):
    kernel_cache.use(tmp_path / "a", "cuda")
    monkeypatch.setattr(kernel_cache, "_used", None)  # another process of the same environment
    other = kernel_cache.use(tmp_path / "b", "cuda")
    assert os.environ["TRITON_CACHE_DIR"] == str(other.folder / "triton")


def test_inductors_own_folder_in_tmp_is_not_used_if_others_may_write_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_folder.getpass, "getuser", lambda: "me")
    usual = tmp_path / "tmp/torchinductor_me"
    usual.mkdir(0o700, parents=True)
    kernel_folder.keep_inductor_private()
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    usual.chmod(0o777)
    kernel_folder.keep_inductor_private()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "own/inductor")
