"""A sweep's checkpoints through the benchmarks: what is written, what is done again, what a damaged one costs."""

import json
import shutil

import jsonschema
import pytest

from analysis.command_line import main
from analysis.scoring import exam as base
from attnlab.records.paths import SweepDir
from tests.analysis.fake_results import Fake
from tests.analysis.small import export

RESULT = {
    "type": "object",
    "required": ["benchmark", "digest", "version", "source", "checkpoint", "dtype", "n", "n_all", "limited", "metric",
                 "value", "chance", "higher_is_better", "metrics"],
    "properties": {
        "digest": {"type": "string", "pattern": "^[0-9a-f]{20}$"},
        "checkpoint": {"type": "string", "pattern": "^[0-9a-f]{20}$"},
        "n": {"type": "integer", "minimum": 1},
        "limited": {"type": "boolean"},
        "value": {"type": "number"},
        "chance": {"type": ["number", "null"]},
        "metrics": {
            "additionalProperties": {
                "required": ["value", "how", "column", "chance", "higher_is_better"],
            },
        },
    },
}  # fmt: skip
SWEEP = {
    "name": "fake",
    "trial": {
        "model": {"d_model": 32, "n_layers": 2, "n_heads": 2},
        "task": {"name": "mqar", "seq_len": 32, "vocab_size": 250},
    },
    "arms": {"standard": {"model.mixer": "standard"}, "gla": {"model.mixer": "gla"}, "hgrn": {"model.mixer": "hgrn"}},
}


@pytest.fixture
def sweep(tmp_path):
    """Three arms with a checkpoint each; hgrn's second trial was better when it was pruned, and is no candidate."""
    fake = Fake(tmp_path, {**SWEEP, "arms": {arm: {"model": {"mixer": arm}} for arm in SWEEP["arms"]}})
    for i, arm in enumerate(SWEEP["arms"]):
        export(fake.trial(arm, 3.0 + i, steps=100).path, arm, seed=i)
    fake.trial("hgrn", 2.0, steps=30, state="pruned", seed=1)
    return fake.path


def run(sweep, *options):
    return main([str(sweep), "--device", "cpu", "--limit", "7", *options])


def results(sweep):
    return json.loads((SweepDir(sweep).analysis / "benchmark_results.json").read_text())


@pytest.fixture
def asked(monkeypatch):
    """Names of the exams that a model had to answer."""
    seen, make = [], base.Exam.__init__

    def counting(self, *args, **kwargs):
        make(self, *args, **kwargs)
        ask = self.ask
        object.__setattr__(self, "ask", lambda scorer, advance: (seen.append(self.name), ask(scorer, advance))[1])

    monkeypatch.setattr(base.Exam, "__init__", counting)
    return seen


def test_every_arm_is_scored_and_the_rest_of_the_report_made(sweep, capsys):
    assert run(sweep, "--benchmarks", "arithmetic_1", "task") == 0
    tree = results(sweep)
    assert list(tree["arms"]) == ["standard", "gla", "hgrn"] and tree["limit"] == 7
    for row in tree["arms"].values():
        assert list(row["benchmarks"]) == ["arithmetic_1", "mqar_x1", "mqar_x2", "mqar_x4", "mqar_x8"]
        for result in row["benchmarks"].values():
            jsonschema.validate(result, RESULT)
            assert result["limited"] and result["n"] == 7 and result["dtype"] == "float32"
            assert all(len(column) == 7 for column in result["items"].values())
        assert row["benchmarks"]["arithmetic_1"]["chance"] == 0.25
    flat = json.loads((sweep / "all_benchmark_results.json").read_text())
    assert len(flat) == 15 and {row["arm"] for row in flat} == set(SWEEP["arms"])
    for row in flat:
        jsonschema.validate(row, RESULT)
        assert "items" not in row
    said = capsys.readouterr()
    assert "7 of 255, limited" in said.out and (sweep / "analysis/report.html").exists()
    assert said.err == "" and tree["arms"]["hgrn"]["trial_id"].startswith("t002")


