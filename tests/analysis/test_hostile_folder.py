"""A stranger's results folder and checkpoints: nothing in them is run, and no memory asked for that they don't hold."""

import json
import shutil
import sys

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM
from transformers.integrations import hub_kernels

from analysis.command_line import main
from analysis.efficiency import measurement
from analysis.scoring.checkpoints import open_model
from attnlab.config import sweep_file
from attnlab.config.resolved import Plan
from attnlab.config.sweep import Sweep
from attnlab.data.tokenizer import Spec, load
from attnlab.models import backbone
from attnlab.plan.load import read
from attnlab.records.mirror import Mirror
from attnlab.records.paths import SweepDir
from attnlab.sweep.folder import check_folder
from attnlab.sweep.mend import mend_sweep
from attnlab.util import trust
from attnlab.util.errors import UserError
from tests.analysis.fake_results import Fake
from tests.analysis.small import export

PLANTED = """
from pathlib import Path
from torch import nn
Path(__file__).with_name("ran").touch()
class Payload(nn.Module):
    def __init__(self, d_model: int):
        super().__init__()
        self.out = nn.Linear(d_model, d_model, bias=False)
    def forward(self, x, past_key_values=None, use_cache=False, **extra):
        return self.out(x)
"""
SHELL = {"name": "subprocess:Popen", "args": "touch ran", "shell": True}
SIZE = {"d_model": 32, "n_layers": 2, "n_heads": 2}
TRAIN = {"max_steps": 100, "eval_every": 10}
SWEEP = {
    "name": "fake",
    "trial": {"model": SIZE, "task": {"name": "mqar", "seq_len": 32, "vocab_size": 250}, "train": TRAIN},
    "arms": {"good": {"model": {"mixer": "gla"}}, "bad": {"model": {"mixer": "gla"}}},
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A working directory that holds the stranger's module too, and nobody trusted."""
    monkeypatch.setattr(trust, "_named", type(trust._named)())
    (tmp_path / "planted.py").write_text(PLANTED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("planted", None)


def nothing_ran(tmp_path):
    return not (tmp_path / "ran").exists() and "planted" not in sys.modules


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def planted(home, mixer):
    """A sweep of two arms with a checkpoint each. Every record of `bad` names a mixer, as its packer can have it."""
    fake = Fake(home, {**SWEEP, "arms": {**SWEEP["arms"], "bad": {"model": {"mixer": mixer}}}})
    for i, arm in enumerate(SWEEP["arms"]):
        final = export(fake.trial(arm, 3.0 + i, steps=100).path, "gla", seed=i)
        if arm == "bad":
            edit(final / "config.json", mixer=[mixer])
    return fake.folder


@pytest.fixture
def folder(tmp_path):
    """A sweep of two arms with a checkpoint each."""
    return planted(tmp_path / "results", {"name": "gla"})


@pytest.mark.parametrize("mixer", [SHELL, {"name": "planted:Payload"}], ids=["shell", "import"])
def test_analysis_of_a_folder_that_names_code_runs_none_and_reports_the_rest(tmp_path, capsys, mixer):
    folder, module = planted(tmp_path / "results", mixer), mixer["name"].partition(":")[0]
    assert main([str(folder.path), "--benchmarks", "arithmetic_1", "--limit", "2", "--device", "cpu"]) == 0
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if module in line]
    assert len(lines) == 1 and f"--trust {module} allows it" in lines[0] and "warning: bad: " in lines[0]
    assert "wrote" in said.out and (folder.analysis / "report.html").exists()
    arms = json.loads((folder.analysis / "benchmark_results.json").read_text())["arms"]
    assert arms["good"]["benchmarks"] and not arms["bad"]["benchmarks"]
    page = (folder.analysis / "report.html").read_text()
    assert f"# these import {module}, as the folder says: is it yours?" in page and "trust_remote_code=True" in page
    assert nothing_ran(tmp_path)


def test_efficiency_of_an_arm_that_names_code_is_a_line(tmp_path):
    (trial,) = planted(tmp_path / "results", SHELL).trials("bad")
    case = measurement.Case(trial.job().trial, 64, 1, 16, "cpu", "float32", 1)
    assert measurement.run(case, "train")["error"].endswith(
        "or from Python trust=['subprocess'] or trust_remote_code=True"
    )
    assert nothing_ran(tmp_path)


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForCausalLM])
def test_from_pretrained_says_the_one_line_until_it_is_trusted(tmp_path, auto):
    (trial,) = planted(tmp_path / "results", {"name": "planted:Payload"}).trials("bad")
    with pytest.raises(UserError, match="mixer planted:Payload: module planted was named in no sweep file") as error:
        auto.from_pretrained(trial.final)
    assert len(str(error.value).splitlines()) == 1 and nothing_ran(tmp_path)
    auto.from_pretrained(trial.final, trust_remote_code=True)  # its weights are another mixer's: they are drawn
    assert (tmp_path / "ran").exists() and trust.named() == []


