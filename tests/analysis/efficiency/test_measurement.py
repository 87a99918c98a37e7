"""Speed and memory measured on tiny models; nothing here asserts a time."""

import copy
import io
import json

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from analysis.command_line import main
from analysis.efficiency import isolated, lengths, measurement
from analysis.efficiency.results import WORKLOADS
from analysis.records.load import load
from analysis.records.select import select
from analysis.report.page import write_report
from attnlab.config.trial import Trial
from attnlab.util import trust
from attnlab.util.weights import EMBEDDING
from tests.analysis.fake_results import SWEEP, Fake

pytestmark = pytest.mark.xdist_group("efficiency")  # measured once


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    tree = copy.deepcopy(SWEEP)
    tree["trial"]["model"] |= {"d_model": 16, "n_layers": 2, "n_heads": 2}
    fake = Fake(tmp_path_factory.mktemp("results"), tree)
    for arm in tree["arms"]:
        home = fake.trial(arm, 3.0)
    home.final.mkdir(parents=True)
    save_file({EMBEDDING: torch.zeros(64, 16)}, home.final / "model.safetensors")
    sel = select(load(fake.path))
    path = lengths.measure(sel, Console(file=io.StringIO()), (16, 32), "cpu")
    return fake, json.loads(path.read_text())


def test_every_arm_is_measured_at_every_length(tiny):
    for arm in ("standard", "gla", "hybrid"):
        row = tiny[1]["arms"][arm]
        assert row["error"] is None and [p["length"] for p in row["points"]] == [16, 32]
        for point in row["points"]:
            assert point["length"] * point["batch"] == 32
            for part in WORKLOADS:
                assert len(point[part]["runs"]) == measurement.REPEATS and min(point[part]["runs"]) > 0
                assert 0 < point[part]["peak_bytes"] < 2**30, "the libraries alone hold more"
            assert point["train"]["mfu"] is None, "a CPU's peak is not known"


def test_a_cache_grows_with_the_text_and_a_state_does_not(tiny):
    def sizes(arm):
        return [p["cache_bytes"] for p in tiny[1]["arms"][arm]["points"]]

    kv = 2 * 2 * 16 * 4  # keys and values, layers, width, fp32
    assert sizes("standard")[1] - sizes("standard")[0] == 16 * kv
    assert sizes("gla")[0] == sizes("gla")[1] > 0


def test_the_report_has_the_curves(tiny):
    page = write_report(tiny[0].path).read_text()
    assert "training step: tokens/s" in page and 'id="table-crossings"' in page and 'id="table-efficiency"' in page
    assert "Not measured" not in page


def test_mistakes_are_one_line(fake, tiny, capsys):
    fake.trial("gla", 3.0)
    assert main([str(fake.path), "--efficiency"]) == 2
    assert "checkpoints/final/model.safetensors" in capsys.readouterr().err
    assert main([str(tiny[0].path), "--efficiency", "--device", "tpu"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main([str(tiny[0].path), "--efficiency", "--dtype", "int8"]) == 2
    assert capsys.readouterr().err.startswith("error: --dtype int8: one of auto, float32")


def test_an_arm_that_cannot_be_measured_costs_a_line(tiny, monkeypatch):
    monkeypatch.setattr(isolated, "measure", lambda case, workload: {"error": "RuntimeError: no kernel"})
    monkeypatch.setattr(isolated, "start", lambda: None)
    fake = tiny[0]
    path = lengths.measure(select(load(fake.path)), Console(file=io.StringIO()), (8, 4), "cpu")
    assert json.loads(path.read_text())["arms"]["gla"]["points"][0]["train"] == {"error": "RuntimeError: no kernel"}
    assert "gla, train at 4, 8: RuntimeError: no kernel" in write_report(fake.path).read_text()


MIXER = '''
import os, signal
import torch
from torch import nn


class Own(nn.Module):
    """Holds `mib` MiB while it runs; says so on stdout; may be killed, or raise."""

    def __init__(self, d_model, mib=0, end=""):
        super().__init__()
        self.mib, self.end, self.map = mib, end, nn.Linear(d_model, d_model)

    def forward(self, hidden_states, past_key_values=None, use_cache=False, **extra):
        print("a mixer that talks")
        if self.end == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.end:
            raise RuntimeError("two\\nlines")
        held = torch.ones(self.mib << 18)
        return self.map(hidden_states) + held[:0].sum(), None, past_key_values
'''


def test_memory_is_the_models_own_and_a_process_that_dies_costs_a_line(tmp_path, monkeypatch):
    (tmp_path / "own_mixer.py").write_text(MIXER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(trust, "named", lambda: ["own_mixer"])

    def case(**settings):
        model = {"d_model": 16, "n_layers": 1, "n_heads": 2, "mixer": {"name": "own_mixer:Own", **settings}}
        trial = Trial.model_validate({**copy.deepcopy(SWEEP["trial"]), "model": model})
        return measurement.Case(trial, 64, 1, 16, "cpu", "float32", 1)

    small = isolated.measure(case(), "prefill")["peak_bytes"]
    assert isolated.measure(case(end="raises"), "train") == {"error": "RuntimeError: two lines"}
    assert "ended by the system: out of memory" in isolated.measure(case(end="killed"), "train")["error"]
    large = isolated.measure(case(mib=300), "prefill")["peak_bytes"]
    assert 290 * 2**20 < large - small < 320 * 2**20
    assert "keeps no state" in isolated.measure(case(), "decode")["error"]


def test_when_the_time_is_up_all_arms_have_the_same_lengths_but_for_one_that_is_too_slow():
    now = [0.0]

    def ask(arm, length, part):
        took = {"fast": 1.0, "slow": length / 100}[arm]
        now[0] += took + (5.0 if length == 100 else 0.0)  # the first of anything is compiled, which says nothing
        return {"batch": 1, "cache_bytes": None, "took_s": took, "runs": [1.0]}

    points = lengths.in_turn(["fast", "slow"], [100, 200, 400, 800, 1600], ask, 80.0, lambda: now[0])
    assert {arm: [p["length"] for p in found] for arm, found in points.items()} == {
        "fast": [100, 200, 400, 800, 1600],
        "slow": [100, 200, 400],
    }
    assert "took_s" not in points["fast"][0]["train"]
