"""`python -m analysis s3://...`: records and the best models come, the report goes."""

import json

import pytest

from analysis.command_line import main
from attnlab import run_experiment
from attnlab.config.sweep_file import dump
from attnlab.plan.load import resolve
from attnlab.records.mirror import mirror


@pytest.fixture
def swept(s3, tiny, tmp_path, monkeypatch):
    """A sweep of one trial in the bucket; its URI and what is kept there."""
    monkeypatch.setenv("ATTNLAB_CACHE", str(tmp_path / "cache"))
    sweep = resolve({"name": "study", "trial": tiny, "arms": {"gla": {}}})
    result = run_experiment(tiny, tmp_path / "made", name="gla")
    there = mirror(s3, "study").store
    for file in [f for f in (tmp_path / "made").rglob("*") if f.is_file()]:
        there.put(file, str(file.relative_to(tmp_path / "made")))
    final = f"gla/{result['trial_id']}/checkpoints/final"
    sizes = {name.rpartition("/")[2]: size for name, size in there.list().items() if name.startswith(final)}
    there.write(f"{final}/.whole", json.dumps(sizes).encode())
    there.write("sweep.yaml", dump(sweep.sweep).encode())
    return f"{s3}/study", there


def test_a_sweep_in_s3_is_examined_and_its_report_published(swept, capsys):
    uri, there = swept
    assert main([uri, "--benchmarks", "arithmetic_1", "--limit", "3"]) == 0
    names = there.list()
    assert {"analysis/report.html", "analysis/benchmark_results.json", "all_benchmark_results.json"} <= names.keys()
    scored = json.loads(there.read("analysis/benchmark_results.json"))["arms"]["gla"]
    assert scored["error"] is None and "arithmetic_1" in scored["benchmarks"]
    assert f"published in {uri}" in capsys.readouterr().out


def test_several_sweeps_in_s3_are_compared(swept, s3):
    assert main([s3]) == 0
    assert "study/sweep.yaml" in mirror(s3).store.list() and "comparison.html" in mirror(s3).store.list()


def test_a_sweep_that_is_not_there_is_one_line(s3, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNLAB_CACHE", str(tmp_path / "cache"))
    assert main([f"{s3}/stduy"]) == 2
    assert capsys.readouterr().err == f"error: {s3}/stduy: there is nothing; give the URI of a sweep's results\n"
