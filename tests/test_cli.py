"""Several sweeps from one command line: which are meant, what is told before the first starts, how they end."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from attnlab import cli
from attnlab.config import sweep_file
from attnlab.plan.load import load
from attnlab.sweep import engine
from attnlab.util import trust

ROOT = Path(__file__).parents[1]


@pytest.fixture
def files(tiny, tmp_path):
    """Two sweep files around the tiny trial, `a` (arms gla, both) and `b` (arms standard, both)."""
    search = {"space": {"optim.lr": {"loguniform": [1e-4, 1e-1]}}, "trials": 2, "asha": {"grace_steps": 4}}
    trees = {
        "a": {"name": "a", "trial": tiny, "arms": {"gla": {}, "both": {"model.n_heads": 4}}, "search": search},
        "b": {"name": "b", "trial": tiny, "arms": {"standard": {"model.mixer": "standard"}, "both": {}}},
    }
    for name, tree in trees.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return [str(tmp_path / f"{name}.yaml") for name in trees]


@pytest.fixture
def ran(monkeypatch, tmp_path):
    """The sweeps that would have been run, in place of the engine's work and the report; `ran.ends[name]`: an exception
    it ends with, or how many of its trials failed."""

    class Ran(list):
        ends = {}

        def __call__(self, *arguments):
            return cli.main([*map(str, arguments), "--results", str(tmp_path / "results")])

    runs = Ran()

    def run(sweep, results, **how):
        runs.append(sweep)
        end = runs.ends.get(sweep.name, 0)
        if isinstance(end, BaseException):
            raise end
        row = {"counts": {"failed": end}, "best": {"value": 1.5}, "confirm": None}
        return {"metric": "val_loss", "ranked_by": "best of search", "ranking": list(sweep.names), "edges": [],
                "answer": "Undecided between both and gla.", "arms": dict.fromkeys(sweep.names, row)}  # fmt: skip

    monkeypatch.setattr(engine, "run", run)
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0))
    return runs


def test_sweeps_run_in_turn_and_end_in_a_line_each(files, ran, capsys):
    assert ran(*files, "trial.train.max_steps=24") == 0
    assert [(s.name, s.arm("both").trial.train.max_steps) for s in ran] == [("a", 24), ("b", 24)]
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert [line.split()[0] for line in lines] == ["a", "b"]
    assert lines[0].split(maxsplit=1)[1] == "Undecided between both and gla.", "and no arm is called best"


@pytest.mark.parametrize(
    ("ends", "code", "count"),
    [
        ({"a": 1}, 1, 2),
        ({"a": engine.UserError("no room"), "b": 1}, 2, 2),
        ({"a": engine.SweepStopped("a slot failed")}, 1, 2),
        ({"a": KeyboardInterrupt()}, 130, 1),
    ],
)
def test_the_exit_code_is_the_worst_and_only_ctrl_c_stops_the_others(files, ran, capsys, ends, code, count):
    ran.ends = ends
    assert ran(*files) == code
    assert len(ran) == count
    said = capsys.readouterr()
    end = ends["a"]
    if isinstance(end, Exception):
        assert f"error: {end}" in said.err and str(end) in said.out.splitlines()[-2]


def test_a_mistake_in_any_is_told_before_the_first_starts(files, ran, capsys, tmp_path):
    Path(files[1]).write_text(
        Path(files[1]).read_text(encoding="utf-8").replace("n_layers", "n_layrs"), encoding="utf-8"
    )
    assert ran(*files) == 2
    assert ran == [] and f"{files[1]}: " in (said := capsys.readouterr().err) and "did you mean 'n_layers'" in said
    assert not (tmp_path / "results").exists()


def test_data_that_cannot_be_had_and_a_folder_that_is_taken_too(files, ran, capsys, tmp_path):
    (tmp_path / "short.txt").write_text("It is a truth.\n")
    assert ran(*files, f"trial.task.dataset={tmp_path}/short.txt") == 2
    said = capsys.readouterr().err
    assert ran == [] and "error: a: " in said and "error: b: " in said and "seq_len" in said
    taken = tmp_path / "results" / "b"
    taken.mkdir(parents=True)
    (taken / "sweep.yaml").write_text(Path(files[1]).read_text(encoding="utf-8"))
    assert ran(*files) == 2
    assert ran == [] and "--resume" in capsys.readouterr().err


def test_two_sweeps_of_one_name_are_refused(files, ran, capsys):
    assert ran(*files, "name=same") == 2
    assert ran == [] and "same is the name of two" in capsys.readouterr().err


def test_only_looks_for_arms_in_all_files(files, ran, capsys):
    assert ran(*files, "--only", "standard") == 0
    assert [(s.name, list(s.names)) for s in ran] == [("b", ["standard"])]
    ran.clear()
    assert ran(*files, "--only", "both", "gla") == 0
    assert [(s.name, list(s.names)) for s in ran] == [("a", ["gla", "both"]), ("b", ["both"])]
    ran.clear()
    assert ran(*files, "--only", "standrd") == 2
    assert ran == [] and "--only standrd: no such arm; did you mean 'standard'?" in capsys.readouterr().err


def test_a_mistyped_arm_is_told_with_the_other_mistakes(files, ran, capsys):
    assert ran(files[0], "--only", "glaa", "trial.train.max_step=24") == 2
    said = capsys.readouterr().err
    assert ran == [] and "--only glaa: no such arm; did you mean 'gla'?" in said and "max_step" in said
    assert ran("missing.yaml", "--only", "gla") == 2
    assert ran == [] and "no such arm" not in capsys.readouterr().err, "the file is what is wrong"
    assert ran(*files, "missing.yaml", "--only", "gla") == 2
    assert ran == [] and "No such file" in capsys.readouterr().err


def test_changes_may_follow_the_arms(files, ran):
    assert ran(files[0], "--only", "gla", "both", "trial.train.max_steps=24") == 0
    assert [(list(s.names), s.arm("gla").trial.train.max_steps) for s in ran] == [(["gla", "both"], 24)]


def test_plain_and_tiny_have_names_of_their_own(files, ran):
    assert (
        ran(files[0], "--plain") == ran(files[0], "--scale", "tiny") == ran(*files, "--plain", "--scale", "tiny") == 0
    )
    assert [s.name for s in ran] == ["a-plain", "a-tiny", "a-plain-tiny", "b-tiny"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scale", "tny"], "did you mean 'tiny'"),
        (["trial.train.max_steps"], "not an override; write key=value"),
        (["nowhere.yaml"], "nowhere.yaml"),
        (["trial.train.max_step=3"], "did you mean 'max_steps'"),
    ],
)
def test_a_mistaken_word_is_one_line_per_file_at_most(files, ran, capsys, arguments, said):
    assert ran(*files, *arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert ran == [] and lines and all(said in line for line in lines) and len(lines) <= 2


def test_the_dry_run_shows_every_sweep(files, ran, capsys):
    assert ran(*files, "--dry-run") == 0
    out = capsys.readouterr().out
    assert out.startswith("a: ") and "\nb: " in out and ran == []


def test_the_list_needs_no_torch_although_sets_are_matched(files):
    code = "import sys, launch; launch.main(['--list']); print([*{'torch', 'ray'} & {*sys.modules}])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for path in sorted((ROOT / "sweeps").glob("*.yaml")):
        assert f"sweeps/{path.name}: " in done.stdout
    assert "efficiency_gated_deltanet_16384" in done.stdout


def test_the_report_may_import_what_the_sweep_file_names(files, ran, monkeypatch, tmp_path):
    monkeypatch.setattr(trust, "_named", type(trust._named)())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("class Mine:\n    def __init__(self, d_model):\n        pass\n")
    commands = []
    monkeypatch.setattr(
        subprocess, "run", lambda words, **how: (commands.append(words), subprocess.CompletedProcess(words, 0))[1]
    )
    assert ran(files[0], "arms.gla.model.mixer=mine:Mine") == 0
    ((*_, option, module),) = commands
    assert (option, module) == ("--trust", "mine")


def test_the_command_to_go_on_with_shows_no_password(files, ran, monkeypatch, capsys):
    ran.ends = {"a": KeyboardInterrupt()}
    monkeypatch.setattr(sys, "argv", ["launch.py", files[0], "--results", "s3://me:hunter2@bucket/x"])
    assert ran(files[0]) == 130
    said = capsys.readouterr().err
    assert "s3://***@bucket/x" in said and "hunter2" not in said


def test_the_dry_run_says_what_stands_where_the_results_go_and_writes_nothing(files, ran, tmp_path, capsys):
    folder = tmp_path / "results" / "b"
    assert ran(files[1], "--dry-run") == 0
    assert "results: " not in capsys.readouterr().out and not folder.parent.exists()
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").write_text(sweep_file.dump(load(files[1]).sweep))
    cases = {
        (): "already holds this sweep, 0 trials ended: go on with --resume",
        ("--resume",): "0 trials ended, and --resume goes on",
        ("trial.optim.lr=0.5",): "holds another sweep of this name: arms.standard optim.lr: ",
    }
    for options, said in cases.items():
        assert ran(files[1], "--dry-run", *options) == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("results: ")]
        assert line.startswith(f"results: {folder}") and said in line
    assert [path.name for path in folder.iterdir()] == ["sweep.yaml"]


def test_a_word_longer_than_any_files_name_is_a_change_or_one_line(files, ran, capsys):
    assert ran(files[0], f"description={'long' * 100}") == 0 and ran[-1].sweep.description == "long" * 100
    assert ran(f"{'a' * 300}.yaml") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