def test_trust_on_the_command_line_lets_an_own_mixer_be_scored(tmp_path, capsys):
    mixer = {"name": "planted:Payload"}
    fake = Fake(tmp_path / "results", {**SWEEP, "arms": {"bad": {"model": {"mixer": mixer}}}})
    export(fake.trial("bad", 3.0).path, mixer)
    trust._named.clear()
    options = ["--benchmarks", "arithmetic_1", "--limit", "2", "--device", "cpu"]
    assert main([str(fake.path), *options]) == 0
    assert "--trust planted allows it" in capsys.readouterr().err
    assert main([str(fake.path), *options, "--trust", "planted"]) == 0
    assert "planted" not in capsys.readouterr().err
    arms = json.loads((SweepDir(fake.path).analysis / "benchmark_results.json").read_text())["arms"]
    assert arms["bad"]["benchmarks"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"vocab_size": 10**7},
        {"vocab_size": 10**12},
        {"d_model": 10**7},
        {"n_layers": 10**12},
        {"n_layers": 1},
        {"d_ff": 10**12},
        {"mixer": [{"name": "gla", "expand_v": 10**9}]},
        {"mixer": [{"name": "gsa", "num_slots": 10**12}]},
        {"mixer": [{"name": "gla"}, {"name": "mamba", "expand": 10**7}]},
        {"n_heads": 10**9},
    ],
    ids=json.dumps,
)
def test_sizes_that_the_weights_do_not_have_are_refused_before_memory_is_asked_for(
    exported, tmp_path, monkeypatch, wrong
):
    final = shutil.copytree(exported("gla"), tmp_path / "final")
    edit(final / "config.json", **wrong)
    monkeypatch.setattr(backbone.BackboneForCausalLM, "__init__", lambda *args: pytest.fail("it was built"))
    monkeypatch.setattr(backbone.Backbone, "__init__", lambda *args: pytest.fail("it was built"))
    for auto in (AutoModelForCausalLM, AutoModel):
        with pytest.raises(UserError, match="damaged, ") as error:
            auto.from_pretrained(final)
        assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 500


def test_keys_with_which_transformers_fetches_or_runs_more_are_left_out(exported, tmp_path):
    final = shutil.copytree(exported("gla"), tmp_path / "final")
    auto_map = {"AutoConfig": "planted.Payload", "AutoModelForCausalLM": "planted.Payload"}
    (final / "planted.py").write_text(PLANTED)
    more = {"auto_map": auto_map, "attn_implementation": "stranger/kernel", "transformers_weights": "other.safetensors"}
    edit(final / "config.json", num_labels=10**12, **more)
    edit(
        final / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["planted.Payload", None]},
        tokenizer_class="Payload",
    )
    loaded = AutoModelForCausalLM.from_pretrained(final)
    assert all(not getattr(loaded.config, key, None) for key in more)
    assert load(Spec(str(final)), tmp_path).vocab_size == 257
    assert nothing_ran(tmp_path) and not (final / "ran").exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "_attn_implementation_internal"])
@pytest.mark.parametrize("kernel", ["stranger/kernel", {"": "stranger/kernel"}], ids=["name", "mapping"])
def test_no_kernel_that_a_checkpoint_names_is_fetched(exported, tmp_path, monkeypatch, key, kernel):
    fetched = []
    monkeypatch.setattr(hub_kernels, "load_and_register_attn_kernel", lambda *args, **rest: fetched.append(args))
    final = shutil.copytree(exported("gla"), tmp_path / "final")
    edit(final / "config.json", **{key: kernel})
    for kind in (AutoModel, AutoModelForCausalLM):
        assert kind.from_pretrained(final).config._attn_implementation == "eager"
    assert open_model(final)[0] and not fetched


@pytest.mark.parametrize(
    "key", ["dtype", "get_text_config", "id2label", "layer_types", "rope_parameters", "rope_scaling", "sub_configs"]
)
@pytest.mark.parametrize("value", ["x", 1, [[]]], ids=repr)
def test_a_key_of_transformers_own_with_a_value_that_it_cannot_take_is_one_line(exported, tmp_path, key, value):
    final = shutil.copytree(exported("gla"), tmp_path / "final")
    edit(final / "config.json", **{key: value})
    try:
        open_model(final)
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and str(final) in str(error)


