"""One launcher at a time on a folder: who is refused, who takes over, by whose clock."""

import json
import os
import subprocess
import sys
import threading
from contextlib import ExitStack

import pytest

from attnlab.records import lock as locks
from attnlab.records.lock import LIMIT_S, Lock, Owner
from attnlab.records.lock_file import StoreFiles, lock_files
from attnlab.records.mirror import mirror
from attnlab.records.paths import SweepDir
from attnlab.sweep.folder import check_unheld
from attnlab.util.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNLAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=["folder", "store"])
def held(request, tmp_path, monkeypatch):
    """A sweep's folder, at a path and in storage without conditional writes."""
    monkeypatch.setattr("attnlab.records.lock_file.SETTLE_S", 0.01)
    return mirror(tmp_path / "results" if request.param == "folder" else f"memory:/{tmp_path}", "study")


def names(where):
    return sorted(lock_files(where).list())


def leave(where, age_s=0.0, **changes):
    """The lock of a launcher of whom nothing else is known, so old by the storage's clock."""
    owner = {**locks.asdict(Owner.me()), "token": "another", "beat": 1, **changes}
    lock_files(where).create(".launcher-000007", json.dumps(owner).encode())
    if age_s:
        path = where.folder.path / ".launcher-000007"
        os.utime(path, (path.stat().st_mtime - age_s,) * 2)


def test_a_second_launcher_is_refused_in_a_line_that_names_the_first(held):
    with Lock(held):
        with pytest.raises(UserError) as refused, Lock(held):
            pass
        (line,) = refused.value.problems
        assert line.startswith(f"{held}: this sweep is being run by process {os.getpid()} on ")
        assert names(held) == [".launcher-000001"], "the first one's is left alone"
    assert names(held) == []
    with Lock(held):
        pass


def test_a_lock_is_no_record_and_leaves_nothing(tmp_path):
    where = mirror(tmp_path / "new" / "results", "study")
    with Lock(where):
        assert SweepDir(where.folder.path).trials() == []
    assert not (tmp_path / "new").exists()


