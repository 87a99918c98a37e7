"""Checkpoints: forced to the disk before they get their name, and only the newest are kept."""

import json
import os

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from attnlab.config.trial import OptimConfig
from attnlab.optim import make_optimizer
from attnlab.records.paths import TrialDir
from attnlab.training import checkpoint
from attnlab.util.errors import DiskFull
from attnlab.util.files import replacing


def made(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    return model, make_optimizer(model, OptimConfig(name="adamw"), 10, "cpu")


@pytest.fixture
def synced(monkeypatch):
    """The inodes that were forced to the disk, and whether `path` was there already."""
    seen, forced = [], os.fsync

    def note(handle):
        seen.append(os.fstat(handle).st_ino)
        forced(handle)

    monkeypatch.setattr(os, "fsync", note)
    return seen


def test_a_checkpoints_files_and_folders_are_forced_to_the_disk_before_it_gets_its_name(tmp_path, synced, monkeypatch):
    before, rename = [], os.replace

    def renamed(*paths):
        before.extend(synced)
        rename(*paths)

    monkeypatch.setattr(os, "replace", renamed)
    path = checkpoint.save(TrialDir(tmp_path), 3, *made(), {})
    files = {p.stat().st_ino: p.name for p in path.iterdir()}
    assert sorted(files.values()) == ["model.safetensors", "optimizer.safetensors", "state.json"]
    assert {*files, path.stat().st_ino} <= set(before), "the files and their folder before the renaming"
    assert path.parent.stat().st_ino in synced[len(before) :], "the name itself after it"


@pytest.mark.parametrize("sync", [True, False])
def test_a_file_is_forced_to_the_disk_unless_told_otherwise(tmp_path, synced, sync):
    with replacing(tmp_path / "x", sync=sync) as scratch:
        scratch.write_text("x")
    assert ((tmp_path / "x").stat().st_ino in synced) == sync


def test_what_was_saved_is_loaded_in_place(tmp_path):
    home, (model, optimizer) = TrialDir(tmp_path), made()
    model(torch.randn(5, 3)).square().sum().backward()  # moves the buffers too
    optimizer.step()
    path = checkpoint.save(home, 12, model, optimizer, {"seen": 7})
    assert path == home.checkpoints / "step_00000012"
    other, another = made(1)
    places = {name: tensor.data_ptr() for name, tensor in checkpoint.tensors(other).items()}
    assert checkpoint.load(home, other, another) == {"step": 12, "seen": 7}
    for name, tensor in checkpoint.tensors(other).items():
        assert torch.equal(tensor, checkpoint.tensors(model)[name]) and tensor.data_ptr() == places[name]
    assert all(torch.equal(x, another.state_dict()[key]) for key, x in optimizer.state_dict().items())
    assert {"1.running_mean", "0.weight"} <= set(places)


def test_the_newest_two_are_kept_and_at_the_end_one(tmp_path):
    home, both = TrialDir(tmp_path), made()
    for step in (2, 4, 10, 8):
        checkpoint.save(home, step, *both, {})
    assert [p.name for p in checkpoint.steps(home)] == ["step_00000008", "step_00000010"]
    checkpoint.tidy(home)
    assert [p.name for p in checkpoint.steps(home)] == ["step_00000010"]


def test_what_another_process_removed_meanwhile_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "steps", lambda trial: [tmp_path / "gone", tmp_path / "kept"])
    checkpoint.tidy(TrialDir(tmp_path))


@pytest.mark.parametrize(
    ("said", "raised"),
    [
        ("I/O error: No space left on device (os error 28)", DiskFull),
        ("I/O error: Input/output error (os error 5)", OSError),
        ("some other trouble", SafetensorError),
    ],
)
def test_what_safetensors_says_in_words_is_the_systems_error(tmp_path, monkeypatch, said, raised):
    home, both = TrialDir(tmp_path), made()
    kept = checkpoint.save(home, 1, *both, {})

    def fail(*args):
        raise SafetensorError(said)

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(raised) as error:
        checkpoint.save(home, 2, *both, {})
    if raised is OSError:
        assert (error.value.errno, error.value.filename) == (5, str(home.checkpoints / "step_00000002"))
    assert list(home.checkpoints.iterdir()) == [kept], "as it was"


