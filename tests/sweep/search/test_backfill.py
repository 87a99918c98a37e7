"""A journal that is older than the trials' folders, as object storage may have it after the loss of the launcher."""

import shutil

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from attnlab.records.paths import SweepDir
from attnlab.sweep.search.backfill import _widened_to
from tests.sweep.search.test_searcher import end, run_out, start, sweep_of


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid", "cmaes"])
@pytest.mark.parametrize("known", [0, 3])
def test_trials_that_the_journal_lacks_are_told_from_their_records(tmp_path, sampler, known):
    space = {"optim.lr": {"choice": [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]}} if sampler == "grid" else None
    space = space or {"optim.lr": {"loguniform": [1e-4, 1e-1]}, "optim.weight_decay": {"uniform": [0.0, 0.1]}}
    plan = sweep_of(search={"trials": 6, "sampler": sampler, "space": space})
    folder = SweepDir(tmp_path / "study")
    search = start(plan, folder)
    for i in range(8):
        if i == known:
            kept = folder.journal_file.read_bytes()
        end(folder, search, str(i), search.suggest(str(i)), "completed", value=float(i))
    search.suggest("unfinished")
    before = {
        name: [(t.number, t.params, t.value) for t in arm.study.get_trials()] for name, arm in search.arms.items()
    }
    folder.journal_file.write_bytes(kept)
    again = start(plan, folder)
    for name, arm in again.arms.items():
        assert [(t.number, t.params, t.value) for t in arm.study.get_trials()] == before[name]
    assert [arm.issued for arm in again.arms.values()] == [4, 4]
    seen = run_out(folder, again)
    assert len(seen) == 4 and {len(arm.jobs) for arm in again.arms.values()} == {6}
    numbers = [job.number for job in again.arms["a"].jobs.values()]
    assert len(set(numbers)) == 6, "no number twice"


def test_a_number_without_a_record_is_not_given_again(tmp_path):
    folder = SweepDir(tmp_path / "study")
    plan = sweep_of()
    search = start(plan, folder)
    end(folder, search, "0", search.suggest("0"))
    lost = search.suggest("1")["job"]
    second = search.suggest("2")
    end(folder, search, "2", second)
    search.suggest("3")
    end(folder, search, "4", search.suggest("4"))
    folder.journal_file.unlink()
    (number,) = {j.number for j in search.arms["a"].jobs.values()} - {0, 2}
    (gone,) = [j for j in search.arms["a"].jobs.values() if j.number == number]
    shutil.rmtree(folder.trial("a", gone.trial_id).path)
    assert lost
    again = start(plan, folder)
    states = [t.state for t in again.arms["a"].study.get_trials()]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    run_out(folder, again)
    assert sorted(j.number for j in again.arms["a"].jobs.values()) == [0, 2, 3]


INT, FLOAT = IntDistribution, FloatDistribution


@pytest.mark.parametrize(
    ("distribution", "value", "wanted"),
    [
        (INT(1, 4), 6, INT(1, 6)),
        (INT(1, 4), 6.0, INT(1, 6)),
        (INT(2, 4), 1, INT(1, 4)),
        (INT(2, 8, log=True), 16, INT(2, 16, log=True)),
        (INT(2, 8, step=2), 10, INT(2, 10, step=2)),
        (FLOAT(0.5, 1.0), 2.0, FLOAT(0.5, 2.0)),
        (FLOAT(0.5, 1.0, log=True), 0.1, FLOAT(0.1, 1.0, log=True)),
        (FLOAT(0.5, 1.0), 0.7, FLOAT(0.5, 1.0)),
        (CategoricalDistribution((1, 2)), 3, CategoricalDistribution((1, 2))),
    ],
    ids=str,
)
def test_a_distribution_is_widened_to_a_value_of_an_extension(distribution, value, wanted):
    found = _widened_to(distribution, value)
    assert found == wanted and (wanted.__class__ is not INT or type(found.high) is type(found.low) is int)
