"""The report's section on guards, and what it makes of damage."""

import copy
import json

import pytest

from analysis.records.load import load
from analysis.records.select import select
from analysis.report import guards
from analysis.report.page import write_report
from attnlab.util.files import write_json
from tests.analysis.fake_results import SWEEP, Fake

FOUND = {
    "mode": "warn",
    "warnings": ["params: arms differ <by a third>"],
    "no_op": {"arms": 3, "compared": 1, "unsure": []},
    "confounds": {
        "derived": {"params": {"standard": 1000, "gla": 1300}, "tokens": {"standard": 5, "gla": 5}},
        "pairs": [{"differ": ["mixer", "params"], "undeclared": ["params"], "settings": ["model.mixer"],
                   "arms": [["standard", "gla"], ["standard", "hybrid"]]}],
    },
    "leakage": [
        {"arms": ["standard", "gla", "hybrid"], "windows": 200, "window_tokens": 64, "in_training": 0.005,
         "tokens": 9999, "span_tokens": 50, "tokens_in_training": 0.0, "documents": 3, "copies": 2},
        {"arms": ["gla"], "held_out": True, "windows": 10, "looked_at": 99, "in_training": 0.0},
        {"arms": ["hybrid"]},
    ],
}  # fmt: skip


def left(fake, found):
    write_json(fake.folder.leaderboard_file, {"baselines": {}, "guards": found})
    return guards.gather(select(load(fake.path)))


def test_the_findings_are_told_in_words_and_tables(full):
    found = left(full, FOUND)
    assert found.recorded and found.warnings == FOUND["warnings"] and found.problems == []
    assert found.checked[0].startswith("Of the 3 arms no two are the same experiment")
    assert "0.50% of the 200 sequences" in found.checked[1] and "2 copies of training documents" in found.checked[1]
    assert "rows are held out" in found.checked[2] and len(found.checked) == 3
    page = write_report(full.path).read_text()
    section = page[page.index('<h2 id="guards"') : page.index('<h2 id="curves"')]
    assert "&lt;by a third&gt;" in section and "standard / gla; standard / hybrid" in section
    assert (full.folder.analysis / "confounds.csv").exists() and (full.folder.analysis / "derived.csv").exists()


def test_damage_costs_a_line(full):
    for damage in ([1], "text", {"no_op": 3}, {**FOUND, "confounds": None}, {**FOUND, "leakage": [3]}):
        found = left(full, damage)
        assert len(found.problems) == 1 and "its guards cannot be used" in found.problems[0]
    assert "its guards cannot be used" in write_report(full.path).read_text()


def test_an_older_sweep_has_none(full):
    assert left(full, {}) == guards.Guards() == left(full, None)
    assert "left no findings of its guards" in write_report(full.path).read_text()


def test_noise_runs_are_told_apart_from_the_arms(tmp_path):
    sweep = {**copy.deepcopy(SWEEP), "noise": {"arm": "gla", "seeds": 3}}
    fake = Fake(tmp_path, sweep)
    for arm, value in (("standard", 3.3), ("gla", 3.1), ("hybrid", 3.2)):
        fake.trial(arm, value)
    for i in range(3):
        fake.trial("gla", 3.0 + 0.05 * i, phase="noise", seed=10_000 + i)
    sel = select(load(fake.path))
    row = next(arm for arm in sel.arms if arm.arm == "gla")
    assert row.counts["completed"] == 1 and row.value == pytest.approx(3.1) and sel.ended == 6
    found = left(fake, FOUND)
    assert found.noise[0].startswith("3 runs of gla that differ in their seed alone scatter by 0.05")
    assert "The first two, gla and hybrid, are 0.1000 apart: less than that" in found.noise[1]
    assert (json.dumps([t.name for t in found.tables])) == '["noise", "confounds", "derived"]'


def test_the_first_two_of_single_runs_are_held_against_no_test(tmp_path):
    sweep = {k: v for k, v in copy.deepcopy(SWEEP).items() if k != "confirm"}
    fake = Fake(tmp_path, {**sweep, "noise": {"arm": "gla", "seeds": 3}})
    for arm, value in (("standard", 3.3), ("gla", 3.1), ("hybrid", 3.2)):
        fake.trial(arm, value)
    for i in range(3):
        fake.trial("gla", 3.0 + 0.05 * i, phase="noise", seed=10_000 + i)
    found = guards.gather(select(load(fake.path)))
    assert found.noise[1].startswith("The first two, gla and hybrid, are 0.1000 apart. ")
