"""Optuna's journal, damaged: it is set aside in a line and made again from the trials' own records."""

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.plan.load import read
from attnlab.records.mirror import Mirror
from attnlab.records.paths import SweepDir
from attnlab.sweep.search.journal import open_studies
from tests.records.test_damage import mutated
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
    """What the studies know: the trials that have a job, with settings, state and value."""
    known = {}
    for name, arm in arms.items():
        numbers = {job.number for job in arm.jobs.values() if job.phase == "search"}
        trials = [trial for trial in arm.study.get_trials() if trial.number in numbers]
        known[name] = [(t.number, t.params, t.state, t.value) for t in trials]
    return known


def test_a_sound_journal_is_used(home, capsys):
    damaged(home, JOURNAL)
    assert capsys.readouterr().err == "" and not list(home.path.glob("*.damaged-*"))


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
