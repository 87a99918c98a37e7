import pytest

from attnlab.config.sweep_file import normal
from attnlab.plan.guards.run import run_guards
from attnlab.plan.load import resolve
from attnlab.plan.prepare import prepare_tasks

TRIAL = {
    "model": {"d_model": 32, "n_layers": 2, "n_heads": 2, "d_ff": 64},
    "task": {"name": "mqar", "seq_len": 32, "vocab_size": 64, "n_pairs": 4, "n_eval": 64},
    "optim": {"name": "adamw"},
    "train": {"max_steps": 40, "batch_size": 8, "eval_every": 10},
}


@pytest.fixture(autouse=True)
def shared_cache(cache):
    """What was built is kept for the session, and never in the user's cache."""


@pytest.fixture
def sweep_of():
    """A sweep of small arms; `trial` changes what they share."""

    def make(arms, trial=None, **rest):
        shared = {part: {**tree, **(trial or {}).get(part, {})} for part, tree in TRIAL.items()}
        if "task" in (trial or {}) and "name" in trial["task"]:
            shared["task"] = trial["task"]
        return resolve(normal({"name": "x", "trial": shared, "arms": arms, **rest}))

    return make


@pytest.fixture
def guarded(sweep_of):
    """What the guards say of such a sweep."""

    def run(arms, trial=None, **rest):
        sweep = sweep_of(arms, trial, **rest)
        return run_guards(sweep, prepare_tasks(sweep))

    return run
