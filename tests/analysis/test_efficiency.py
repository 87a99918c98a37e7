"""Speed and memory measured on tiny models; nothing here asserts a time."""

import copy
import io
import json

import pytest
from fake_results import SWEEP, Fake
from rich.console import Console

from analysis import efficiency
from analysis.__main__ import main
from analysis.load import load
from analysis.report import write_report
from analysis.select import select


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    tree = copy.deepcopy(SWEEP)
    tree["trial"]["model"] |= {"d_model": 16, "n_layers": 2, "n_heads": 2}
    fake = Fake(tmp_path_factory.mktemp("results"), tree)
    for arm in tree["arms"]:
        home = fake.trial(arm, 3.0)
    home.final.mkdir(parents=True)
    (home.final / "config.json").write_text('{"vocab_size": 64}')
    sel = select(load(fake.path))
    path = efficiency.measure(sel, Console(file=io.StringIO()), (16, 32), "cpu")
    return fake, json.loads(path.read_text())


def test_every_arm_is_measured_at_every_length(tiny):
    for arm in ("standard", "gla", "hybrid"):
        row = tiny[1]["arms"][arm]
        assert row["error"] is None and [p["length"] for p in row["points"]] == [16, 32]
        for point in row["points"]:
            assert point["length"] * point["batch"] == 32
            for part in ("train", "prefill", "decode"):
                assert len(point[part]["runs"]) == efficiency.REPEATS and min(point[part]["runs"]) > 0
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
    assert "checkpoints/final/config.json" in capsys.readouterr().err
    assert main([str(tiny[0].path), "--efficiency", "--device", "tpu"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_arm_that_cannot_be_measured_costs_a_line(tiny, monkeypatch):
    def broken(trial, *_):
        raise RuntimeError("no\nkernel")

    monkeypatch.setattr(efficiency, "_train", broken)
    monkeypatch.setattr(efficiency, "_inference", broken)
    fake = tiny[0]
    path = efficiency.measure(select(load(fake.path)), Console(file=io.StringIO()), (8,), "cpu")
    assert json.loads(path.read_text())["arms"]["gla"]["points"][0]["train"] == {"error": "RuntimeError: no kernel"}
    assert "gla, train at 8: RuntimeError: no kernel" in write_report(fake.path).read_text()
