"""A disk that is full, or records that cannot be written: the sweep ends with one line, and is resumed to its end."""

import os
import subprocess

import pytest

import launch as command
from attnlab.records.paths import SweepDir
from attnlab.records.reading import read_reports
from attnlab.sweep.search.journal import repair_journal
from attnlab.sweep.trials import resumable
from attnlab.util.errors import DiskFull, SweepStopped
from attnlab.util.files import naming_full_disk, write_json
from tests.sweep.conftest import finish, nothing_left, wait_until
from tests.sweep.test_faults import SEARCH, begun, undisturbed

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 24 MiB where `launch` puts its results; yields a way to fill it, and one to make room again."""
    disk = tmp_path / "results"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mount.stderr.strip()}")
    ballast = disk / "ballast"

    def fill():
        with ballast.open("ab", buffering=0) as file:
            for size in (2**20, 4096):
                try:
                    while True:
                        file.write(b"\0" * size)
                except OSError:
                    continue

    yield fill, ballast.unlink
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_the_sweep_whole_and_it_is_resumed(write_sweep, launch, folder, tmp_path, slow, small_disk):
    fill, make_room = small_disk
    path = write_sweep(trial=slow, search=SEARCH)
    process = launch(path, ATTNLAB_TEST=str(tmp_path), wait=False)
    wait_until(lambda: begun(folder) and list(folder.glob("*/*/checkpoints/step_*")))
    fill()
    done = finish(process)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and "No space left on device" in lines[0] and str(folder) in lines[0], done.stderr
    assert lines[0].startswith("error: ") and lines[0].endswith("what ended is kept, and --resume goes on")
    nothing_left(str(tmp_path))
    assert SweepDir(folder).results() == [], "no trial is failed for it"
    for trial in SweepDir(folder).trials():
        steps = [int(path.name.removeprefix("step_")) for path in trial.path.glob("checkpoints/step_*")]
        assert {row["step"] for row in read_reports(trial.metrics_file).rows} >= set(steps), "what was reported"
        assert not list(trial.path.glob("checkpoints/.*")), "half a checkpoint was left"
        assert all((step / "state.json").exists() for step in trial.path.glob("checkpoints/step_*"))
    make_room()
    done = launch(path, "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    undisturbed(folder, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optuna.journal", "leaderboard.json"])
def test_records_that_cannot_be_written_end_the_sweep_and_it_is_resumed(
    write_sweep, launch, folder, tmp_path, slow, name
):
    path = write_sweep(trial=slow, search={**SEARCH, "space": {"optim.lr": {"choice": [0.01, 0.02]}}, "trials": 2})
    process = launch(path, ATTNLAB_TEST=str(tmp_path), wait=False)
    wait_until(lambda: begun(folder))
    file, kept = folder / name, tmp_path / "kept"
    if file.exists():
        os.replace(file, kept)
    file.mkdir()
    done = finish(process)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"error: Is a directory: {file}; what ended is kept, and --resume goes on" in done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    nothing_left(str(tmp_path))
    file.rmdir()
    if kept.exists():
        os.replace(kept, file)
    done = launch(path, "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    undisturbed(folder, tmp_path, 4)


def test_only_a_full_disk_is_no_room(tmp_path):
    with pytest.raises(DiskFull, match=r"No space left on device: '.*/a'"), naming_full_disk(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    with pytest.raises(PermissionError), naming_full_disk(tmp_path / "a"):
        raise PermissionError(13, "Permission denied")


def test_what_ends_a_sweep_is_one_line_with_the_file():
    with pytest.raises(SweepStopped, match="^Is a directory: /x/y; what ended is kept"), resumable([]):
        try:
            raise IsADirectoryError(21, "Is a directory", "/x/y")
        except OSError as error:
            raise RuntimeError("somewhere in Tune") from error
    with pytest.raises(SweepStopped, match="^the pool of slots died; "), resumable(["the pool of slots died"]):
        raise RuntimeError("a consequence")
    with pytest.raises(ZeroDivisionError), resumable([]):
        raise ZeroDivisionError  # a mistake of attnlab's own is shown whole
    with pytest.raises(KeyboardInterrupt), resumable(["said before"]):
        raise KeyboardInterrupt


def test_a_journal_cut_short_in_a_line_is_mended(tmp_path):
    journal = tmp_path / "optuna.journal"
    repair_journal(journal)
    assert not journal.exists()
    for text, left in (('{"a":1}\n{"b":2}\n', '{"a":1}\n{"b":2}\n'), ('{"a":1}\n{"b', '{"a":1}\n'), ('{"a', "")):
        journal.write_text(text)
        repair_journal(journal)
        assert journal.read_text() == left


def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path, monkeypatch):
    file = tmp_path / "leaderboard.json"
    write_json(file, {"a": 1})

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match="leaderboard.json"):
        write_json(file, {"a": 2})
    assert file.read_text() == '{\n "a": 1\n}\n' and list(tmp_path.iterdir()) == [file]


@pytest.mark.slow
def test_a_disk_that_becomes_read_only_ends_the_sweep_in_one_line_and_it_is_resumed(
    write_sweep, launch, folder, tmp_path, slow, small_disk
):
    path = write_sweep(trial=slow, search=SEARCH)
    process = launch(path, ATTNLAB_TEST=str(tmp_path), wait=False)
    wait_until(lambda: begun(folder))
    subprocess.run(["mount", "-o", "remount,ro", folder.parent], check=True)
    done = finish(process)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and "Read-only file system" in line and str(folder) in line, done.stderr
    nothing_left(str(tmp_path))
    subprocess.run(["mount", "-o", "remount,rw", folder.parent], check=True)
    assert launch(path, "--resume").returncode == 0
    undisturbed(folder, tmp_path)


def test_a_cache_that_is_full_is_named_with_the_variable_that_moves_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ATTNLAB_CACHE", str(tmp_path / "cache"))

    def full(self, file, *more):
        raise OSError("38051 requested and 30720 written")

    monkeypatch.setattr("attnlab.data.packed._Writer.write", full)
    sweep = tmp_path / "study.yaml"
    task = "{name: text, tokenizer: bytes, seq_len: 32}"
    sweep.write_text(
        f"name: study\ntrial: {{task: {task}, train: {{max_steps: 8, eval_every: 2}}}}\narms: {{a: {{}}}}\n"
    )
    assert command.main([str(sweep), "--results", str(tmp_path / "results")]) == 1, "no mistake in the request"
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "No space left on device" in line and f"{tmp_path}/cache/packed/" in line and "ATTNLAB_CACHE" in line
    assert not (tmp_path / "results").exists()


def test_results_that_cannot_be_written_are_told_in_a_line(tmp_path, capsys):
    sweep = tmp_path / "study.yaml"
    sweep.write_text("name: study\ntrial: {train: {max_steps: 8, eval_every: 2}}\narms: {a: {}}\n")
    assert command.main([str(sweep), "--results", "/proc/there"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --results /proc/there/study: ")
