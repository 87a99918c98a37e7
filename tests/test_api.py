"""attnlab from Python: one trial without Ray, whole sweeps, in a Ray that is up, in a notebook; README's example."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from attnlab import SweepResults, run_experiment, run_sweep
from attnlab.config.trial import Trial
from attnlab.sweep import engine
from attnlab.util.errors import UserError

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def script(text, cwd, **environment):
    """Run a script of a user's, which has no `__main__` guard; its output."""
    path = cwd / "mine.py"
    path.write_text(text)
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, str(path)], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_experiment_from_a_dict_and_again_is_a_no_op(tiny, tmp_path):
    rows = []
    results = run_experiment(tiny, tmp_path, name="mine", report=rows.append, device="cpu")
    assert results["state"] == "completed" and len(rows) == 6
    assert (tmp_path / "mine" / results["trial_id"] / "checkpoints" / "final" / "model.safetensors").exists()
    assert (
        run_experiment(Trial.model_validate(tiny), tmp_path, name="mine", report=rows.append, device="cpu") == results
    )
    assert len(rows) == 6


def test_a_mistake_is_told_before_anything_is_written(tiny, tmp_path):
    with pytest.raises(UserError, match="did you mean 'max_steps'"):
        run_experiment({**tiny, "train": {"max_step": 3}}, tmp_path)
    with pytest.raises(UserError, match="did you mean 'max_steps'"):
        run_sweep({"name": "s", "trial": {**tiny, "train": {"max_step": 3}}, "arms": {"gla": {}}}, tmp_path)
    assert not list(tmp_path.iterdir())


ALONE = """
import sys, warnings
warnings.simplefilter("error", UserWarning)
import attnlab
assert not {{"torch", "ray", "fla", "transformers"}} & set(sys.modules)
from fla.layers import GatedLinearAttention; import torch
GatedLinearAttention(hidden_size=32, num_heads=2)(torch.randn(1, 70, 32))[0].sum().backward()
r = attnlab.run_experiment({trial}, results_dir="mine")
print(r["state"], r["steps"], "ray" in sys.modules)
from transformers import AutoModelForCausalLM
print(type(AutoModelForCausalLM.from_pretrained(f"mine/{{r['arm']}}/{{r['trial_id']}}/checkpoints/final")).__name__)
"""


def test_attnlab_is_light_to_import_and_an_experiment_needs_no_ray_and_takes_dotted_keys(tiny, tmp_path):
    """In a fresh process, in which FLA runs on the CPU, and transformers loads what was trained."""
    dotted = {"model.d_model": 16, "model.n_layers": 1, "model.n_heads": 2, "model.mixer": "hgrn", **tiny}
    del dotted["model"]
    lines = script(ALONE.format(trial=dotted), tmp_path).splitlines()
    assert lines[-2:] == ["completed 12 False", "BackboneForCausalLM"]


def test_a_sweep_is_found_by_path_tree_or_as_it_is(tiny, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(engine, "run", lambda sweep, results, **how: ran.append(sweep) or {"ranking": [], "arms": {}})
    search = {"space": {"optim.lr": {"loguniform": [1e-4, 1e-1]}}, "trials": 9, "asha": {"grace_steps": 4}}
    tree = {"name": "s", "trial": tiny, "arms": {"gla": {}, "other": {"optim.lr": 0.1}}, "search": search}
    assert run_sweep(tree, tmp_path).folder == tmp_path / "s"
    assert run_sweep(tree, tmp_path, plain=True, scale="tiny", only=["gla"]).folder == tmp_path / "s-plain-tiny"
    run_sweep(ROOT / "sweeps" / "quickstart.yaml", tmp_path, overrides=["search.trials=5"], only=["gla"])
    run_sweep(ran[0], tmp_path)
    assert [(s.name, list(s.names), s.sweep.search and s.sweep.search.trials) for s in ran] == [
        ("s", ["gla", "other"], 9),
        ("s-plain-tiny", ["gla"], None),
        ("quickstart", ["gla"], 5),
        ("s", ["gla", "other"], 9),
    ]
    for wrong in ({"overrides": ["search.trials=2"]}, {"only": ["gla", "oter"]}, {"scale": "tny"}):
        with pytest.raises(UserError, match=next(iter(wrong)).replace("only", "did you mean 'other'")):
            run_sweep(tree, tmp_path, **wrong)
    with pytest.raises(UserError, match="run as it is"):
        run_sweep(ran[0], tmp_path, plain=True)


@pytest.mark.timeout(3600)
@pytest.mark.slow
def test_readmes_example_runs_as_it_stands(tmp_path):
    """A script without a guard, in a folder of its own; what it left is read again here."""
    section = README[README.index("## From Python") :]
    out = script(re.search(r"```python\n(.*?)```", section, re.S).group(1), tmp_path)
    assert "completed 20" in out and "gates: val_accuracy (higher is better)" in out
    study = SweepResults.read(tmp_path / "my_results" / "gates")
    assert len(study.trials) == 4 and set(study.arms) == {"gla", "no_gating"}
    assert study.best()["arm"] == study.arms[0] and study.best("gla")["best"]["val_accuracy"] is not None
    assert study.leaderboard["arms"]["gla"]["tokens_per_s"] > 0 and study.confirmed() == []
    assert "no_gating" in repr(study) and study._repr_html_().startswith("<pre") and "no_gating" in study._repr_html_()
    with pytest.raises(ValueError, match="did you mean 'gla'"):
        study.best("gal")


IN_THEIR_RAY = """
import asyncio, os, signal, threading, time
import ray
from ray.util import placement_group_table

ray.init("local", num_cpus=2, include_dashboard=False)  # the user's
from attnlab import run_sweep


@ray.remote
def mine():
    return 42


def sweep(name, steps):
    trial = {{**{tiny}, "train": {{"max_steps": steps, "batch_size": 4, "eval_every": 2}}}}
    arms = {{"gla": {{}}, "standard": {{"model.mixer": "standard"}}}}
    return run_sweep({{"name": name, "trial": trial, "arms": arms}})


def left():
    for _ in range(100):  # what ends takes a moment to be seen
        groups = [g for g in placement_group_table().values() if g["state"] != "REMOVED"]
        free = ray.available_resources().get("CPU")
        if free == 2 and not groups:
            return "nothing left"
        time.sleep(0.1)
    return f"left: {{free}} CPUs free, {{groups}}"


async def cell():  # a notebook runs its cells within an event loop that is running
    return sweep("first", 12)


board = asyncio.run(cell())
print(len(board.trials), board.best("gla")["state"], left(), ray.get(mine.remote()))


def stop():
    while not list(__import__("pathlib").Path("results/second").glob("*/*/metrics.jsonl")):
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)


threading.Thread(target=stop).start()
try:
    sweep("second", 1000000)
except KeyboardInterrupt:
    print("interrupted", left(), ray.get(mine.remote()))
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_sweep_in_the_users_own_ray_leaves_it_as_it_was(tiny, tmp_path):
    out = script(IN_THEIR_RAY.format(tiny=tiny), tmp_path).splitlines()
    assert "2 completed nothing left 42" in out
    assert "interrupted nothing left 42" in out