@pytest.mark.parametrize("file", ["state.json", "model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_an_unreadable_one_is_passed_over_and_named(tmp_path, capsys, file, damage):
    home, (model, optimizer) = TrialDir(tmp_path), made()
    for step in (1, 2):
        newest = checkpoint.save(home, step, model, optimizer, {})
    (newest / file).write_bytes(damage) if damage is not None else (newest / file).unlink()
    assert checkpoint.load(home, model, optimizer)["step"] == 1
    assert f"{newest}: unreadable checkpoint passed over" in capsys.readouterr().out
    for path in checkpoint.steps(home):
        (path / "state.json").unlink(missing_ok=True)
    assert checkpoint.load(home, model, optimizer) is None


def test_one_that_the_records_do_not_fit_is_passed_over_for_an_older_one(tmp_path, capsys):
    home, (model, optimizer) = TrialDir(tmp_path), made()
    for step in (1, 2):
        newest = checkpoint.save(home, step, model, optimizer, {"n": step})
    found = checkpoint.load(home, model, optimizer, lambda state: state["n"] < 2)
    assert found == {"step": 1, "n": 1}
    assert capsys.readouterr().out == f"attnlab: {newest}: passed over, reports before it are lost\n"
    assert checkpoint.load(home, model, optimizer, lambda state: False) is None


@pytest.mark.parametrize(
    ("change", "said"), [("key", "other tensors: 0.bias"), ("shape", "(3,)"), ("dtype", "float64")]
)
def test_one_of_another_model_is_passed_over_before_anything_is_changed(tmp_path, capsys, change, said):
    home, (model, optimizer) = TrialDir(tmp_path), made()
    path = checkpoint.save(home, 1, model, optimizer, {}) / "model.safetensors"
    (path.parent / "state.json").write_text('{"step": 1}')  # of an older version, which kept no digests
    found = load_file(path)
    bias = found.pop("0.bias")
    changed = {"key": {}, "shape": {"0.bias": bias[:3]}, "dtype": {"0.bias": bias.double()}}[change]
    save_file({**found, **changed}, path)
    before = model[0].weight.clone()
    with torch.no_grad():
        model[0].weight.zero_()
    assert checkpoint.load(home, model, optimizer) is None
    assert model[0].weight.eq(0).all() and before.ne(0).any() and said in capsys.readouterr().out


def test_checkpoints_beyond_the_step_to_go_on_from_are_removed(tmp_path, monkeypatch):
    home, both = TrialDir(tmp_path), made()
    monkeypatch.setattr(checkpoint, "KEEP", 9)
    for step in (2, 4, 10):
        checkpoint.save(home, step, *both, {})
    checkpoint.remove_after(home, 4)
    assert [p.name for p in checkpoint.steps(home)] == ["step_00000002", "step_00000004"]
    monkeypatch.setattr(checkpoint, "steps", lambda trial: [home.checkpoints / "step_00000009"])
    checkpoint.remove_after(home, 4)  # removed by another process meanwhile


class Exporting:
    def save_pretrained(self, folder):
        (folder / "model.safetensors").write_bytes(b"x")


@pytest.mark.parametrize("file", checkpoint.TENSORS)
def test_a_bit_that_flipped_in_its_tensors_shows(tmp_path, capsys, file):
    home, (model, optimizer) = TrialDir(tmp_path), made()
    raw = bytearray((path := checkpoint.save(home, 1, model, optimizer, {}) / file).read_bytes())
    raw[-1] ^= 1  # of a number: the file is read as any other
    path.write_bytes(raw)
    assert checkpoint.load(home, model, optimizer) is None
    assert f"({file}: its content was changed)" in capsys.readouterr().out


def test_a_transposed_parameter_is_saved_as_it_is_seen(tmp_path):
    home, (model, _) = TrialDir(tmp_path), made()
    model[0].weight = nn.Parameter(torch.arange(12.0).view(3, 4).T)
    optimizer = make_optimizer(model, OptimConfig(name="adamw"), 10, "cpu")
    checkpoint.save(home, 1, model, optimizer, {})
    other, another = made(1)
    assert checkpoint.load(home, other, another) and torch.equal(other[0].weight, model[0].weight)


@pytest.mark.parametrize("eos", [None, 0, 2])
def test_an_export_holds_the_tokenizer_as_transformers_reads_it(tmp_path, eos):
    from tokenizers import Tokenizer, models

    text = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<eos>": 2}, unk_token="a")).to_str()
    final = checkpoint.export(TrialDir(tmp_path), Exporting(), text, eos)
    wanted = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **({"eos_token": "<eos>" if eos else "a"} if eos is not None else {}),
    }
    assert json.loads((final / "tokenizer_config.json").read_text()) == wanted
    assert (final / "tokenizer.json").read_text() == text and final == TrialDir(tmp_path).final
    final = checkpoint.export(TrialDir(tmp_path), Exporting(), None)
    assert sorted(p.name for p in final.iterdir()) == ["digests.json", "model.safetensors"]