def test_weights_in_the_other_format_are_not_read(exported, tmp_path):
    final = shutil.copytree(exported("gla"), tmp_path / "final")
    torch.save({}, final / "pytorch_model.bin")
    (final / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoModelForCausalLM.from_pretrained(final)


def test_a_tokenizer_that_panics_is_one_line(folder, capfd):
    (trial,) = folder.trials("bad")
    tree = json.loads((trial.final / "tokenizer.json").read_text())
    tree["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    (trial.final / "tokenizer.json").write_text(json.dumps(tree))
    assert main([str(folder.path), "--benchmarks", "arithmetic_1", "--limit", "2", "--device", "cpu"]) == 0
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert line.startswith("warning: bad: ") and "no tokenizer.json: Precompiled" in line


@pytest.mark.parametrize("where", ["trial", "records", "final", "weights"])
def test_a_trial_behind_a_link_out_of_the_folder_is_left_out_with_a_line(folder, tmp_path, capsys, where):
    (trial,) = folder.trials("bad")
    path = {"trial": trial.path, "records": trial.metrics_file, "final": trial.final,
            "weights": trial.final / "model.safetensors"}[where]  # fmt: skip
    away = tmp_path / "away"
    shutil.move(path, away)
    path.symlink_to(away)
    assert main([str(folder.path), "--benchmarks", "arithmetic_1", "--limit", "2", "--device", "cpu"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if str(away) in line]
    assert len(lines) == 1 and f"bad/{trial.trial_id}: left out: {path}: it leads out of" in lines[0]
    assert "bad" not in json.loads((folder.analysis / "benchmark_results.json").read_text())["arms"]


@pytest.mark.parametrize("name", ["analysis", "sweep.yaml", "bad"])
def test_a_folder_whose_own_files_are_links_out_of_it_is_refused_in_a_line(folder, tmp_path, capsys, name):
    away, path = tmp_path / "away", folder.path / name
    shutil.move(path, away) if path.exists() else away.mkdir()
    path.symlink_to(away)
    before = sorted(away.rglob("*"))
    assert main([str(folder.path), "--benchmarks", "none"]) == 2
    assert f"error: {path}: it leads out of the results folder, to {away}" in capsys.readouterr().err
    assert sorted(away.rglob("*")) == before


def test_the_folder_itself_may_be_a_link_and_so_may_what_stays_in_it(folder, tmp_path, capsys):
    (trial,) = folder.trials("bad")
    shutil.move(trial.metrics_file, trial.path / "kept.jsonl")
    trial.metrics_file.symlink_to("kept.jsonl")
    (tmp_path / "here").symlink_to(folder.path)
    assert main([str(tmp_path / "here"), "--benchmarks", "none"]) == 0
    assert "left out" not in capsys.readouterr().err
    assert (folder.analysis / "report.html").exists()


@pytest.mark.parametrize("wrong", ["../../../escaped", "/tmp/escaped", "..", "t000-0000000000"])
def test_an_id_that_is_a_path_is_one_of_nobodys_and_nothing_is_written_there(folder, tmp_path, capsys, wrong):
    (trial,) = folder.trials("bad")
    edit(trial.config_file, trial_id=wrong)
    before = {path for path in tmp_path.rglob("*") if folder.path not in path.parents}
    assert main([str(folder.path), "--benchmarks", "none"]) == 0
    assert f"bad/{trial.trial_id}/experiment_config.json cannot be used" in capsys.readouterr().err
    plan = read(folder.sweep_file)
    (line,) = mend_sweep(plan, Mirror(folder))
    assert str(trial.config_file) in line and "made again from the sweep" in line
    assert trial.job().trial_id == trial.trial_id
    assert {path for path in tmp_path.rglob("*") if folder.path not in path.parents} == before


def test_what_a_records_trial_says_is_not_what_a_resumed_sweep_trains(tmp_path):
    folder = planted(tmp_path / "results", {"name": "planted:Payload"})
    plan = Plan.of(Sweep.model_validate(SWEEP))
    with pytest.raises(UserError, match="holds another sweep of this name: arms.bad model.mixer"):
        check_folder(plan, folder, True, "fake")
    folder.sweep_file.write_text(sweep_file.dump(plan.sweep))  # as if it were the user's
    (line,) = mend_sweep(plan, Mirror(folder))
    assert "bad" in line and "its settings do not make its trial" in line and "set aside" in line
    assert [trial.arm for trial in folder.trials()] == ["good"] and nothing_ran(tmp_path)


@pytest.mark.parametrize("file", ["metrics.jsonl", "checkpoints", "../../analysis"])
def test_a_sweep_is_not_resumed_through_a_link_out_of_its_folder(folder, tmp_path, file):
    (trial,) = folder.trials("bad")
    path = trial.path / file
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(tmp_path / "planted.py")
    with pytest.raises(UserError, match=f"{path.name}: it leads out of the results folder, to {tmp_path}/planted.py"):
        check_folder(read(folder.sweep_file), folder, True, "fake")
    assert (tmp_path / "planted.py").read_text() == PLANTED
