"""Arms compared on benchmarks and over seeds, and what the page makes of it: planted truths are told apart."""

import copy
import csv
import json

import numpy as np
import pytest

from analysis.command_line import main
from analysis.records.load import load
from analysis.records.scores import benchmarks
from analysis.records.select import select
from analysis.report.page import write_report
from analysis.statistics import contamination, crossing
from attnlab.util.files import write_json
from tests.analysis.benchmark_file import write_benchmarks
from tests.analysis.fake_results import SWEEP, Fake


def rights(seed, share, n=400):
    return np.random.default_rng(seed).random(n) < share


@pytest.fixture
def scored(full):
    """hellaswag: standard is worse, gla and hybrid tie; piqa and lambada: all tie; leaked: gla alone knows it."""
    base = rights(0, 0.5)
    near = {arm: np.where(rights(i, 0.1), rights(9 + i, 0.5), base) for i, arm in enumerate(full.plan.names, 1)}
    write_benchmarks(full, {
        "hellaswag": {**near, "standard": base & rights(5, 0.6)},
        "piqa": near,
        "lambada": {arm: np.roll(row, 7) for arm, row in near.items()},
        "leaked": {"standard": rights(6, 0.3), "gla": rights(7, 0.97), "hybrid": rights(8, 0.3)},
    })  # fmt: skip
    return full


def read(fake):
    return benchmarks(select(load(fake.path)))


def test_a_worse_arm_a_tie_and_a_memorised_benchmark_are_told_apart(scored):
    found = read(scored).by_name()
    told = {tuple(sorted((p.a, p.b))): p.verdict("max") for p in found["hellaswag"].pairs}
    assert told["gla", "standard"] == "gla better than standard"
    assert told["hybrid", "standard"] == "hybrid better than standard"
    assert told["gla", "hybrid"] == "undecided" and found["hellaswag"].tied() == {"gla", "hybrid"}
    assert {p.verdict("max") for p in found["piqa"].pairs} == {"undecided"}
    (suspect,) = contamination.signs(list(found.values()))
    assert suspect.startswith("leaked: gla leads")


def test_a_benchmark_that_every_arm_knows_by_heart_is_suspect(fake):
    fake.trial("gla", 3.0)
    write_benchmarks(fake, {"known": {arm: rights(i, 0.98) for i, arm in enumerate(fake.plan.names)}})
    (suspect,) = contamination.signs(read(fake).tables)
    assert "near the ceiling" in suspect


@pytest.mark.parametrize(
    ("how", "items", "value"),
    [
        ("perplexity", {"x": [-1.0, -2.0, -3.0]}, np.exp(2)),
        ("bits_per_byte", {"nats": [10.0, 20.0, 31.0], "bytes": [10, 25, 40]}, 61 / np.log(2) / 75),
        ("perplexity_per_token", {"nats": [10.0, 20.0, 31.0], "tokens": [5, 8, 9]}, np.exp(61 / 22)),
        ("ratio", {"x": [1, 0, 3], "targets": [2, 2, 4]}, 0.5),
    ],
)
def test_every_kind_of_figure_is_its_items(fake, how, items, value):
    fake.trial("gla", 3.0)
    column = "x" if "x" in items else None
    write_benchmarks(fake, {"b": {"gla": [1, 0, 1]}}, metrics={"acc": {"how": how, "column": column}}, value=value,
                     items={"id": ["a", "b", "c"], **items})  # fmt: skip
    found = read(fake)
    assert not found.problems
    interval = found.tables[0].scores["gla"].interval
    assert interval.value == pytest.approx(value) and interval.low < value < interval.high and interval.n == 3


def test_the_page_shows_benchmarks_with_intervals_ties_and_suspects(scored):
    page = write_report(scored.path).read_text()
    assert 'id="table-benchmarks"' in page and "leaked: gla leads" in page
    assert "not shown to be worse than the best" in page
    rows = list(csv.DictReader((scored.path / "analysis" / "benchmarks.csv").read_text().splitlines()))
    assert [row["benchmark"] for row in rows] == ["hellaswag", "piqa", "lambada", "leaked"]
    assert float(rows[0]["arm:gla_low"]) < float(rows[0]["arm:gla"]) < float(rows[0]["arm:gla_high"])
    for name in ("pairs", "pairs-leaked", "fairness", "cost"):
        assert (scored.path / "analysis" / f"{name}.csv").read_text().count("\n") > 1
    asks_for_nothing_from_outside(page)


