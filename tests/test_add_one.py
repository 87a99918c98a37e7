"""One row or one file adds a mixer, a task, a benchmark, a sampler or a sweep, and nothing else is touched.

Each test adds one, and then a sweep file or an option takes it, `--list` and the references show it, and the contract
tests hold it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import analysis.benchmarks as benchmarks
import attnlab.tasks as tasks
import launch
from analysis.scoring.exam import Context
from attnlab import run_experiment
from attnlab.config.trial import TaskConfig
from attnlab.models import MIXERS, MixerSpec
from attnlab.models.mixers.rules import d_model
from attnlab.plan import resolve
from docs import make_references, mixers_page
from tests.models.cost import test_flops
from tests.models.mixers import test_sequences, test_table
from tests.tasks import test_contract, test_golden

LAYER = '''"""Half of what it has read."""
from torch import nn


class Halved(nn.Module):
    def __init__(self, d_model: int):
        super().__init__()
        self.out = nn.Linear(d_model, d_model)

    def forward(self, hidden_states, past_key_values=None, use_cache=False, **extra):
        return self.out(hidden_states.cumsum(1) / 2)
'''
TASK = '''"""Doubling: tell twice each token, modulo the vocabulary."""

from attnlab.tasks._generated import Generated
from attnlab.tasks.base import Batch


class Task(Generated):
    """Doubling.

    Args:
        modulus: of the answers.
    """

    def __init__(self, *, modulus: int = 7, **common):
        super().__init__(**common)
        self.modulus = modulus

    @property
    def vocab_size(self):
        return self.modulus

    def draw(self, rng, n, validation):
        inputs = rng.integers(self.modulus, size=(n, self.seq_len))
        return Batch(inputs, 2 * inputs % self.modulus)
'''
BENCHMARK = '''"""Nothing is asked."""
from analysis.scoring.exam import Benchmark


class Nothing(Benchmark):
    def exams(self, context, target):
        return []


BENCHMARK = Nothing()
'''


@pytest.fixture
def add_file(tmp_path, monkeypatch):
    """Write a module into a folder that a package's path is extended by, and have the package's table find it."""

    def add(package, table, name, text):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
        monkeypatch.setitem(table, name, package.discover()[name])
        monkeypatch.delitem(sys.modules, f"{package.__name__}.{name}", raising=False)

    yield add
    for name in [name for name, module in sys.modules.items() if str(tmp_path) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


def sweep_of(tiny, change):
    return resolve({"name": "added", "trial": {**tiny, **change}, "arms": {"one": {}}})


def test_a_mixer_is_one_row(tiny, tmp_path, monkeypatch, add_file):
    (tmp_path / "halved.py").write_text(LAYER)
    monkeypatch.syspath_prepend(tmp_path)
    row = MixerSpec("halved:Halved", "this test", sets={"d_model": d_model}, cached=False, padded=False, varlen=False)
    monkeypatch.setitem(MIXERS, "halved", row)
    plan = sweep_of(tiny, {"model": {**tiny["model"], "mixer": "halved"}})
    results = run_experiment(plan.arms[0].trial, tmp_path / "results", device="cpu")
    assert (results["state"], results["flops_per_token"]) == ("completed", None)  # its operations are not known
    assert mixers_page.row("halved", {})[:3] == ["`halved`", "this test", "CPU, CUDA"]
    test_table.test_a_few_steps_lower_the_loss_and_repeat_exactly("halved")
    test_sequences.test_padded_or_laid_end_to_end_they_are_as_alone("halved")
    test_flops.test_every_state_is_measured("halved")


def test_a_task_is_one_file(tiny, cache, capsys, add_file):
    add_file(tasks, tasks.TASKS, "doubling", TASK)
    plan = sweep_of(tiny, {"task": {"name": "doubling", "seq_len": 64, "modulus": 5}})
    assert plan.arms[0].trial.task.args["modulus"] == 5
    assert launch.main(["--list"]) == 0
    assert "    doubling            Doubling: tell twice each token" in capsys.readouterr().out
    page = make_references.tasks()
    assert "## `doubling`" in page and "| `modulus` | whole number | `7` | of the answers. |" in page
    config = TaskConfig(name="doubling", seq_len=64)
    for contract in (
        test_contract.test_shapes_types_and_vocabulary,
        test_contract.test_a_batch_is_a_pure_function_so_resuming_is_exact,
        test_contract.test_ranks_concatenate_to_the_global_batch,
        test_contract.test_facts,
        test_contract.test_every_argument_is_annotated_and_checked,
    ):
        contract(config)
    with pytest.raises(pytest.skip.Exception, match="record_golden"):
        test_golden.test_golden_rows("doubling")


def test_a_benchmark_is_one_file(add_file):
    add_file(benchmarks, benchmarks.BENCHMARKS, "nothing", BENCHMARK)
    assert [name for name, _ in benchmarks.select_benchmarks(["nothing"], Context())] == ["nothing"]
    assert "| `nothing` | Nothing is asked. |" in make_references.command_line()


def test_a_sampler_is_one_row(tmp_path):
    """In a process of its own, as the schema of a sweep file reads the table when it is imported."""
    (tmp_path / "mine.py").write_text(
        "import optuna\n\n\nclass Mine(optuna.samplers.RandomSampler):\n    pass\n\n\n"
        "def make(search, seed):\n    return Mine(seed=seed)\n"
    )
    search = {"space": {"optim.lr": {"loguniform": [1e-4, 1e-2]}}, "sampler": "mine"}
    code = f"""
from attnlab.config import samplers
samplers.SAMPLERS["mine"] = samplers.SamplerKind("mine:make")
from attnlab.plan import resolve
from attnlab.sweep.search.samplers import make_sampler
from docs.make_references import sweep_file
plan = resolve({{"name": "added", "arms": {{"one": {{}}}}, "search": {search}}})
assert "`cmaes` or `mine`" in sweep_file()
print(type(make_sampler(plan.sweep.search, 0)).__name__)
"""
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join([root, str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.stdout == "Mine\n", done.stderr


def test_a_sweep_is_one_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.yaml").write_text("name: mine\ndescription: Is it listed?\narms: {a: {model.mixer: gla}}\n")
    monkeypatch.setattr("attnlab.config.sweep_file.SWEEPS", tmp_path)
    assert launch.main(["--list"]) == 0
    said = capsys.readouterr().out
    assert "mine.yaml: Is it listed?" in said and "1 arms x 1 trials: a" in said
