"""Damaged records: what cannot be used is set aside and named, never another loss, never a traceback.

On a small copy of `tests/fixtures/before`, without training: what resuming would go on from, and what analysis shows.
"""

import json
import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.records.load import load as analyse
from attnlab.plan.load import read
from attnlab.records.mend import mend, standing
from attnlab.records.metrics import before, digest, precede, up_to
from attnlab.records.mirror import Mirror
from attnlab.records.paths import SweepDir
from attnlab.records.reading import Damaged, read_board, read_results, read_state, signed
from attnlab.sweep.folder import check_folder
from attnlab.sweep.mend import mend_sweep
from attnlab.sweep.search.searcher import ArmSearch
from attnlab.util.errors import UserError
from attnlab.util.files import json_value
from tests.test_fixture_of_before import FOLDER, UNFINISHED

PLAN = read(FOLDER / "sweep.yaml")
ENDED = FOLDER / "own" / "t002-f6f49aa8b9"  # pruned after a branch
OPEN = UNFINISHED
KEPT = (ENDED, FOLDER / "own" / "t003-1dfabfa9af", OPEN)
RECORDS = ("metrics.jsonl", "results.json", "experiment_config.json")
WHOLE = {path: (path / "metrics.jsonl").read_text().splitlines() for path in KEPT}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("damage") / "before"


def fresh(place):
    """A folder of three trials, one unfinished with its checkpoint, as the fixture has them."""
    shutil.rmtree(place, ignore_errors=True)
    for trial in KEPT:
        for name in RECORDS:
            if (trial / name).exists():
                target = place / trial.relative_to(FOLDER) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(trial / name, target)
    for state in OPEN.glob("checkpoints/*/state.json"):
        target = place / state.relative_to(FOLDER)
        target.parent.mkdir(parents=True)
        shutil.copyfile(state, target)
    for name in ("sweep.yaml", "leaderboard.json"):
        shutil.copyfile(FOLDER / name, place / name)
    return SweepDir(place)


def with_digests(folder):
    """The folder's results and checkpoints with the digests that versions since keep."""
    for trial in folder.trials():
        rows = trial.metrics()
        if results := trial.results():
            trial.results_file.write_text(json.dumps({**results, "reports": digest(rows)}))
        for path in trial.checkpoints.glob("step_*"):
            state = read_state(path)
            (path / "state.json").write_text(json.dumps(signed(state | before(rows, state["step"]))))
    return folder


def one_line_each(lines):
    for line in lines:
        assert line and "\n" not in line and len(line) < 600, line


def holds(folder, damaged):
    """The rule: what is left is sound and as it was written, and every trial that was damaged is named or untouched."""
    shown = analyse_or_refuse(folder)
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    lines = mend_sweep(PLAN, Mirror(folder))
    one_line_each([*lines, *shown])
    for path, raw in before.items():
        kept = path.read_bytes() == raw if path.exists() else False
        assert kept or any(aside.read_bytes() == raw for aside in path.parent.glob(f"{path.name}.damaged-*")), path
    assert mend_sweep(PLAN, Mirror(folder)) == [], "what was set aside is not found again"
    for trial in folder.trials():
        job = trial.job()
        assert job.trial.digest == trial.trial_id[-10:] and (job.arm, job.trial_id) == (trial.arm, trial.trial_id)
        found = standing(trial, job)
        assert not found.damage and not found.incomplete
        as_written = [json.loads(line) for line in WHOLE[FOLDER / trial.arm / trial.trial_id]]
        used = [found.rows] if found.results else []
        steps = [path for path in trial.checkpoints.glob("step_*") if resumes(path, found.rows, job)]
        used += [up_to(found.rows, read_state(path)["step"]) for path in steps]
        for rows in used:
            assert lossless(rows, as_written), "a report that training goes on after is not the one written"
    return lines


def resumes(path, rows, job):
    try:
        return precede(rows, read_state(path), job)
    except Damaged:
        return False


def lossless(rows, as_written):
    """Every row is one that was written, in all its values, and none between two is missing."""
    return rows == as_written[: len(rows)]


