"""Optuna's journal, damaged: it is set aside in a line and made again from the trials' own records."""

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from attnlab.plan.load import read
from attnlab.ranking.candidates import final_value
from attnlab.records.mirror import Mirror
from attnlab.records.paths import SweepDir
from attnlab.records.results import Hashes
from attnlab.sweep.search import journal
from attnlab.sweep.search.journal import open_studies, repair_journal
from tests.records.test_damage import mutated
from tests.sweep.search.test_searcher import sweep_of
from tests.test_fixture_of_before import FOLDER

PLAN = read(FOLDER / "sweep.yaml")
JOURNAL = (FOLDER / "optuna.journal").read_bytes()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The fixture's records without its checkpoints."""
    place = tmp_path_factory.mktemp("journal") / "before"
    shutil.copytree(FOLDER, place, ignore=shutil.ignore_patterns("checkpoints"))
    return SweepDir(place)


def damaged(home, raw):
    for aside in home.path.glob("optuna.journal*"):
        aside.unlink()
    home.journal_file.write_bytes(raw)
    return open_studies(PLAN, Mirror(home))


def told(arms):
    """What the studies know: the trials that have a job, with settings, state and value.

    The folder is of a version that told a completed trial's best value; a study made anew has its last one.
    """
    known = {}
    for name, arm in arms.items():
        ends = {job.number: arm.ended.get(job.trial_id) for job in arm.jobs.values() if job.phase == "search"}
        trials = [(trial, ends[trial.number]) for trial in arm.study.get_trials() if trial.number in ends]
        for trial, end in trials:
            if trial.state is TrialState.COMPLETE:
                assert trial.value in (end["best"]["val_loss"], end["last"]["val_loss"])
        known[name] = [(t.number, t.params, t.state, end and final_value(end, "val_loss")) for t, end in trials]
    return known


def test_a_sound_journal_is_used(home, capsys):
    damaged(home, JOURNAL)
    assert capsys.readouterr().err == "" and not list(home.path.glob("*.damaged-*"))


def test_half_a_line_at_its_end_is_cut_off_without_a_word(home, capsys):
    whole = told(damaged(home, JOURNAL))
    assert told(damaged(home, JOURNAL + LINES[3][:20])) == whole
    raw = home.journal_file.read_bytes()
    assert capsys.readouterr().err == "" and raw.startswith(JOURNAL) and raw.endswith(b"\n")
    repair_journal(home.path / "none")
    assert not (home.path / "none").exists()


def test_neither_an_arm_that_is_gone_nor_one_without_a_trial_is_damage(tmp_path, capsys):
    folder = SweepDir(tmp_path / "study")
    (folder.path / "b").mkdir(parents=True)  # of b's trials, not of a's
    first = open_studies(sweep_of(), Mirror(folder), lambda trial: Hashes(corpus="x"))
    assert set(first) == {"a", "b"} and set(open_studies(sweep_of(), Mirror(folder))) == {"a", "b"}
    assert set(open_studies(sweep_of(arms={"a": {}, "c": {}}), Mirror(folder))) == {"a", "c"}
    assert capsys.readouterr().err == ""
    assert first["a"].next(settled=False).hashes == Hashes(corpus="x")


class Published(Mirror):
    def push(self, *paths):
        DONE.extend(("push", path.name) for path in paths)

    def discard(self, path):
        DONE.append(("discard", path.name))


DONE = []


def test_what_is_set_aside_is_published_in_the_journals_place(home):
    DONE.clear()
    damaged(home, JOURNAL)
    open_studies(PLAN, Published(home))
    assert DONE == []
    home.journal_file.write_bytes(b"garbage\n")
    open_studies(PLAN, Published(home))
    assert DONE == [("discard", "optuna.journal"), ("push", "optuna.journal.damaged-1")]


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyError("x")])
def test_what_no_journal_is_to_blame_for_is_raised(home, monkeypatch, error):
    damaged(home, JOURNAL)
    if not isinstance(error, OSError):
        home.journal_file.unlink()

    def fail(*args):
        raise error

    monkeypatch.setattr(journal, "_open", fail)
    with pytest.raises(type(error)):
        open_studies(PLAN, Mirror(home))
    assert not list(home.path.glob("*.damaged-*"))


LINES = JOURNAL.split(b"\n")
DAMAGE = {
    "garbage amid": b"\n".join([*LINES[:9], b"\0\xff garbage", *LINES[9:]]),
    "an unknown operation": b"\n".join([*LINES[:9], LINES[9].replace(b'"op_code":', b'"op_code":9'), *LINES[10:]]),
    "another setting": JOURNAL.replace(b'"param_value_internal":0.000812555974363079', b'"param_value_internal":0.01'),
    "another value": JOURNAL.replace(b'"values":[5.0', b'"values":[1.0'),
    "another goal": JOURNAL.replace(b'"directions":[1]', b'"directions":[2]'),
    "a study of no arm": JOURNAL.replace(b'"study_name":"own"', b'"study_name":"owm"'),
    "zeros": bytes(len(JOURNAL)) + b"\n",
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_journal_is_set_aside_and_made_again_from_the_trials(home, capsys, how):
    whole = told(damaged(home, JOURNAL))
    assert DAMAGE[how] != JOURNAL
    assert told(damaged(home, DAMAGE[how])) == whole
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"attnlab: {home.journal_file}: ")
    assert line.endswith("set aside as optuna.journal.damaged-1 and made again from the trials")
    assert (home.path / "optuna.journal.damaged-1").read_bytes() == DAMAGE[how]
    open_studies(PLAN, Mirror(home))
    assert capsys.readouterr().err == "", "the new one is sound"


@settings(max_examples=6)
@given(st.data())
def test_any_mutated_journal_gives_the_studies_of_the_trials(home, data):
    raw = data.draw(mutated(JOURNAL))
    whole, found = told(damaged(home, JOURNAL)), told(damaged(home, raw))
    for name, trials in whole.items():
        assert [(n, params, state) for n, params, state, _ in found[name]] == [t[:3] for t in trials]
        values = [value for _, _, state, value in found[name] if state.name == "COMPLETE"]
        assert values == [value for _, _, state, value in trials if state.name == "COMPLETE"]


def test_a_trial_whose_configuration_is_lost_is_taken_up_again_from_the_journal(home, tmp_path):
    place = shutil.copytree(home.path, tmp_path / "before")
    folder = SweepDir(place)
    folder.journal_file.write_bytes(JOURNAL)
    lost = folder.trial("own", "t002-f6f49aa8b9")
    config = json.loads(lost.config_file.read_text())
    lost.config_file.unlink()
    arm = open_studies(PLAN, Mirror(folder))["own"]
    assert arm.jobs[lost.trial_id].model_dump(mode="json") == {**config, "hashes": None} | {
        "trial": arm.jobs[lost.trial_id].trial.model_dump(mode="json")
    }
    assert [job.trial_id for job in arm.unfinished] == [lost.trial_id]
