"""Modules are imported by a name in text only if the user named them; nothing else of a name is ever run."""

import json
import sys

import pytest
import torch

from attnlab import SweepResults, run_sweep
from attnlab.config.trial import ModelConfig
from attnlab.models import assemble, build_model
from attnlab.models.build import build_mixer
from attnlab.plan.load import load, read, resolve
from attnlab.util import trust
from attnlab.util.errors import UserError

MINE = """
from pathlib import Path
from torch import nn
Path("ran").touch()
class Mine(nn.Module):
    def __init__(self, d_model: int):
        super().__init__()
        self.out = nn.Linear(d_model, d_model)
    def forward(self, x, past_key_values=None, use_cache=False, **extra):
        return self.out(x)
def call(d_model: int):
    Path("called").touch()
"""
SMALL = {"d_model": 16, "n_layers": 2, "n_heads": 2}


@pytest.fixture(autouse=True)
def nobody_trusted(tmp_path, monkeypatch):
    """An empty working directory and an empty list of named modules; what is imported from there is forgotten."""
    monkeypatch.setattr(trust, "_named", type(trust._named)())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "stranger.py").write_text(MINE)
    yield
    sys.modules.pop("stranger", None)


def wanted(tree):
    return trust.modules_in(tree)


def test_the_modules_of_a_tree_are_those_of_its_dotted_names():
    arms = {"a": {"model": {"mixer": [{"name": "x.y:Z", "k": 1}, "gla", "w:V"]}}, "b": None, "c": ["x.y:Q", 3]}
    assert wanted(arms) == ["x.y", "w"]
    assert wanted(["s3://bucket", "a:b:c", "one two:three", ":x", "x:", "12:30", "C:\\x", "not a: name"]) == []


def test_a_name_of_nobodys_is_refused_before_anything_is_imported(tmp_path):
    for what in (
        lambda: trust.load("stranger:Mine", "mixer"),
        lambda: assemble(ModelConfig(**SMALL, mixer="stranger:Mine"), 8),
    ):
        with pytest.raises(trust.UntrustedModule, match="--trust stranger allows it") as error:
            what()
        assert "\n" not in str(error.value) and error.value.problems == [str(error.value)]
    assert "stranger" not in sys.modules and not (tmp_path / "ran").exists()


ODD = ["subprocess:Popen", "os:system", "a\nb:C", "x", ":", "m:" + "x" * 5000, "[red]x:Y"]


@pytest.mark.parametrize("path", ODD, ids=range(len(ODD)))
def test_whatever_is_named_the_refusal_is_one_line(path):
    with pytest.raises(trust.UntrustedModule) as error:
        trust.require(path, "mixer")
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 1000


def test_a_name_counts_for_as_long_as_its_call():
    with trust.naming(["m"]), trust.naming(["m", "n"]):
        assert trust.named() == ["m", "n"]
    assert trust.named() == []
    trust.name(["m"])
    with trust.naming(["m"]):
        pass
    assert trust.named() == ["m"]


def test_what_the_caller_gives_is_named_by_the_caller(tmp_path):
    assert build_model({**SMALL, "mixer": "stranger:Mine"}, 8).backbone.blocks[0].mixer.out.weight.shape == (16, 16)
    assert (tmp_path / "ran").exists() and trust.named() == ["stranger"]


def test_only_subclasses_of_module_are_built(tmp_path):
    trust.name(["stranger", "subprocess"])
    (tmp_path / "stranger.py").write_text(
        MINE.replace("def call(d_model: int):", "class call:\n  def __init__(self, d_model: int):")
    )
    model = ModelConfig(**SMALL, mixer="stranger:call")
    with pytest.raises(ValueError, match=r"mixer stranger:call: it is no torch.nn.Module"):
        build_mixer(model.mixer[0], model, 0)
    assert not (tmp_path / "called").exists()


SWEEP = {"name": "s", "trial": {"model": SMALL}, "arms": {"a": {"model": {"mixer": "stranger:Mine"}}, "b": {}}}


def test_a_sweep_file_or_an_override_names_modules_and_a_results_folder_does_not(tmp_path):
    (tmp_path / "s.yaml").write_text(json.dumps(SWEEP))
    assert read(tmp_path / "s.yaml").names == ("a", "b") and trust.named() == []
    load(tmp_path / "s.yaml", ["arms.b.model.mixer=stranger:Mine"], solve=False)
    assert trust.named() == ["stranger"]


def test_a_searched_mixer_is_named_too(tmp_path):
    space = {"model.mixer": {"choice": ["gla", "stranger:Mine"]}}
    resolve({**SWEEP, "arms": {"b": {}}, "search": {"trials": 2, "space": space}}, solve=False)
    assert trust.named() == ["stranger"]


def test_a_folders_plan_runs_nothing_unless_trusted(tmp_path):
    folder = tmp_path / "results/s"
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").write_text(json.dumps(SWEEP))
    (folder / "leaderboard.json").write_text(json.dumps({"ranking": ["a"], "arms": {"a": {}}}))
    found = SweepResults.read(folder)
    assert found.arms == ["a"]
    with pytest.raises(UserError, match="module stranger was named in no sweep file"):
        run_sweep(found.plan, tmp_path / "elsewhere")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "elsewhere").exists()
    assert trust.named() == []
    SweepResults.read(folder, trust=["stranger"])
    assert trust.named() == ["stranger"]


def test_run_sweep_trusts_modules_for_its_call_alone(tmp_path, monkeypatch):
    (tmp_path / "s.yaml").write_text(json.dumps(SWEEP))
    plan, during = read(tmp_path / "s.yaml"), []

    def run(plan, *args, **options):
        during.extend(trust.named())
        return {"arms": {"a": {}, "b": {}}}

    monkeypatch.setattr("attnlab.api.engine.run", run)
    run_sweep(plan, tmp_path / "results", trust=["stranger"])
    assert during == ["stranger"] and trust.named() == []
    with pytest.raises(UserError, match="module stranger was named in no sweep file"):
        run_sweep(plan, tmp_path / "results")


def test_the_tables_own_mixers_need_no_name():
    assert isinstance(assemble(ModelConfig(**SMALL, mixer="gla"), 8), torch.nn.Module)