def analyse_or_refuse(folder):
    """What reading says, which changes nothing."""
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    try:
        said = analyse(folder.path).problems
    except UserError as error:
        said = error.problems
    assert before == {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    return said


VALUES = st.one_of(
    st.none(), st.booleans(), st.text(max_size=5), st.integers(), st.floats(), st.just([]), st.just({"a": [1]}),
    st.sampled_from([10**400, -1, 0, 2**70, "\ud800", "1e-3", [[1]], {"step": 1}]),
)  # fmt: skip


def values_in(tree, path=()):
    """The path of every value below a JSON value."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from values_in(value, (*path, key))


@st.composite
def mutated(draw, raw):
    """Bytes of a record with one byte, line or value changed."""
    kind = draw(st.sampled_from(["byte", "cut", "zeros", "line", "value", "key"]))
    at = draw(st.integers(0, max(len(raw) - 1, 0)))
    if kind == "byte":
        return raw[:at] + bytes([draw(st.integers(0, 255))]) + raw[at + 1 :]
    if kind == "cut":
        return raw[:at]
    if kind == "zeros":
        return raw[:at] + b"\0" * draw(st.integers(1, 40)) + raw[at + draw(st.integers(0, 40)) :]
    lines = raw.split(b"\n")
    if kind == "line":
        how, i = draw(st.sampled_from(["lost", "doubled", "swapped", "reversed", "garbage"])), at % len(lines)
        if how == "lost":
            del lines[i]
        elif how == "doubled":
            lines.insert(i, lines[i])
        elif how == "swapped":
            lines[0], lines[i] = lines[i], lines[0]
        elif how == "reversed":
            lines.reverse()
        else:
            lines.insert(i, draw(st.binary(min_size=1, max_size=20)).replace(b"\n", b" "))
        return b"\n".join(lines)
    i = at % len(lines) if raw.count(b"}\n{") else None  # JSON lines, or one value
    try:
        tree = json.loads(raw if i is None else lines[i])
    except ValueError:
        return raw
    where = draw(st.sampled_from(sorted(values_in(tree), key=repr)))
    node = tree
    for key in where[:-1]:
        node = node[key]
    if kind == "value":
        node[where[-1]] = draw(VALUES)
    elif isinstance(node, dict):
        node[draw(st.text(max_size=4))] = node.pop(where[-1])
    text = json.dumps(tree).encode()
    return text if i is None else b"\n".join([*lines[:i], text, *lines[i + 1 :]])


@settings(max_examples=40)
@given(st.data())
def test_any_mutated_record_of_a_trial_ends_in_the_one_rule(place, data):
    folder = with_digests(fresh(place))
    files = sorted(p for p in place.glob("*/*/*") if p.is_file()) + sorted(place.glob("*/*/checkpoints/*/state.json"))
    file = data.draw(st.sampled_from(files))
    file.write_bytes(data.draw(mutated(file.read_bytes())))
    holds(folder, file)


@settings(max_examples=15)
@given(st.data())
def test_any_mutated_leaderboard_or_sweep_file_is_used_set_aside_or_refused_in_a_line(place, data):
    folder = fresh(place)
    file = data.draw(st.sampled_from([folder.leaderboard_file, folder.sweep_file]))
    file.write_bytes(data.draw(mutated(file.read_bytes())))
    try:
        check_folder(PLAN, folder, True, "here")
    except UserError as error:
        one_line_each(error.problems)
        return
    holds(folder, file)
    board = read_board(folder.leaderboard_file)
    assert board is None or json_value(board["baselines"]) == board["baselines"]


def rows_of(trial):
    return trial.metrics_file.read_bytes().split(b"\n")


LINES = {
    "zeros amid": lambda lines: [*lines[:1], b"\0" * 200, *lines[1:]],
    "garbage amid": lambda lines: [*lines[:1], os.urandom(50).replace(b"\n", b""), *lines[1:]],
    "doubled": lambda lines: [lines[0], *lines],
    "reversed": lambda lines: [*lines[-2::-1], b""],
    "lost": lambda lines: lines[1:],
    "without step": lambda lines: [lines[0].replace(b'"step"', b'"stop"'), *lines[1:]],
}


@pytest.mark.parametrize("how", LINES)
def test_lines_of_metrics_that_cannot_be_used_are_set_aside_and_named(place, how):
    """Where every report is there, the trial goes on after them; where one is lost, it starts anew."""
    folder = fresh(place)
    trial = folder.trial("wild", OPEN.name)
    whole = trial.metrics()
    trial.metrics_file.write_bytes(b"\n".join(LINES[how](rows_of(trial))))
    lines = mend_sweep(PLAN, Mirror(folder))
    assert len(lines) == (how != "lost") and all("metrics.jsonl.damaged-1" in line for line in lines)
    (checkpoint,) = trial.checkpoints.glob("step_*")
    goes_on = precede(trial.metrics(), read_state(checkpoint), trial.job())
    assert goes_on == (how in ("zeros amid", "garbage amid", "doubled"))
    assert not goes_on or trial.metrics() == whole


def test_a_result_before_which_reports_are_lost_is_made_again(place):
    folder = fresh(place)
    trial = folder.trial("own", ENDED.name)
    trial.metrics_file.write_bytes(b"\n".join(rows_of(trial)[1:]))
    (line,) = mend_sweep(PLAN, Mirror(folder))
    assert "results.json: reports before it are lost; set aside as results.json.damaged-1" in line
    assert trial.results() is None


@pytest.mark.parametrize("key, value", [
    ("seed", "3"), ("seed", [3]), ("seed", 4), ("error", {"a": 1}), ("error", 7), ("steps", 10**40), ("steps", 15),
    ("tokens", "x"), ("seconds", 1e999), ("seconds", None), ("state", "won"), ("state", "completed"),
    ("error", "\ud800"), ("phase", "confirm"), ("arm", "gla"), ("trial_id", "t000-f07d089a12"),
    ("settings", {"optim.lr": "a"}), ("checkpoint", "../../x"), ("best", []), ("last", {"step": 8}), ("recipe", 7),
], ids=repr)  # fmt: skip
def test_a_results_json_with_a_wrong_value_is_set_aside(place, key, value):
    folder = fresh(place)
    trial = folder.trial("own", ENDED.name)
    raw = {**json.loads(trial.results_file.read_text()), key: value}
    trial.results_file.write_text(json.dumps(raw))
    assert any("results.json" in line for line in analyse_or_refuse(folder))
    lines = holds(folder, trial.results_file)
    assert any("results.json" in line and line.endswith("set aside as results.json.damaged-1") for line in lines)
    assert trial.results() is None


@pytest.mark.parametrize("ended", KEPT[:2], ids=["pruned", "confirm"])
def test_any_value_changed_in_a_report_of_an_ended_trial_is_named(place, ended):
    """Also in the middle, where neither the best nor the last report is."""
    folder = with_digests(fresh(place))
    trial = folder.trial(ended.parent.name, ended.name)
    raw = trial.metrics_file.read_text()
    assert standing(trial, trial.job()).results
    for i, line in enumerate(lines := raw.splitlines()):
        for key, value in json.loads(line).items():
            altered = json.dumps({**json.loads(line), key: (value or 0) + 1})
            trial.metrics_file.write_text("\n".join([*lines[:i], altered, *lines[i + 1 :], ""]))
            found = standing(trial, trial.job())
            assert found.results is None or found.incomplete, (i, key)
    trial.metrics_file.write_text(raw)
    assert standing(trial, trial.job()).results, "as it was"


def test_a_confirm_run_without_a_seed_is_set_aside(place):
    folder = fresh(place)
    trial = folder.trial("own", "t003-1dfabfa9af")
    raw = json.loads(trial.results_file.read_text())
    del raw["seed"]
    trial.results_file.write_text(json.dumps(raw))
    (line,) = holds(folder, trial.results_file)
    assert line.endswith("results.json: it lacks seed; set aside as results.json.damaged-1")


def test_a_configuration_of_a_newer_version_or_another_arm_is_made_again_from_the_sweep(place):
    folder = fresh(place)
    newer, other, lost = (folder.trial(path.parent.name, path.name) for path in KEPT)
    jobs = [trial.job() for trial in (newer, other, lost)]
    newer.config_file.write_text(json.dumps({**json.loads(newer.config_file.read_text()), "of_tomorrow": 1}))
    shutil.copyfile(FOLDER / "gla" / "t000-83aa9d9db7" / "experiment_config.json", other.config_file)
    lost.config_file.unlink()
    shown = " ".join(analyse_or_refuse(folder))
    assert "of_tomorrow" in shown and "it is of gla/t000-83aa9d9db7" in shown
    lines = holds(folder, None)
    assert len(lines) == 2 and all("made again from the sweep" in line for line in lines)
    assert [trial.job() for trial in (newer, other)] == jobs[:2]
    assert newer.results() and other.results(), "they had ended, and have not begun again"
    assert not lost.config_file.exists(), "its settings are in Optuna's journal alone"


def test_a_sound_folder_is_left_as_it_is(place):
    folder = fresh(place)
    assert mend_sweep(PLAN, Mirror(folder)) == [] and analyse_or_refuse(folder) == []
    assert all(mend(trial, trial.job())[1] == [] for trial in SweepDir(FOLDER).trials())


def test_a_file_that_may_not_be_read_is_no_damage(tmp_path, monkeypatch):
    def denied(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", denied)
    with pytest.raises(UserError, match=r"results.json: Permission denied$") as caught:
        read_results(tmp_path / "results.json")
    assert not isinstance(caught.value, Damaged)


def stump(place, what):
    """A folder of which a removal, or a launcher killed in its first second, has left only a part."""
    folder = fresh(place)
    shutil.copyfile(FOLDER / "optuna.journal", folder.journal_file)
    (place / ".sweep.yaml.tmp-host-12345678").write_text("name: stu")
    (place / ".launcher-000001").write_text('{"host"')
    for path in [path for path in place.rglob("*") if path.is_file()]:
        if not str(path.relative_to(place)).startswith(what):
            path.unlink()
    return folder


BEGIN_ANEW = {
    "nothing": ("-",),
    "a lock": (".launcher",),
    "half a sweep.yaml": (".sweep",),
    "the sweep's own files": ("leaderboard", "optuna"),
    "a checkpoint alone": (str(OPEN.relative_to(FOLDER) / "checkpoints"),),
    "reports alone": (str(OPEN.relative_to(FOLDER) / "metrics.jsonl"),),
}


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("what", BEGIN_ANEW)
def test_in_a_stump_without_trials_a_sweep_begins(place, what, resume):
    folder = stump(place, BEGIN_ANEW[what])
    check_folder(PLAN, folder, resume, "results/before")
    one_line_each(mend_sweep(PLAN, Mirror(folder)))
    search = ArmSearch(PLAN, Mirror(folder))
    assert search.ended == 0 and search.suggest("first")["job"]


def test_a_stump_with_trials_but_no_sweep_is_resumed_only(place):
    folder = fresh(place)
    folder.sweep_file.unlink()
    with pytest.raises(UserError, match="holds 3 trials of this sweep and no sweep.yaml: go on with --resume") as error:
        check_folder(PLAN, folder, False, "results/before")
    one_line_each(error.value.problems)
    check_folder(PLAN, folder, True, "results/before")
    assert mend_sweep(PLAN, Mirror(folder)) == [] and ArmSearch(PLAN, Mirror(folder)).ended == 2


@pytest.mark.parametrize("resume", [False, True])
def test_a_stump_of_another_sweep_is_refused(place, resume):
    folder = fresh(place)
    folder.sweep_file.unlink()
    for trial in folder.trials():
        trial.path.rename(trial.path.with_name(f"{trial.trial_id[:-10]}{'0' * 10}"))
    with pytest.raises(UserError, match="holds 3 trials, most of another sweep, and no sweep.yaml"):
        check_folder(PLAN, folder, resume, "results/before")


@pytest.mark.parametrize("text", ["", "name: before\ntri", "\0" * 80])
def test_a_sweep_file_cut_short_before_the_first_trial_is_set_aside_by_resume(place, text):
    folder = stump(place, ("-",))
    folder.sweep_file.write_text(text)
    with pytest.raises(UserError, match="not a sweep of this version"):
        check_folder(PLAN, folder, False, "results/before")
    check_folder(PLAN, folder, True, "results/before")
    (line,) = mend_sweep(PLAN, Mirror(folder))
    assert "set aside as sweep.yaml.damaged-1" in line and not folder.sweep_file.exists()