def test_a_rerun_asks_only_what_is_new(sweep, asked, capsys):
    run(sweep, "--benchmarks", "arithmetic_1")
    assert asked == ["arithmetic_1"] * 3
    first = results(sweep)
    run(sweep, "--benchmarks", "arithmetic_1", "simple_qa")
    assert asked[3:] == ["simple_qa"] * 3
    again = results(sweep)
    for arm, row in first["arms"].items():
        assert again["arms"][arm]["benchmarks"]["arithmetic_1"] == row["benchmarks"]["arithmetic_1"]
    run(sweep, "--benchmarks", "arithmetic_1", "--fresh", "--arm", "gla")
    assert asked[6:] == ["arithmetic_1"] and list(results(sweep)["arms"]) == ["gla"]
    del asked[:]
    kept = sorted((sweep / "analysis/benchmarks").glob("*.json"))
    kept[0].write_text(kept[0].read_text()[:100])  # cut short by a full disk
    run(sweep, "--benchmarks", "arithmetic_1", "simple_qa")
    assert len(asked) == 1
    del asked[:]
    (final,) = sweep.glob("gla/*/checkpoints/final")
    shutil.rmtree(final)
    export(final.parents[1], "gla", seed=99)
    run(sweep, "--benchmarks", "simple_qa")
    assert asked == ["simple_qa"], "another checkpoint's results were taken"


def spoil(final, how):
    weights = final / "model.safetensors"
    if how == "missing":
        shutil.rmtree(final)
    elif how == "half-written":
        weights.unlink()
    elif how == "cut":
        weights.write_bytes(weights.read_bytes()[:2000])
    elif how == "garbage":
        weights.write_bytes(b"garbage" * 100)
    elif how == "no JSON":
        (final / "config.json").write_text("{")
    elif how == "foreign":
        (final / "config.json").write_text('{"model_type": "gpt2"}')
    elif how == "of another arm":
        shutil.rmtree(final)
        export(final.parents[1], "deltanet")
    elif how == "copied from another arm":
        (other,) = final.parents[3].glob("standard/*/checkpoints/final")  # its results are there before this one's
        shutil.rmtree(final)
        shutil.copytree(other, final)
    elif how == "no model":
        (final / "config.json").write_text('{"model_type": "attnlab", "d_model": "wide"}')
    elif how == "of another size":
        shutil.copy(export(final.parents[1] / "other", "gla", d_model=64) / "model.safetensors", weights)
    elif how == "tensors lost":
        from safetensors.torch import load_file, save_file

        tensors = load_file(weights)
        tensors.pop(sorted(tensors)[0])
        save_file(tensors, weights, {"format": "pt"})
    elif how == "not finite":
        from safetensors.torch import load_file, save_file

        tensors = load_file(weights)
        next(iter(tensors.values())).view(-1)[0] = float("nan")
        save_file(tensors, weights, {"format": "pt"})
    elif how == "tokenizer":
        (final / "tokenizer.json").write_text("{}")


SAYS = {
    "missing": "no such checkpoint",
    "half-written": "it lacks model.safetensors",
    "cut": "damaged",
    "garbage": "damaged",
    "no JSON": "config.json is no JSON",
    "foreign": "a foreign checkpoint, of a model of type 'gpt2'",
    "of another arm": "of another model than its trial's experiment_config.json",
    "copied from another arm": "of another model than its trial's experiment_config.json",
    "no model": "config.json describes no model",
    "of another size": "",
    "tensors lost": "1 tensors missing",
    "not finite": "not finite",
    "tokenizer": "tokenizer.json",
}


