"""Sweeps and single experiments get the newest recipe; folders keep theirs."""

import importlib

import pytest

from attnlab import api
from attnlab.config import sweep_file, trial
from attnlab.config.trial import Trial
from attnlab.records.paths import SweepDir
from attnlab.sweep.folder import check_folder
from attnlab.util.errors import UserError
from attnlab.util.files import read_json, write_text

load = importlib.import_module("attnlab.plan.load")  # the package has a function of this name
SWEEP = {"name": "study", "trial": {"task": {"name": "mqar"}}, "arms": {"gla": {}, "standard": {}}}


@pytest.fixture
def two_recipes(monkeypatch):
    """As if there were a second recipe."""
    for module in (trial, load):
        monkeypatch.setattr(module, "NEWEST_RECIPE", 2)


def recipes(plan):
    return {arm.trial.recipe for arm in plan.arms}


def begun(results, tree):
    """A folder in which a sweep of that tree began."""
    folder = SweepDir(results / "study")
    write_text(folder.sweep_file, sweep_file.dump(load.resolve(tree).sweep))
    return folder


def test_a_new_sweep_gets_the_newest_recipe_and_may_ask_for_an_earlier_one(two_recipes):
    assert recipes(load.resolve(SWEEP)) == {2}
    assert recipes(load.resolve(SWEEP, scale="tiny")) == {2}
    assert recipes(load.resolve({**SWEEP, "trial": {**SWEEP["trial"], "recipe": 1}})) == {1}


def test_a_folder_keeps_the_recipe_it_began_with(tmp_path, monkeypatch):
    folder = begun(tmp_path, SWEEP)
    assert "recipe" not in folder.sweep_file.read_text()
    for module in (trial, load):
        monkeypatch.setattr(module, "NEWEST_RECIPE", 2)
    plan = load.resolve(SWEEP, resume_in=tmp_path)
    assert recipes(plan) == {1}
    check_folder(plan, folder, True, "here")
    with pytest.raises(UserError, match="holds another sweep of this name: arms.gla recipe: 1 there, 2 here"):
        check_folder(load.resolve({**SWEEP, "trial": {**SWEEP["trial"], "recipe": 2}}), folder, True, "here")


def test_a_folder_of_the_second_recipe_says_so(tmp_path, two_recipes):
    folder = begun(tmp_path, SWEEP)
    assert recipes(load.read(folder.sweep_file)) == {2} == recipes(load.resolve(SWEEP, resume_in=tmp_path))


def test_an_unknown_recipe_and_one_of_an_arms_own_are_refused():
    with pytest.raises(UserError) as error:
        load.resolve({**SWEEP, "trial": {**SWEEP["trial"], "recipe": 2}})
    assert error.value.problems == [
        "trial.recipe: recipe 2 is not known to this attnlab, whose newest is 1; update attnlab"
    ]
    with pytest.raises(UserError, match=r"^arms.gla.recipe: all trials of a sweep share it"):
        load.resolve({**SWEEP, "arms": {"gla": {"recipe": 1}, "standard": {}}})
    space = {"recipe": {"choice": [1]}, "optim.lr": {"loguniform": [1e-3, 1e-2]}}
    with pytest.raises(UserError, match=r"^search.space.recipe: all trials of a sweep share it"):
        load.resolve({**SWEEP, "search": {"space": space}})


def test_an_experiment_gets_the_newest_and_goes_on_under_the_one_it_began_with(tmp_path, tiny, monkeypatch):
    first = api.run_experiment(tiny, tmp_path, device="cpu")
    assert first["recipe"] == 1
    for module in (trial, load):
        monkeypatch.setattr(module, "NEWEST_RECIPE", 2)
    assert api.run_experiment(Trial.model_validate(tiny), tmp_path, device="cpu")["trial_id"] == first["trial_id"]
    (tmp_path / "new").mkdir()
    second = api.run_experiment(tiny, tmp_path / "new", device="cpu")
    assert second["recipe"] == 2 and second["trial_id"] != first["trial_id"]
    home = tmp_path / "new" / "experiment" / second["trial_id"]
    assert read_json(home / "experiment_config.json")["trial"]["recipe"] == 2
