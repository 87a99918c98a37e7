"""A trial whose records were damaged half-way ends as an undisturbed one, to the bit."""

import json
import shutil

import pytest

from attnlab.records.paths import TrialDir
from attnlab.records.reading import signed
from attnlab.training import checkpoint
from attnlab.training.loop import train
from tests.training.test_loop import job_of, rows_of


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def killed(tiny, tmp_path_factory):
    """A trial that was killed after its report at step 10, with checkpoints of the steps 8 and 10."""

    def die(row):
        if row["step"] == 10:
            raise Killed

    home = TrialDir(tmp_path_factory.mktemp("killed"))
    with pytest.raises(Killed):
        train(job_of(tiny), home, die)
    assert [path.name for path in checkpoint.steps(home)] == ["step_00000008", "step_00000010"]
    return home


@pytest.fixture(scope="module")
def ended(tiny, tmp_path_factory):
    """A trial that came to its end."""
    home = TrialDir(tmp_path_factory.mktemp("ended"))
    train(job_of(tiny), home)
    return home


@pytest.fixture(scope="module")
def whole(ended):
    """The reports of an undisturbed trial."""
    return rows_of(ended)


@pytest.fixture
def cut(killed, tmp_path):
    """The killed trial, this test's own."""
    return TrialDir(shutil.copytree(killed.path, tmp_path, dirs_exist_ok=True))


@pytest.fixture
def done(ended, tmp_path):
    """The ended trial, this test's own."""
    return TrialDir(shutil.copytree(ended.path, tmp_path, dirs_exist_ok=True))


def changed(line, key, value):
    return json.dumps({**json.loads(line), key: value}).encode()


DAMAGE = {  # the lines of the reports at 2, 4, 6, 8 and 10 -> damaged ones, and the step from which the trial goes on
    "zeros amid": (lambda rows: [*rows[:2], b"\0" * 300, *rows[2:]], 10),
    "doubled": (lambda rows: [rows[0], *rows], 10),
    "the last one lost": (lambda rows: rows[:-1], 8),
    "the last value changed": (lambda rows: [*rows[:-1], changed(rows[-1], "val_loss", 1.0)], 8),
    "the first one lost": (lambda rows: rows[1:], 0),
    "the first value changed": (lambda rows: [changed(rows[0], "val_loss", 1.0), *rows[1:]], 0),
    "reversed": (lambda rows: rows[::-1], 0),
    "without step": (lambda rows: [changed(rows[0], "step", None), *rows[1:]], 0),
    "all lost": (lambda rows: [], 0),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_trial_with_damaged_reports_ends_as_an_undisturbed_one(tiny, cut, whole, capsys, how):
    damage, step = DAMAGE[how]
    lines = cut.metrics_file.read_bytes().splitlines()
    cut.metrics_file.write_bytes(b"".join(line + b"\n" for line in damage(lines)))
    resumed = []
    results = train(job_of(tiny), cut, resumed.append)
    assert results["state"] == "completed" and rows_of(cut) == whole
    assert [row["step"] for row in resumed] == list(range(step or 2, 13, 2)), "the last report before it, then new ones"
    assert [p.name for p in checkpoint.steps(cut)] == ["step_00000010"]
    aside = list(cut.path.glob("metrics.jsonl.damaged-*"))
    named = "metrics.jsonl.damaged-1" in capsys.readouterr().out
    assert bool(aside) == named == (how in ("zeros amid", "doubled", "reversed", "without step"))


@pytest.mark.parametrize("key", ["step", "seconds", "trained", "reports", "digest", *checkpoint.TENSORS])
def test_a_changed_state_of_a_checkpoint_is_passed_over(tiny, cut, whole, key):
    newest = checkpoint.steps(cut)[-1] / "state.json"
    state = json.loads(newest.read_text())
    newest.write_text(json.dumps({**state, key: 4}))
    resumed = []
    train(job_of(tiny), cut, resumed.append)
    assert rows_of(cut) == whole and resumed[0]["step"] == 8, "it went on from the one before"


def flip(path, at, bit=1):
    raw = bytearray(path.read_bytes())
    raw[at] ^= bit
    path.write_bytes(raw)


@pytest.mark.parametrize("where", [-1, 0.5], ids=["last", "half-way"])
@pytest.mark.parametrize("file", checkpoint.TENSORS)
def test_a_flipped_bit_in_the_tensors_of_a_checkpoint_passes_it_over(tiny, cut, whole, capsys, file, where):
    damaged = checkpoint.steps(cut)[-1]
    size = (damaged / file).stat().st_size
    flip(damaged / file, where if where < 0 else int(where * size))
    resumed = []
    train(job_of(tiny), cut, resumed.append)
    assert rows_of(cut) == whole and resumed[0]["step"] == 8, "it went on from the one before"
    said = f"{damaged}: unreadable checkpoint passed over ({file}: its content was changed)"
    assert capsys.readouterr().out.count(said) == 1


def test_a_checkpoint_of_an_older_version_without_digests_is_taken(tiny, cut, whole):
    newest = checkpoint.steps(cut)[-1] / "state.json"
    state = json.loads(newest.read_text())
    older = {key: value for key, value in state.items() if key not in (*checkpoint.TENSORS, "digest")}
    newest.write_text(json.dumps(signed(older)))
    resumed = []
    train(job_of(tiny), cut, resumed.append)
    assert rows_of(cut) == whole and resumed[0]["step"] == 10


@pytest.mark.parametrize("line", [1, 3])
def test_a_changed_report_of_an_ended_trial_is_noticed_and_made_again(tiny, done, whole, line):
    lines = done.metrics_file.read_bytes().splitlines()
    lines[line] = changed(lines[line], "lr", 0.123)
    done.metrics_file.write_bytes(b"".join(each + b"\n" for each in lines))
    assert train(job_of(tiny), done)["state"] == "completed" and rows_of(done) == whole
    assert (done.path / "results.json.damaged-1").exists() and (done.path / "metrics.jsonl.damaged-1").exists()


def test_results_that_cannot_be_read_are_made_again(tiny, done, whole):
    first = done.results()
    done.results_file.write_text(done.results_file.read_text().replace('"seed": 3', '"seed": "3"'))
    resumed = []
    again = train(job_of(tiny), done, resumed.append)
    assert [row["step"] for row in resumed] == [10, 12] and rows_of(done) == whole
    assert {k: again[k] for k in ("state", "steps", "seed")} == {k: first[k] for k in ("state", "steps", "seed")}
    assert (done.path / "results.json.damaged-1").exists()