def asks_for_nothing_from_outside(page):
    for word in ("<script", "<link", "<iframe", "@import", "src="):
        assert word not in page
    for part in page.split('href="')[1:]:
        assert part.startswith("#")
    assert not [part for part in page.split("url(")[1:] if not part.startswith("#")]


def test_certificates_are_shown_and_without_a_benchmark_or_a_measurement_the_page_says_how(full):
    page = write_report(full.path).read_text()
    assert 'id="table-certificate"' in page and "optim.lr upper" in page
    assert "--benchmarks all" in page and "--efficiency" in page


def test_damaged_benchmark_and_efficiency_files_cost_a_line_each(scored):
    home = scored.folder.analysis
    whole = json.loads((home / "benchmark_results.json").read_text())
    one = copy.deepcopy(whole)
    one["arms"]["gla"]["benchmarks"]["piqa"]["items"]["acc"][0] = None
    one["arms"]["gla"]["benchmarks"]["lambada"]["value"] = 0.9  # not that of its items
    one["arms"]["foreign"] = one["arms"]["gla"]
    one["arms"]["hybrid"]["error"] = "hybrid/t0/checkpoints/final: no model.safetensors"
    write_json(home / "benchmark_results.json", one)
    found = read(scored)
    assert len(found.problems) == 4 and all("\n" not in problem for problem in found.problems)
    assert "gla" not in found.by_name()["piqa"].scores and "gla" in found.by_name()["hellaswag"].scores
    for damage in ("[]", '{"arms": {"gla": 3}}', json.dumps(whole)[:500]):
        (home / "benchmark_results.json").write_text(damage)
        (home / "efficiency.json").write_text(damage.replace("3", '{"points": [1]}'))
        page = write_report(scored.path).read_text()
        assert 'id="damage"' in page and "leaderboard" in page


def test_a_folder_of_sweeps_is_one_comparison(full, tmp_path, capsys):
    second = Fake(tmp_path, {**copy.deepcopy(SWEEP), "name": "other"})
    second.trial("gla", 2.5)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sweep.yaml").write_text("name: [")
    write_benchmarks(full, {"hellaswag": {"gla": rights(0, 0.6), "standard": rights(1, 0.3)}})
    assert main([str(tmp_path)]) == 0
    assert main([str(tmp_path), "--claim", "gla < standard"]) == 2
    assert "of several sweeps; --claim needs the folder of one" in capsys.readouterr().err
    rows = list(csv.DictReader((tmp_path / "comparison-benchmarks.csv").read_text().splitlines()))
    assert [(row["sweep"], row["arm"], row["value_n"]) for row in rows] == [
        ("fake", "standard", "400"), ("fake", "gla", "400")
    ]  # fmt: skip
    page = (tmp_path / "comparison.html").read_text()
    assert "other" in page and "Left out" in page and "broken" in page
    assert "<strong>fake.</strong> So far: gla is best: better than each of the other 2 arms." in page
    assert "<strong>other.</strong> So far: Undecided: no run outside the search has completed" in page
    rows = list(csv.DictReader((tmp_path / "comparison.csv").read_text().splitlines()))
    assert {(row["sweep"], row["arm"]): row["rank"] for row in rows}["other", "gla"] == ""
    assert {(row["sweep"], row["arm"]) for row in rows} >= {("fake", "gla"), ("other", "gla")}


def measured(rate, noise=0.01):
    rng = np.random.default_rng(int(rate(64)))
    return {n: list(rate(n) * (1 + noise * rng.normal(size=5))) for n in (128, 512, 2048, 8192)}


def test_the_crossing_length_is_found_with_its_interval():
    flat, falling = measured(lambda n: 1e4), measured(lambda n: 1e4 * (1000 / n) ** 0.5)  # they meet at 1000
    found = crossing.crossing("a", "b", flat, falling)
    assert found.low < 1000 < found.high and 900 < found.length < 1100 and found.faster == "a" and found.share == 1
    never = crossing.crossing("a", "b", flat, measured(lambda n: 5e3))
    assert never.length is None and never.low is None and never.faster == "a" and never.share == 0
    assert crossing.crossing("a", "b", {128: [1.0]}, flat) is None
