"""Arms of any name are told apart, and shown as they are, on the page, in figures, tables and the terminal."""

import csv
import html
import io
from xml.etree import ElementTree

import pytest
from rich.console import Console

from analysis.figures import interactive
from analysis.records.load import load
from analysis.records.select import select
from analysis.report.leaderboard import show
from analysis.report.page import write_report
from analysis.statistics.claims import judge
from attnlab.plan.extension import leaderboard
from attnlab.ranking.claims import Claim, parse
from attnlab.sweep.ui.progress import Progress, table
from tests.analysis.fake_results import SWEEP, Fake
from tests.analysis.report.test_page import Page

NAMES = ["hybrid[gla]", "hybrid[retnet]", "x[bold]", "<td><script>&\"'", "$x_1$", "_a", "*", "%{x} <br>", "1e-3",
         "é\N{GRINNING FACE}"]  # fmt: skip


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A sweep whose arms have such names, with trials and runs of two seeds."""
    fake = Fake(tmp_path_factory.mktemp("names"), {**SWEEP, "arms": {name: {} for name in NAMES}})
    for i, name in enumerate(NAMES):
        fake.trial(name, 3 + i / 10)
        for seed in range(2):
            fake.trial(name, 3 + i / 10 + seed / 100, phase="confirm", seed=seed)
    return fake


def test_the_page_its_figures_and_tables_hold_every_name(named):
    page = write_report(named.path).read_text(encoding="utf-8")
    seen = Page(page)
    assert len(seen.ids) == len(set(seen.ids)) and "script" not in seen.tags
    rows = list(csv.DictReader(io.StringIO((named.path / "analysis" / "leaderboard.csv").read_text(encoding="utf-8"))))
    figures = sorted((named.path / "analysis" / "figures").glob("curves-*.svg"))
    drawn = " ".join("".join(ElementTree.parse(file).getroot().itertext()) for file in figures)
    for name in NAMES:
        assert name in seen.text, name
        assert name in {row["name"] for row in rows}
        assert " ".join(name.split()) in " ".join(drawn.split()), name


def test_the_terminals_tables_hold_every_name(named):
    for terminal in (True, False):
        console = Console(file=io.StringIO(), width=220, force_terminal=terminal, color_system=None)
        show(select(load(named.path)), console)
        assert all(name in console.file.getvalue() for name in NAMES)
    data = load(named.path)
    console = Console(file=io.StringIO(), width=220)
    console.print(table(leaderboard(data.plan, data.results)))
    assert all(name in console.file.getvalue() for name in NAMES)


def test_progress_prints_every_name(named, capsys):
    progress = Progress(named.plan)
    for trial in named.folder.trials():
        progress.ended(trial.job(), trial.results())
    shown = capsys.readouterr().out
    assert all(name in shown for name in NAMES)


def test_plotly_gets_every_name_as_text(named):
    figure = interactive._curves(select(load(named.path)))
    for trace, name in zip([t for t in figure.data if t.showlegend], NAMES, strict=False):
        assert html.unescape(trace.name) == name and "<" not in trace.name
        assert trace.hovertemplate.count("%{") == 2


@pytest.mark.parametrize("name", [*NAMES, "gla wide", "on", "2"])
def test_a_claim_names_any_arm(name):
    for claim in (Claim(name, "<", "gla"), Claim("gla", "beats", name, "val_loss", 2.0, True)):
        if "'" not in name or '"' not in name:
            assert parse(str(claim)) == claim


def test_a_claim_on_such_arms_is_judged(named):
    assert judge(parse("hybrid[gla] < '1e-3'"), select(load(named.path))).verdict in ("supported", "undecided")
    assert judge(parse('"%{x} <br>" > 1e-3'), select(load(named.path))).claim.right == 0.001
