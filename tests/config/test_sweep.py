"""A sweep file is checked whole: every mistake at once, each on one line that names its key."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from attnlab import cli
from attnlab.config import sweep_file
from attnlab.config.merge import expand, merge
from attnlab.config.resolved import Plan
from attnlab.config.sweep import Sweep
from attnlab.config.trial import ModelConfig, Trial
from attnlab.plan.load import load
from attnlab.util.errors import UserError

ROOT = Path(__file__).parents[2]
GOOD = """
name: study
trial:
  model: {d_model: 32, n_layers: 1, n_heads: 2}
  task: {name: text, dataset: austen, seq_len: 64}
  optim: {name: muon, lr: 1e-2}
  train: {max_steps: 40, batch_size: 4, eval_every: 10}
arms:
  standard: {model.mixer: standard}
  gla: {model.mixer: {name: gla, expand_k: 0.5}}
search:
  space: {optim.lr: {loguniform: [1e-4, 1e-1]}}
  trials: 3
  asha: {grace_steps: 10, reduction_factor: 2}
"""


def write(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return path


def problems(tmp_path, text, overrides=()):
    with pytest.raises(UserError) as error:
        load(write(tmp_path, text), overrides)
    found = error.value.problems
    assert all("\n" not in line for line in found), found
    return found


def only(tmp_path, old, new, *said):
    """The good file with one change has one problem, and its line says all of `said`."""
    assert old in GOOD
    found = problems(tmp_path, GOOD.replace(old, new))
    assert len(found) == 1, found
    for text in said:
        assert text in found[0], found[0]


def test_the_good_file_is_read_as_it_says(tmp_path):
    plan = load(write(tmp_path, GOOD))
    assert plan.arm("gla").trial.optim.lr == 0.01
    assert plan.arm("gla").trial.model.mixer[0].args == {"expand_k": 0.5}
    assert plan.arm("standard").with_settings({"optim.lr": 0.5}).optim.lr == 0.5
    assert (plan.total_trials, plan.total_steps, plan.total_tokens) == (6, 240, 240 * 4 * 64)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("d_model: 32", "d_modle: 32", ["trial.model.d_modle", "did you mean 'd_model'"]),
        ("trials: 3", "trails: 3", ["search.trails", "did you mean 'trials'"]),
        ("max_steps: 40", "max_steps: many", ["trial.train.max_steps", "a whole number"]),
        ("lr: 1e-2", "lr: -1", ["trial.optim.lr", "above 0"]),
        ("name: muon", "name: adamm", ["trial.optim.name", "'adamw'"]),
        ("expand_k: 0.5", "expnad_k: 0.5", ["arms.gla.model.mixer", "expnad_k", "did you mean 'expand_k'"]),
        ("name: gla", "name: glaa", ["arms.gla.model.mixer", "glaa", "did you mean 'gla'"]),
        ("name: gla", "name: gal", ["arms.gla.model.mixer", "gal", "did you mean 'gla'"]),  # and not gsa
        ("mixer: standard", "mixer: {name: standard, expand_k: 1}", ["arms.standard.model.mixer", "expand_k"]),
        ("n_heads: 2", "n_heads: 3", ["n_heads", "32"]),
        ("[1e-4, 1e-1]", "[1e-1, 1e-4]", ["search.space", "optim.lr", "reversed"]),
        ("[1e-4, 1e-1]", "[1e-2, 1e-2]", ["search.space", "optim.lr", "empty"]),
        ("optim.lr: {log", "optim.lrr: {log", ["search.space.optim.lrr", "unknown key", "did you mean 'lr'"]),
        ("dataset: austen", "dataset: asten", ["dataset", "asten", "austen"]),
        ("dataset: austen", "datast: austen", ["trial.task", "datast", "did you mean 'dataset'"]),
        ("batch_size: 4", "batch_size: 4, grad_accum: 3", ["batch_size", "multiple of 3"]),
        ("grace_steps: 10", "grace_steps: 15", ["grace_steps", "multiple"]),
        ("grace_steps: 10", "grace_steps: 40", ["grace_steps", "max_steps"]),
        ("name: text,", "name: txt,", ["txt", "did you mean 'text'"]),
        ("name: study", "name: a/b", ["name"]),
    ],
)
def test_one_mistake_is_one_line_naming_the_key(tmp_path, old, new, said):
    found = problems(tmp_path, GOOD.replace(old, new))
    assert old in GOOD
    assert any(all(text in line for text in said) for line in found), found
    assert len(found) <= 2, found


def test_all_mistakes_are_told_at_once(tmp_path):
    text = GOOD.replace("d_model: 32", "d_modle: 32").replace("expand_k", "expnad_k").replace("trials: 3", "trials: 0")
    found = "\n".join(problems(tmp_path, text))
    for key in ("d_modle", "expnad_k", "search.trials"):
        assert key in found


def test_a_mistake_of_all_arms_is_told_once(tmp_path):
    (line,) = problems(tmp_path, GOOD.replace("dataset: austen", "dataset: /nowhere/x.txt"))
    assert line.startswith("trial.task") and "/nowhere/x.txt" in line


def test_a_corpus_shorter_than_one_block_is_one_line(tmp_path):
    from attnlab.plan.prepare import prepare_tasks

    (tmp_path / "short.txt").write_text("It is a truth.\nUniversally\n")
    plan = load(write(tmp_path, GOOD.replace("dataset: austen", f"dataset: {tmp_path}/short.txt")))
    with pytest.raises(UserError, match="seq_len") as error:
        prepare_tasks(plan)
    assert len(error.value.problems) == 1


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trial.train.max_step=3", "did you mean 'max_steps'"),
        ("optim.lr=3", "did you mean 'trial.optim.lr'"),
        ("arms.glaa.optim.lr=3", "did you mean 'gla'"),
        ("trial.train.max_steps", "key=value"),
        ("serch.trials=3", "did you mean 'search'"),
    ],
)
def test_a_mistaken_override_is_one_line(tmp_path, override, said):
    (line,) = problems(tmp_path, GOOD, [override])
    assert said in line


def test_mistakes_in_overrides_and_by_them_are_told_together(tmp_path):
    said = problems(tmp_path, GOOD, ["serch.trials=2", "trial.train.max_step=3"])
    assert len(said) == 2 and said[0].startswith("serch.trials: ") and said[1].startswith("trial.train.max_step: ")


def test_overrides_reach_everything(tmp_path):
    plan = load(
        write(tmp_path, GOOD),
        [
            "trial.train.max_steps=80",
            "arms.gla.model.mixer.expand_k=1.0",
            "arms.standard.model.mixer.window=8",
            "search.space.optim.lr={loguniform: [1e-3, 1e-2]}",
            "name=other",
        ],
    )
    assert plan.name == "other"
    assert plan.arm("gla").trial.train.max_steps == 80
    assert plan.arm("gla").trial.model.mixer[0].args == {"expand_k": 1.0}
    assert plan.arm("standard").trial.model.mixer[0].args == {"window": 8}
    assert plan.sweep.search.dimensions["optim.lr"].low == 1e-3


def test_equal_keys_are_refused_with_both_lines(tmp_path):
    (line,) = problems(tmp_path, GOOD + "name: again\n")
    assert "name: given twice, in lines 2 and" in line


def test_broken_yaml_and_a_missing_file_are_one_line(tmp_path):
    (line,) = problems(tmp_path, "name: [unclosed\n")
    assert "study.yaml" in line and "line" in line
    with pytest.raises(UserError, match="did you mean '.*/study.yaml'"):
        load(tmp_path / "stduy.yaml")


def test_a_plain_sweep_has_no_search_but_its_metric_and_a_name_of_its_own(tmp_path):
    text = GOOD.replace("trials: 3", "trials: 3\n  metric: val_bpb") + "confirm: {seeds: [4, 5]}\n"
    text = text.replace("gla: {", "gla: {search.space: {optim.weight_decay: {choice: [0.0, 0.1]}}, ")
    searched, plain = load(write(tmp_path, text)), load(write(tmp_path, text), plain=True)
    assert (searched.name, plain.name) == ("study", "study-plain")
    assert plain.sweep.search is None and (plain.metric, plain.mode, plain.seeds) == ("val_bpb", "min", (4, 5))
    assert "search" not in plain.sweep.arms["gla"] and plain.total_trials == 4
    assert all(plain.arm(arm).trial == searched.arm(arm).trial for arm in searched.names)
    assert load(write(tmp_path, sweep_file.dump(plain.sweep)), plain=True) == plain, "it is its own plain version"


def test_what_a_sweep_without_a_search_is_ranked_by(tmp_path):
    plain = GOOD[: GOOD.index("search:")]
    plan = load(write(tmp_path, plain + "rank: {metric: val_bpb}\n"))
    assert (plan.metric, plan.mode) == ("val_bpb", "min")
    found = problems(tmp_path, plain + "rank: {metric: val_bpp}\n")
    assert found[0].startswith("rank.metric") and "did you mean 'val_bpb'" in found[0]
    (line,) = problems(tmp_path, GOOD + "rank: {metric: val_bpb}\n")
    assert line.startswith("rank:") and "leave one" in line


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_read_as_yaml_1_2_writes_them(value):
    assert sweep_file.parse(f"x: {value!r}", "t")["x"] == value
    assert sweep_file.parse(f"x: {value:e}", "t")["x"] == float(f"{value:e}")


def test_yes_and_no_are_words():
    assert sweep_file.parse("[yes, no, on, true, False]", "t") == ["yes", "no", "on", True, False]


def test_a_written_sweep_reads_back_equal(tmp_path):
    plan = load(write(tmp_path, GOOD))
    assert load(write(tmp_path, sweep_file.dump(plan.sweep))) == plan


def test_a_mixer_that_names_itself_replaces_the_other_whole():
    base = {"model": {"mixer": {"name": "gla", "expand_k": 1}}}
    assert merge(base, expand({"model.mixer": {"name": "hgrn"}}))["model"]["mixer"] == {"name": "hgrn"}
    assert merge(base, expand({"model.mixer.expand_k": 2}))["model"]["mixer"] == {"name": "gla", "expand_k": 2}
    assert merge(base, expand({"model.mixer": "hgrn"}))["model"]["mixer"] == "hgrn"


def test_where_a_patterns_mixers_stand():
    hybrid = ModelConfig(n_layers=6, mixer=["gla", "gla", {"name": "standard", "window": 256}])
    assert hybrid.layers_by_mixer == "layers 0, 1, 3, 4: gla; layers 2, 5: standard (window 256)"
    widened = ModelConfig(n_layers=3, mixer=["gla", "gla", {"name": "gla", "expand_k": 1.0, "use_gk": False}])
    assert widened.layers_by_mixer == "layers 0, 1: gla; layer 2: gla (expand_k 1.0, use_gk False)"
    for model in (ModelConfig(n_layers=2, mixer=["gla", "gla", "hgrn"]), ModelConfig(n_layers=9)):
        assert model.layers_by_mixer == ""


def test_the_dry_run_lists_a_hybrids_layers(tmp_path, cache, tiny, capsys):
    arms = "arms: {mixed: {model.mixer: [gla, {name: standard, window: 8}]}, alone: {}}"
    path = write(tmp_path, yaml.safe_dump({"name": "s", "trial": merge(tiny, {"model": {"n_layers": 3}})}) + arms)
    assert cli.main([str(path), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "layers 0" in line] == ["  layers 0, 2: gla; layer 1: standard (window 8)"]


def test_the_digest_is_the_trial_and_nothing_else():
    assert Trial().digest == Trial.model_validate(json.loads(Trial().model_dump_json())).digest
    assert Trial(optim={"lr": 1e-3}).digest == Trial(optim={"lr": 0.001}).digest
    assert Trial(optim={"lr": 1e-3}).digest != Trial(optim={"lr": 2e-3}).digest


@pytest.mark.parametrize("arguments", [["--list"], ["sweeps/quickstart.yaml", "trial.train.max_step=3", "--dry-run"]])
def test_list_and_mistakes_need_neither_torch_nor_ray(arguments):
    code = "import sys, launch; code = launch.main(sys.argv[1:]); print(code, [*{'torch', 'ray'} & {*sys.modules}])"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == ("0 []" if arguments == ["--list"] else "2 []")


@given(st.sets(st.sampled_from("abcd"), min_size=1), st.sets(st.sampled_from("abcde")))
def test_arms_left_out_by_only_can_be_taken_back(wanted, begun):
    """A sweep trained in parts is one sweep: in the order of its file, whatever the order of the parts."""
    whole = Plan.of(Sweep(name="s", arms={arm: {"optim.lr": 0.1} for arm in "abcd"}, noise={"arm": "c", "seeds": 3}))
    part = whole.only(sorted(wanted)).rejoined(begun)
    assert list(part.names) == [arm for arm in "abcd" if arm in wanted | begun]
    assert bool(part.sweep.noise) == ("c" in part.names)
    assert part.rejoined("abcd").names == whole.names and whole.rejoined(begun) == whole


MIXER = "{model.mixer: standard}"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "model: {d",
            "model.mixer: gla\n  model: {mixer: retnet, d",
            "trial.model.mixer: given twice, as 'gla' and as",
        ),
        (MIXER, "{model.mixer: gla, model: {mixer: {name: retnet}}}", "arms.standard.model.mixer.name: given twice"),
        (MIXER, "{optim: {lr: 1}, optim.lr: 2}", "arms.standard.optim.lr: given twice, as 1 and as 2; keep one"),
        (MIXER, "{train.seed: 1, train: 2}", "arms.standard.train: given twice"),
    ],
)
def test_a_setting_given_twice_with_two_values_is_refused(tmp_path, old, new, said):
    (line,) = problems(tmp_path, GOOD.replace(old, new))
    assert line.startswith(said)


def test_a_mixers_name_beside_its_arguments_and_equal_values_are_no_contradiction(tmp_path):
    text = GOOD.replace(
        "{model.mixer: standard}", "{model.mixer: standard, model.mixer.window: 8, model: {n_heads: 2}}"
    )
    assert load(write(tmp_path, text)).arm("standard").trial.model.mixer[0].args == {"window": 8}
    text = GOOD.replace("  optim: {name", "  optim.lr: 1e-2\n  optim: {name")
    assert load(write(tmp_path, text), ["trial.optim.lr=0.5"]).arm("gla").trial.optim.lr == 0.5


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("quickstart", "quickstart: No such file or directory; did you mean 'sweeps/quickstart.yaml'?"),
        ("sweeps/quikstart.yaml", "did you mean 'sweeps/quickstart.yaml'?"),
        ("mine/quickstart.yml", "did you mean 'sweeps/quickstart.yaml'?"),
        ("clustr.yaml", "launch.py --list names the sweeps there are"),  # cluster.yaml is no sweep
        ("no\0where", "launch.py --list names the sweeps there are"),
    ],
)
def test_a_sweep_file_that_is_not_there_brings_the_one_that_is_meant(monkeypatch, word, said):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as error:
        load(word)
    assert error.value.problems[0].endswith(said)
