"""What a journal holds in place of a state of CMA-ES is never run."""

import os
import pickle

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from attnlab.config.resolved import Plan
from attnlab.config.sweep import Sweep
from attnlab.records.mirror import Mirror
from attnlab.records.paths import SweepDir
from attnlab.sweep.search import cmaes
from attnlab.sweep.search.journal import open_studies

SWEEP = {
    "name": "searched",
    "trial": {
        "model": {"d_model": 32, "n_layers": 1, "n_heads": 2, "mixer": "gla"},
        "task": {"name": "mqar", "seq_len": 32, "vocab_size": 250},
        "train": {"max_steps": 10},
    },
    "arms": {"gla": {}},
    "search": {
        "space": {"optim.lr": {"loguniform": [1e-4, 1e-1]}, "optim.weight_decay": {"uniform": [0.0, 0.2]}},
        "trials": 40,
        "sampler": "cmaes",
    },
}
SPACE = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}


class Shell:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def plant(study, trial, state):
    """Put a pickle where Optuna keeps the state."""
    study._storage.set_trial_system_attr(trial._trial_id, f"{cmaes.PREFIX}:0", pickle.dumps(state).hex())


def own(number):
    return cmaes.CheckedCmaEs(seed=number, warn_independent_sampling=False)


def optunas(number):
    return optuna.samplers.CmaEsSampler(seed=number, warn_independent_sampling=False)


def searched(trials, sampler_of, planted=()):
    """A study of settings that a sampler gives, told a value each; its last trials hold what is planted."""
    study = optuna.create_study()
    for number in range(trials):
        study.sampler = sampler_of(number)
        trial = study.ask(SPACE)
        if (left := trials - number) <= len(planted):
            plant(study, trial, planted[-left])
        study.tell(trial, (trial.params["x"] - 0.3) ** 2 + trial.params["y"])
    return study


def test_a_study_is_searched_as_optunas_own_does():
    found, expected = (searched(25, sampler) for sampler in (own, optunas))
    assert [trial.params for trial in found.trials] == [trial.params for trial in expected.trials]
    assert sum(cmaes.state_in(trial) is not None for trial in found.trials) > 1


def test_a_pickle_in_a_journal_is_set_aside_with_a_line_and_not_loaded(tmp_path, capsys):
    plan, mirror = Plan.of(Sweep.model_validate(SWEEP)), Mirror(SweepDir(tmp_path / "searched"))
    mirror.folder.path.mkdir()
    study = open_studies(plan, mirror)["gla"].study
    trial = study.ask()
    plant(study, trial, Shell(tmp_path / "ran"))
    study.tell(trial, 1.0)
    study = open_studies(plan, mirror)["gla"].study
    (line,) = capsys.readouterr().err.splitlines()
    assert "trial 0: no state of CMA-ES (it names posix.mkdir); set aside as optuna.journal.damaged-1" in line
    assert study.trials == [] and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("state", [{"dim": 2}, 7, b"x" * 3000], ids=["dict", "number", "bytes"])
def test_a_value_that_is_no_state_counts_as_none(tmp_path, state):
    study = searched(12, own, planted=[state, Shell(tmp_path / "ran")])
    study.sampler = own(12)
    study.tell(study.ask(SPACE), 1.0)
    assert study.trials[-1].state is TrialState.COMPLETE and not (tmp_path / "ran").exists()


def test_the_newest_state_that_can_be_used_is_gone_on_from(tmp_path):
    *trials, last = searched(12, own, planted=[Shell(tmp_path / "ran")]).trials
    sound = [state for trial in trials if (state := cmaes.state_in(trial)) is not None]
    with pytest.raises(ValueError, match="no state of CMA-ES"):
        cmaes.state_in(last)
    assert own(12)._restore_optimizer([*trials, last]).generation == sound[-1].generation
    assert own(12)._restore_optimizer([last]) is None


def test_what_is_planted_does_run_where_it_is_loaded(tmp_path):
    study = searched(12, own, planted=[Shell(tmp_path / "ran")])
    study.sampler = optunas(12)
    study.ask(SPACE)
    assert (tmp_path / "ran").exists()
