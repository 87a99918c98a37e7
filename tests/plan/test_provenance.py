"""What a trial was made of is recorded, and a run that would mix it with something else is refused."""

import json
import sys
from pathlib import Path

import pytest

from attnlab import run_experiment
from attnlab.config.sweep_file import dump
from attnlab.config.trial import Trial
from attnlab.plan.load import resolve
from attnlab.plan.prepare import prepare_tasks
from attnlab.plan.provenance import Provenance
from attnlab.records.paths import SweepDir
from attnlab.records.results import Job
from attnlab.sweep.folder import check_folder
from attnlab.util.errors import UserError
from attnlab.util.files import file_digest, read_json, write_json
from tests.tasks.test_text import word_level

MIXER = """
import torch


class Mean(torch.nn.Module):
    def __init__(self, d_model):
        super().__init__()
        self.proj = torch.nn.Linear(d_model, d_model)

    def forward(self, x, past_key_values=None, use_cache=False, **extra):
        return self.proj(x)
"""


@pytest.fixture
def made(tmp_path, monkeypatch, cache, tiny):
    """A trial's tree whose corpus, tokenizer and mixer are files of its own folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = Path(tiny["task"]["dataset"]).read_text(encoding="utf-8")
    for name, part in (("train", text[:30000]), ("validation", text[30000:])):
        (tmp_path / f"{name}.txt").write_text(part)
    word_level(tmp_path / "tokenizer.json", text.split())
    (tmp_path / "own_mean.py").write_text(MIXER)
    yield {
        **tiny,
        "model": {**tiny["model"], "mixer": "own_mean:Mean"},
        "task": {**tiny["task"], "dataset": "train.txt", "validation": "validation.txt", "tokenizer": "tokenizer.json"},
        "train": {**tiny["train"], "max_steps": 2},
    }
    sys.modules.pop("own_mean", None)


def plan_of(tree, **more):
    return resolve({"name": "study", "trial": tree, "arms": {"arm": {}}, **more})


def changed_file(name):
    path = Path(name)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("a", "b", 1) if path.suffix == ".txt" else text + "\n", encoding="utf-8")


CHANGES = {
    "train.txt": "the files of task.dataset train.txt have changed",
    "validation.txt": "the files of task.dataset train.txt have changed",
    "tokenizer.json": "the tokenizer tokenizer.json has changed",
    "own_mean.py": "the file of the mixer's module own_mean has changed",
}


def test_hashes_are_of_the_files_and_no_part_of_the_id(made):
    trial = plan_of(made).arm("arm").trial
    hashes = Provenance().of(trial)
    assert hashes.mixers == {"own_mean": file_digest(Path("own_mean.py"))} and "own_mean" not in sys.modules
    assert len(hashes.corpus) == len(hashes.tokenizer) == 64
    job = Job.make("arm", 0, trial, hashes=hashes)
    assert job.trial_id == Job.make("arm", 0, trial).trial_id
    assert Job.model_validate(json.loads(json.dumps(job.model_dump(mode="json")))) == job
    drawn = Provenance().of(Trial.model_validate({"task": {"name": "mqar", "seq_len": 64}}))
    assert (drawn.corpus, drawn.tokenizer, drawn.mixers) == (None, None, {})
    assert Provenance().of(Trial.model_validate({"task": {"dataset": "./gone.txt"}})) is None


@pytest.mark.parametrize("name", CHANGES)
def test_a_folder_is_not_resumed_with_another_corpus_tokenizer_or_mixer(name, made, tmp_path):
    plan, folder = plan_of(made), SweepDir(tmp_path / "results/study")
    write_json(folder.path / "x", {})
    folder.sweep_file.write_text(dump(plan.sweep))
    trial = plan.arm("arm").trial
    job = Job.make("arm", 0, trial, hashes=Provenance().of(trial))
    write_json(folder.trial("arm", job.trial_id).config_file, job.model_dump(mode="json"))
    check_folder(plan, folder, True, "here")
    changed_file(name)
    with pytest.raises(UserError) as error:
        check_folder(plan, folder, True, "here")
    (line,) = error.value.problems
    assert line.startswith(f"here: {CHANGES[name]} since its trials began: put back what was there, or start afresh")


def test_records_without_hashes_are_taken_as_they_are_with_one_line(made, tmp_path, capsys):
    plan, folder = plan_of(made), SweepDir(tmp_path / "results/study")
    write_json(folder.path / "x", {})
    folder.sweep_file.write_text(dump(plan.sweep))
    for number in range(3):
        job = Job.make("arm", number, plan.arm("arm").trial)
        tree = {key: value for key, value in job.model_dump(mode="json").items() if key != "hashes"}
        write_json(folder.trial("arm", job.trial_id).config_file, tree)
    name = str(folder.path)
    for _ in range(2):
        check_folder(plan, folder, True, name)
    assert capsys.readouterr().out == (
        f"attnlab: {name}: 3 of 3 trials recorded without hashes of corpus, tokenizer and mixers, "
        "and taken as they are\n"
    )


def test_records_without_hashes_are_not_resumed_where_a_folder_is_validated_on_in_another_way(made, tmp_path):
    """Versions that recorded none held out a part of all text of a folder, also beside files named for validation."""
    (tmp_path / "texts").mkdir()
    for name in ("train.txt", "validation.txt"):
        (tmp_path / "texts" / name).write_text((tmp_path / name).read_text())
    task = {key: value for key, value in made["task"].items() if key != "validation"}
    plan, folder = plan_of({**made, "task": {**task, "dataset": "texts"}}), SweepDir(tmp_path / "results/study")
    job = Job.make("arm", 0, plan.arm("arm").trial)
    write_json(folder.trial("arm", job.trial_id).config_file, job.model_dump(mode="json", exclude={"hashes"}))
    folder.sweep_file.write_text(dump(plan.sweep))
    with pytest.raises(UserError) as error:
        check_folder(plan, folder, True, "study")
    assert str(error.value) == (
        "study: the division of task.dataset texts (its own validation files, no longer a part of all its text) has "
        "changed since its trials began: put back what was there, or start afresh under another folder (--results DIR) "
        "or name (name=...)"
    )
    (tmp_path / "texts" / "validation.txt").unlink()
    check_folder(plan, folder, True, "study")


def test_run_experiment_refuses_changed_files_and_takes_old_records(made, tmp_path, capsys):
    results = run_experiment(made, tmp_path / "results", device="cpu")
    (file,) = tmp_path.glob("results/*/*/experiment_config.json")
    recorded = read_json(file)
    assert recorded["hashes"] == Provenance().of(plan_of(made).arm("arm").trial).model_dump()
    assert run_experiment(made, tmp_path / "results", device="cpu") == results
    changed_file("train.txt")
    with pytest.raises(UserError, match="^.*: the files of task.dataset train.txt have changed since it began"):
        run_experiment(made, tmp_path / "results", device="cpu")
    write_json(file, {key: value for key, value in recorded.items() if key != "hashes"})
    capsys.readouterr()
    assert run_experiment(made, tmp_path / "results", device="cpu") == results
    assert "recorded without hashes" in capsys.readouterr().out and read_json(file)["hashes"] is None


def test_a_metric_that_the_tokenizer_cannot_give_is_an_error_before_training(made):
    plan = plan_of(made, rank={"metric": "val_bpb"})
    with pytest.raises(UserError) as error:
        prepare_tasks(plan)
    (line,) = error.value.problems
    assert line.startswith("trial.task: no val_bpb, the sweep's metric: tokenizer tokenizer.json: ")
    assert line.endswith("come back from its tokens, so there are no bits per byte; use val_loss")
