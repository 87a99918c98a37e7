"""The recipe of a trial: in the digest and on disk, known or refused, never ranked against another."""

import json
import re

import pytest

from attnlab import models
from attnlab.config import trial as trials
from attnlab.config.trial import Trial
from attnlab.models import build_model
from attnlab.models.backbone import BackboneConfig
from attnlab.records.paths import SweepDir, TrialDir
from attnlab.records.results import Job, refuse_mixed_recipes
from attnlab.training.loop import train
from attnlab.util.errors import UserError
from attnlab.util.files import read_json, write_json
from tests.records.small import results_of

MIXED = {
    "model": {"mixer": ["gla", {"name": "standard", "window": 8}], "d_ff": 64},
    "task": {"name": "mqar", "seq_len": 32, "vocab_size": 64},
    "optim": {"name": "muon", "lr": 0.01},
    "train": {"seed": 3, "step": "eager", "seconds": 2.5},
}


@pytest.fixture
def two_recipes(monkeypatch):
    """As if there were a second recipe."""
    for module in (trials, models):
        monkeypatch.setattr(module, "NEWEST_RECIPE", 2)


def test_trials_keep_the_digests_they_had_before_there_were_recipes():
    assert Trial().digest == "c1f750eda6"
    assert Trial.model_validate(MIXED).digest == Trial.model_validate({**MIXED, "recipe": 1}).digest == "99a949a95f"


def test_another_recipe_is_another_trial(two_recipes):
    assert Trial(recipe=2).digest != Trial().digest


def test_a_recipe_of_a_newer_program_is_refused_in_one_line(tmp_path):
    home = TrialDir(tmp_path / "gla" / "t000-0000000000")
    tree = Job.make("gla", 0, Trial()).model_dump(mode="json")
    write_json(home.config_file, tree | {"trial": {**tree["trial"], "recipe": 2}})
    newer = "recipe 2 is not known to this attnlab, whose newest is 1; update attnlab"
    with pytest.raises(UserError, match=f"^{re.escape(str(home.config_file))}: trial.recipe: {newer}$"):
        home.job()
    with pytest.raises(ValueError, match=f"^{newer}$"):
        BackboneConfig(recipe=2)


@pytest.mark.parametrize("recipe", ["x", None, -1, 0, 1.5, [1]])
def test_a_recipe_that_is_no_number_of_one_is_refused(recipe, tmp_path):
    with pytest.raises(ValueError, match="is not known to this attnlab"):
        BackboneConfig(recipe=recipe)
    trials = [{"arm": "gla", "trial_id": "a", "recipe": recipe}, {"arm": "gla", "trial_id": "b", "recipe": 1}]
    with pytest.raises(UserError, match="never ranked against each other"):
        refuse_mixed_recipes(trials, tmp_path)


def test_a_folder_that_names_no_recipe_is_of_the_first(tmp_path, two_recipes):
    home = TrialDir(tmp_path / "gla" / "t000-0000000000")
    tree = Job.make("gla", 0, Trial()).model_dump(mode="json")
    del tree["trial"]["recipe"]
    write_json(home.config_file, tree)
    assert home.job().trial.recipe == 1
    assert BackboneConfig.from_dict({"vocab_size": 8}).recipe == 1


def test_the_recipe_is_written_wherever_a_trials_numbers_are(tiny, tmp_path, two_recipes):
    job = Job.make("gla", 0, Trial.model_validate({**tiny, "recipe": 2}))
    home = TrialDir(tmp_path / job.trial_id)
    assert train(job, home)["recipe"] == 2
    assert read_json(home.results_file)["recipe"] == read_json(home.final / "config.json")["recipe"] == 2
    assert json.loads(job.model_dump_json())["trial"]["recipe"] == 2
    assert build_model({"d_model": 16, "n_heads": 2}, 8).config.recipe == 2


def test_two_recipes_are_never_ranked_against_each_other(tmp_path):
    folder = SweepDir(tmp_path / "study")
    ids = {}
    for arm, recipe in (("gla", 2), ("standard", 1)):
        job = Job.make(arm, 0, Trial())
        ids[arm] = job.trial_id
        write_json(folder.trial(arm, job.trial_id).config_file, {})
        write_json(folder.trial(arm, job.trial_id).results_file, results_of(job, recipe=recipe))
    first, second = f"standard/{ids['standard']} is of recipe 1", f"gla/{ids['gla']} is of recipe 2"
    said = f"{first}, {second}; two recipes are never ranked"
    with pytest.raises(UserError, match=f"study: {said} against each other$"):
        folder.results()