GONE = """
import os, signal, sys
from attnlab.records.lock import Lock
from attnlab.records.mirror import mirror
Lock(mirror(sys.argv[1], "study")).__enter__()
print("held", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_launchers_lock_is_taken_over_at_once(tmp_path):
    where = mirror(tmp_path / "results", "study")
    done = subprocess.run([sys.executable, "-c", GONE, str(tmp_path / "results")], capture_output=True, text=True)
    assert done.stdout == "held\n" and names(where) == [".launcher-000001"]
    with Lock(where):
        assert names(where) == [".launcher-000002"]


@pytest.mark.parametrize("changes", [{"pid": 2**22 - 1}, {"start": "1"}], ids=["gone", "another of its id"])
def test_an_owner_of_this_host_is_dead_when_its_process_is(held, changes):
    leave(held, **changes)
    with Lock(held):
        assert names(held) == [".launcher-000008"]


def test_an_owner_elsewhere_is_dead_after_the_heartbeats_limit_by_the_storages_clock(tmp_path, monkeypatch):
    monkeypatch.setattr(locks.time, "time", lambda: 0.0)  # a host whose clock is off by decades
    where = mirror(tmp_path / "results", "study")
    leave(where, host="far", place="far", since=2e9, age_s=LIMIT_S - 30)
    with pytest.raises(UserError, match=f"on far since .* last seen [39]. s ago; .* --resume goes on {LIMIT_S:.0f} s"):
        Lock(where).__enter__()
    leave(where, host="far", place="far")
    path = where.folder.path / ".launcher-000007"
    os.utime(path, (path.stat().st_mtime - LIMIT_S,) * 2)
    with Lock(where):
        assert names(where) == [".launcher-000008"]


def test_storage_that_tells_no_times_is_watched_for_a_sign(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "LIMIT_S", 0.2)
    monkeypatch.setattr(locks, "POLL_S", 0.01)
    monkeypatch.setattr("attnlab.records.lock_file.SETTLE_S", 0.01)
    where = mirror(f"memory:/{tmp_path}", "study")
    leave(where, host="far", place="far")
    files = lock_files(where)
    with Lock(where):
        assert names(where) == [".launcher-000008"]
    assert "for a sign of process" in capsys.readouterr().out
    leave(where, host="far", place="far")
    monkeypatch.setattr(locks, "LIMIT_S", 60)
    renewed = json.dumps({**locks.asdict(Owner.me()), "token": "another", "beat": 2, "place": "far"}).encode()
    threading.Timer(0.1, files.renew, (".launcher-000007", renewed)).start()
    with pytest.raises(UserError, match="is being run by"):
        Lock(where).__enter__()


def test_a_heartbeat_renews_a_lock_and_finds_that_another_took_over(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.05)
    where, lost = mirror(tmp_path / "results", "study"), []
    told = threading.Event()
    with Lock(where) as lock:
        lock.tell(lambda line: (lost.append(line), told.set()))
        path = where.folder.path / ".launcher-000001"
        os.utime(path, (0, 0))
        while path.stat().st_mtime == 0:
            pass
        path.rename(path.with_name(".launcher-000002"))
        assert told.wait(30) and lost == ["another launcher has taken this sweep over"]
        path.with_name(".launcher-000002").unlink()


@pytest.mark.parametrize("dead", [False, True], ids=["a new folder", "a dead owner"])
def test_of_many_at_once_never_two_hold_it(held, dead):
    if dead:
        leave(held, pid=2**22 - 1)
    start, inside, most = threading.Barrier(6), [], []

    def run():
        start.wait()
        for _ in range(5):
            try:
                with Lock(held):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
            except UserError:
                continue

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}, "at least one, never two"
    assert names(held) == []


def test_half_a_lock_is_given_time(tmp_path):
    held = mirror(tmp_path / "results", "study")
    lock_files(held).create(".launcher-000001", b"{")
    with pytest.raises(UserError, match="another launcher is starting on this sweep"):
        Lock(held).__enter__()


ODD = {
    "a folder": lambda path: path.mkdir(),
    "a link": lambda path: path.symlink_to("nowhere"),
    "a special file": os.mkfifo,
}


@pytest.mark.parametrize("what", ODD)
def test_what_no_launcher_has_made_is_one_line(tmp_path, what, monkeypatch, capsys):
    held = mirror(tmp_path / "results", "study")
    path = held.folder.path / ".launcher-000001"
    path.parent.mkdir(parents=True)
    ODD[what](path)
    for hold in (lambda: Lock(held).__enter__(), lambda: Lock(held).check(), lambda: check_unheld(held)):
        with pytest.raises(UserError) as refused:
            hold()
        assert refused.value.problems == [f"{path}: {what}, where launchers keep a file; remove it"]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name], "it is left alone"
    (path.unlink if what != "a folder" else path.rmdir)()
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.01)
    with Lock(held) as lock:  # it comes while a launcher runs
        ODD[what](path.with_name(".launcher-000009"))
        while "where launchers keep a file" not in capsys.readouterr().out:
            assert lock._thread.is_alive()


WRONG = {"place": 5, "host": None, "start": 1, "token": [], "pid": "1", "since": "x"}
LOST = {**{key: {key: value} for key, value in WRONG.items()}, "late": {"since": 1e300}, "nan": {"since": float("nan")}}


@pytest.mark.parametrize("how", [*LOST, "nested"])
def test_a_lock_with_wrong_values_is_given_time_and_then_taken_over(tmp_path, how):
    held = mirror(tmp_path / "results", "study")
    leave(held, **{"place": "elsewhere", **LOST.get(how, {})})
    path = held.folder.path / ".launcher-000007"
    if how == "nested":
        path.write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"another launcher is starting on this sweep \(\.launcher-000007\)"):
        Lock(held).check()
    os.utime(path, (path.stat().st_mtime - LIMIT_S,) * 2)
    with Lock(held):
        assert names(held) == [".launcher-000008"]


def test_an_owners_name_is_one_line_without_control_characters(tmp_path):
    held = mirror(tmp_path / "results", "study")
    leave(held, place="elsewhere", host="a\n\x1b[31mb")
    with pytest.raises(UserError) as refused:
        Lock(held).check()
    assert str(refused.value).isprintable() and " on a " in str(refused.value)


def test_numbers_of_locks_do_not_end(held):
    lock_files(held).create(
        ".launcher-999999", json.dumps({**locks.asdict(Owner.me()), "start": "1", "beat": 1}).encode()
    )
    with Lock(held), pytest.raises(UserError, match="is being run by process"):
        assert names(held) == [".launcher-1000000"]
        Lock(held).check()
    assert names(held) == []


def test_on_s3_a_lock_is_made_by_a_conditional_write(s3, capsys):
    where = mirror(s3, "study")
    assert isinstance(lock_files(where), StoreFiles)
    with Lock(where):
        assert lock_files(where).create(".launcher-000001", b"x") is False
        with pytest.raises(UserError, match="this sweep is being run by process"):
            Lock(where).__enter__()
        where.pull()
        assert not list(where.folder.path.rglob(".launcher*")), "it is no record"
    assert names(where) == [] and "no conditional writes" not in capsys.readouterr().out


def test_without_boto3_s3_is_written_waited_for_and_read_back(s3, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.setattr("attnlab.records.lock_file.SETTLE_S", 0.01)
    where = mirror(s3, "study")
    with ExitStack() as stack:
        stack.enter_context(Lock(where))
        with pytest.raises(UserError, match="this sweep is being run by process"):
            stack.enter_context(Lock(where))
    assert "no conditional writes are known here" in capsys.readouterr().out
