"""A bit that flips in an exported model is noticed by whoever loads it, and told in one line with the file."""

import json
import shutil

import pytest
from transformers import AutoModel, AutoModelForCausalLM

from analysis.command_line import main
from analysis.scoring.checkpoints import open_model
from attnlab.util import signature
from attnlab.util.errors import UserError
from tests.analysis.fake_results import Fake
from tests.analysis.small import export
from tests.analysis.test_hostile_folder import SWEEP

FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    return export(tmp_path_factory.mktemp("signed"), signed=True)


@pytest.fixture
def final(signed, tmp_path):
    return shutil.copytree(signed, tmp_path / "final")


def flip(path, where=-3):
    raw = bytearray(path.read_bytes())
    raw[where] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_bit_in_an_export_is_one_line_with_the_file(final, file):
    if file.endswith(".json"):  # another value, and JSON still
        (final / file).write_text((final / file).read_text() + "\n")
    else:
        flip(final / file)
    said = f"{final / file}: damaged, its content was changed since it was exported"
    for load in (open_model, AutoModel.from_pretrained, AutoModelForCausalLM.from_pretrained):
        with pytest.raises(UserError) as error:
            load(final)
        assert str(error.value) == said


def test_analysis_names_the_changed_file_and_scores_the_other_arms(tmp_path, capsys):
    fake = Fake(tmp_path / "results", SWEEP)
    finals = [export(fake.trial(arm, 3.0, steps=100).path, seed=i, signed=True) for i, arm in enumerate(SWEEP["arms"])]
    flip(finals[1] / "model.safetensors")
    assert main([str(fake.path), "--benchmarks", "arithmetic_1", "--limit", "2", "--device", "cpu"]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "bad" in line]
    assert (
        line == f"warning: bad: {finals[1]}/model.safetensors: damaged, its content was changed since it was exported"
    )
    arms = json.loads((fake.folder.analysis / "benchmark_results.json").read_text())["arms"]
    assert arms["good"]["benchmarks"] and not arms["bad"]["benchmarks"]


def test_an_export_without_digests_loads_as_before(final):
    signature.unsign(final)
    flip(final / "model.safetensors")
    assert open_model(final)[0]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"files": 3, "digest": 4}', '{"files": {}, "digest": "x"}', "[" * 9999]
)
def test_damaged_digests_are_one_line(final, text):
    (final / signature.NAME).write_text(text)
    with pytest.raises(UserError, match=r"digests\.json: damaged; it kept the digests of the files beside it$"):
        open_model(final)


def test_a_model_saved_over_an_export_is_loaded(final):
    model = AutoModelForCausalLM.from_pretrained(final)
    model.head.weight.data.add_(1)
    model.save_pretrained(final)
    assert AutoModelForCausalLM.from_pretrained(final).head.weight.equal(model.head.weight)


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.symlink_to("nowhere")])
def test_digests_that_are_no_file_are_one_line(final, make):
    (final / signature.NAME).unlink()
    make(final / signature.NAME)
    with pytest.raises(UserError, match=r"digests.json: damaged"):
        signature.check(final)