@pytest.mark.parametrize("how", SAYS)
def test_a_bad_checkpoint_costs_one_line(sweep, capsys, how):
    (final,) = sweep.glob("gla/*/checkpoints/final")
    spoil(final, how)
    assert run(sweep, "--benchmarks", "arithmetic_1") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "gla" in line]
    assert len(lines) == 1 and str(final) in lines[0] and SAYS[how] in lines[0], lines
    arms = results(sweep)["arms"]
    assert arms["gla"]["error"] and not arms["gla"]["benchmarks"]
    assert arms["standard"]["benchmarks"] and arms["hgrn"]["benchmarks"] and not arms["hgrn"]["error"]
    assert (sweep / "analysis/report.html").exists()


def test_one_trial_or_one_checkpoint(sweep, capsys, tmp_path):
    assert run(sweep, "--benchmarks", "arithmetic_1", "--trial", "gla/t001") == 0
    assert list(results(sweep)["arms"]) == ["gla"]
    alone = export(tmp_path / "alone", "gla", seed=5)
    assert main(["--checkpoint", str(alone), "--device", "cpu", "--limit", "5", "--benchmarks", "simple_qa"]) == 0
    tree = json.loads((alone.parent / "analysis/benchmark_results.json").read_text())
    assert tree["arms"][str(alone)]["benchmarks"]["simple_qa"]["n"] == 5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--benchmarks", "hellaswg"], "--benchmarks hellaswg: no such benchmark; did you mean 'hellaswag'?"),
        (["--arm", "glaa"], "--arm glaa: the sweep has no such arm; did you mean 'gla'?"),
        (["--trial", "t9"], "--trial t9: no such trial"),
        (["--device", "tpu9"], "--device tpu9: "),
        (["--dtype", "int8"], "--dtype int8: one of auto, float32, bfloat16, float16"),
        (["--limit", "0"], "--limit 0: at least 1"),
        (["--data-dir", "/nowhere"], "--data-dir /nowhere: no such folder"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(sweep, capsys, options, says):
    assert main([str(sweep), *options]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {says}") and said.err.count("\n") == 1
    assert not SweepDir(sweep).analysis.exists()


def test_text_that_cannot_be_read_and_data_that_is_not_there_are_lines(sweep, capsys, tmp_path):
    assert run(sweep, "--benchmarks", "text", "arithmetic_1", "--text", str(tmp_path / "none.txt")) == 0
    lines = capsys.readouterr().err.splitlines()
    assert sum("--text" in line and "cannot be read" in line for line in lines) == 1
    assert all(row["benchmarks"] for row in results(sweep)["arms"].values())


def test_a_model_without_a_tokenizer_is_asked_its_own_task_alone(sweep, asked):
    for file in sweep.glob("*/*/checkpoints/final/tokenizer.json"):
        file.unlink()
    assert main([str(sweep), "--device", "cpu", "--limit", "3"]) == 0
    assert set(asked) == {"mqar_x1", "mqar_x2", "mqar_x4", "mqar_x8"}


def test_memory_that_runs_out_halves_what_is_read_at_once():
    import torch

    from analysis.scoring.run import FEWEST_TOKENS, _ask

    class Scorer:
        max_tokens = 8 * FEWEST_TOKENS

    def ask(scorer, advance):
        if scorer.max_tokens > enough:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return base.Answers({"tokens": [scorer.max_tokens]})

    exam = base.Exam("x", "", "1", ["0"], 1, [], {}, 1, ask)
    enough = 3 * FEWEST_TOKENS
    assert _ask(exam, Scorer(), lambda n: None).columns["tokens"] == [2 * FEWEST_TOKENS]
    enough = 1
    with pytest.raises(torch.OutOfMemoryError):
        _ask(exam, Scorer(), lambda n: None)


def test_a_benchmarks_texts_are_tokenised_once_for_all_arms(sweep, monkeypatch):
    from attnlab.data.tokenizer import Tokenizer

    lists, encode = [], Tokenizer.encode
    monkeypatch.setattr(Tokenizer, "encode", lambda self, texts: (lists.append(tuple(texts)), encode(self, texts))[1])
    assert run(sweep, "--benchmarks", "arithmetic_1", "simple_qa") == 0
    asked = [texts for texts in lists if len(texts) > 1]
    assert asked and len(asked) == len(set(asked))
