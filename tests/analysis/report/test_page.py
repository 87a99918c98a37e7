"""The page, the CSV file and the command line."""

import copy
import csv
import io
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import jsonschema
import pytest
from rich.console import Console

from analysis.command_line import main
from analysis.figures import interactive
from analysis.records.load import load
from analysis.records.select import select
from analysis.report.leaderboard import show
from analysis.report.page import environment, write_report
from tests.analysis.fake_results import SWEEP, Fake, fill
from tests.contract import VERDICTS

ROOT = Path(__file__).parents[3]
VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Cells of the leaderboard, ids, references and visible text; checks that tags nest."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.rows, self.ids, self.references, self.text, self.tags = [], [], [], [], "", set()
        self.label = None  # of the cell being read
        self.feed(text)
        self.close()
        assert not self.stack, f"never closed: {self.stack}"

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.references += [v for k, v in attrs.items() if k in ("src", "href", "xlink:href", "action", "data") and v]
        if tag not in VOID:
            self.stack.append((tag, attrs.get("class") or ""))
        if tag == "tr" and ("table", "board") in self.stack:
            self.rows.append({})
        if tag in ("td", "tr"):
            self.label = attrs.get("data-label", "arm") if tag == "td" else None

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.stack and self.stack[-1][0] == tag, f"</{tag}> closes {self.stack[-1:]}"
        self.stack.pop()

    def handle_data(self, data):
        if any(tag == "style" for tag, _ in self.stack):
            assert "url(" not in data and "@import" not in data
            return
        self.text += data
        if self.label and ("table", "board") in self.stack and any(tag == "td" for tag, _ in self.stack):
            row = self.rows[-1]
            row[self.label] = (row.get(self.label, "") + " " + data.strip()).strip()

    def board(self):
        """Arm -> its cells by label; the first word of the arm's cell is its name."""
        return {row["arm"].split()[0]: row for row in self.rows if row.get("arm")}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The report of the full sweep: (fake, page)."""
    fake = fill(Fake(tmp_path_factory.mktemp("results")))
    path = write_report(fake.path)
    assert path == fake.path / "analysis" / "report.html"
    return fake, Page(path.read_text())


def test_every_arm_is_in_the_table_with_its_counts(made):
    board = made[1].board()
    assert list(board) == ["gla", "hybrid", "standard", "baseline:"]
    gla = board["gla"]
    assert [gla[s] for s in ("completed", "pruned", "diverged", "failed", "unfinished", "unreadable")] == list("510101")
    assert gla["best val_loss"] == "3.1000 s.e. 0.0100"
    assert gla["confirm mean ± std (n)"].startswith("3.1100 ± 0.0100 (3) [3.0")
    assert [board[arm]["rank"] for arm in ("gla", "hybrid", "standard")] == ["1", "2", "3"]
    assert gla["parameters (non-emb.)"] == "1.23M 988k"
    assert board["baseline:"] == {"arm": "baseline: unigram loss", "val_loss": "4.5000"}


def test_a_hybrids_layers_are_listed_with_their_mixers(made):
    assert "layers 0, 2: gla; layers 1, 3: standard (window 32)" in made[1].text
    assert made[1].text.count("layers 0") == 1, "the other arms have one mixer"


def test_it_refers_to_nothing_outside_itself(made):
    page = made[1]
    assert page.references and all(reference.startswith("#") for reference in page.references)
    assert {reference[1:] for reference in page.references} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids)), "an id twice"
    assert not page.tags & {"script", "link", "iframe", "img"}


def test_what_users_wrote_is_escaped(made):
    page = made[1]
    assert "<script>alert(1)</script>" in page.text and "Gating helps & 3 < 4." in page.text
    assert "node<1>" in page.text


def test_failures_divergences_and_damage_are_told(made):
    text = made[1].text
    assert "RuntimeError: CUDA <out> of memory" in text and "Traceback (most recent call last)" in text
    assert "Diverged (1)" in text and "lr 0.08" in text
    assert "results.json cannot be used: Unterminated string" in text
    assert "22 begun of 24 planned" in text and "20 of 24 trials have ended" in text
    assert "hybrid: its best optim.lr, 0.09, lies at the upper edge" in text


def test_figures_are_small_valid_svg_with_text_as_text(made):
    fake, page = made
    files = sorted((fake.path / "analysis" / "figures").glob("*.svg"))
    assert {f.stem for f in files} == {
        "curves-steps", "curves-seconds", "trials",
        *(f"setting-{key}-{arm}" for key in ("optim.lr", "optim.weight_decay") for arm in fake.plan.names),
    }  # fmt: skip
    for file in files:
        tree = ElementTree.parse(file).getroot()
        words = "".join(tree.itertext())
        assert tree.tag.endswith("svg") and "val_loss" in words and file.stat().st_size < 60_000
    assert "unigram loss 4.5000" in "".join(ElementTree.parse(files[0]).getroot().itertext())


def test_the_table_as_csv(made):
    rows = list(csv.DictReader(io.StringIO((made[0].path / "analysis" / "leaderboard.csv").read_text())))
    assert [(r["kind"], r["name"], r["rank"]) for r in rows] == [
        ("arm", "gla", "1"), ("arm", "hybrid", "2"), ("arm", "standard", "3"), ("baseline", "unigram_loss", "")
    ]  # fmt: skip
    assert rows[0]["completed"] == "5" and rows[0]["optim.lr"] == "0.004" and rows[3]["tokens"] == ""


def test_the_verdicts_are_written_and_are_those_of_the_page(made):
    fake, page = made
    board = json.loads(fake.folder.verdicts_file.read_text())
    jsonschema.validate(board, VERDICTS)
    assert fake.folder.verdicts_file == fake.path / "analysis" / "verdicts.json" and board["metric"] == "val_loss"
    assert [(arm["arm"], arm["n"], arm["rank"]) for arm in board["arms"]] == [
        ("gla", 3, 1), ("hybrid", 3, 2), ("standard", 3, 3)
    ]  # fmt: skip
    rows = list(csv.DictReader((fake.path / "analysis" / "pairs.csv").read_text().splitlines()))
    assert [(row["a"], row["b"], row["verdict"]) for row in rows] == [
        ("gla", "hybrid", "gla better"), ("gla", "standard", "gla better"), ("hybrid", "standard", "hybrid better"),
    ]  # fmt: skip
    assert [float(row["p"]) for row in rows] == [pair["p"] for pair in board["pairs"]]
    assert "Answer. So far: gla is best: better than each of the other 2 arms." in page.text
    assert (
        "Test of all pairs together: Tukey, arm + seed" in page.text and "Holm" not in page.text.split("Benchmarks")[1]
    )


def test_many_arms_get_a_figure_each_and_old_figures_go(tmp_path):
    tree = copy.deepcopy(SWEEP)
    tree["arms"] |= {"retnet": {"model": {"mixer": "retnet"}}, "a-b.c": {"model": {"mixer": "mamba2"}}}
    fake = Fake(tmp_path, tree)
    for i, arm in enumerate(tree["arms"]):
        fake.trial(arm, 3.0 + i)
    stale = fake.path / "analysis" / "figures" / "curves-steps-gone.svg"
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    page = Page(write_report(fake.path).read_text())
    assert (stale.parent / "curves-steps-a-b.c.svg").exists() and not stale.exists()
    assert len(page.ids) == len(set(page.ids))


def test_a_sweep_just_begun(fake):
    """One trial diverged without a report; another's reports have a null metric; a third arm has nothing at all."""
    fake.trial("gla", None, state="diverged", steps=0)
    fake.trial("standard", None, state=None, steps=30)
    page = Page(write_report(fake.path).read_text())
    assert "there is no answer" in page.text and "No trial has reported val_loss yet" in page.text
    assert {row["best val_loss"] for row in page.board().values()} == {"-"}


def test_an_ablation_without_a_search(tmp_path):
    tree = {k: v for k, v in SWEEP.items() if k not in ("search", "confirm")}
    fake = Fake(tmp_path, tree)
    for arm in tree["arms"]:
        fake.trial(arm, 3.0)
    page = Page(write_report(fake.path).read_text())
    assert (
        "No setting was searched" in page.text
        and "Answer. Undecided: standard, gla and hybrid have one run each" in page.text
    )
    assert "not finished" not in page.text


def test_no_damage_stops_the_report(fake):
    def problems():
        return " ".join(load(fake.path).problems)

    fake.trial("standard", 3.0)
    one, two, three = (fake.trial("gla", value) for value in (3.1, 3.2, 3.3))
    for damage in ("[]", "{}", '{"state": "won"}', "", "\x00\xff", '{"trial_id": 1'):
        one.results_file.write_text(damage)
        two.metrics_file.write_text(damage)
        three.config_file.write_text(damage)
        fake.folder.leaderboard_file.write_text(damage)
        assert problems().count("results.json cannot be used") == 1
        assert "experiment_config.json cannot be used" in problems() and "baselines are not shown" in problems()
    two.metrics_file.write_bytes(b"\xff\xfe")
    assert "metrics.jsonl cannot be used" in problems()
    assert "baselines are not shown" in Page(write_report(fake.path).read_text()).text


def test_environments_that_differ_are_counted():
    def found(*devices):
        trials = [{"environment": {"device": d, "pid": i, "first_step_at": 0.5, "versions": {"torch": "2"}}}
                  for i, d in enumerate(devices)]  # fmt: skip
        return environment(SimpleNamespace(results=trials))

    assert found("a", "a") == {"device": "a", "versions.torch": "2"}
    assert found("a", "b", "b")["device"] == "b (2 trials); a (1 trial)"
    assert found(*"abcde")["device"] == "5 values"


def test_an_arm_the_sweep_no_longer_has_is_left_out_and_told(fake):
    home = fake.trial("standard", 3.0)
    gone = fake.folder.trial("gone", "t0")
    gone.path.mkdir(parents=True)
    gone.config_file.write_text(json.dumps({**json.loads(home.config_file.read_text()), "arm": "gone"}))
    assert "sweep.yaml has no arm gone" in Page(write_report(fake.path).read_text()).text


def test_the_command_prints_the_leaderboard(full, capsys):
    assert main([str(full.path), "--benchmarks", "none"]) == 0
    out = capsys.readouterr()
    lines = out.out.splitlines()
    assert lines[0].startswith("fake: val_loss (lower is better)")
    assert [line.split()[1] for line in lines[2:5]] == ["gla", "hybrid", "standard"]
    assert lines[-1] == f"wrote {full.path}/analysis/report.html"
    assert out.err.count("\n") == 1 and out.err.startswith("warning: gla/")


def test_on_a_terminal_the_table_is_whole_at_its_width(full):
    out = io.StringIO()
    show(select(load(full.path)), Console(file=out, force_terminal=True, width=120, no_color=True))
    assert "5 completed" in out.getvalue() and "3.1100 ± 0.0100 (3)" in out.getvalue() and "…" not in out.getvalue()
    assert "[unigram loss]" in out.getvalue()


def test_mistakes_are_one_line_and_exit_code_2(fake, tmp_path, capsys):
    def said(path):
        assert main([str(path)]) == 2
        out = capsys.readouterr()
        assert out.out == "" and out.err.count("\n") == 1 and out.err.startswith("error: ")
        return out.err

    assert "no such folder" in said(tmp_path / "nowhere")
    (tmp_path / "bare").mkdir()
    assert "no sweep.yaml" in said(tmp_path / "bare")
    assert "no trial has ended yet" in said(tmp_path)  # a folder of sweeps, none of which can be used
    fake.trial("gla", 3.0, state=None)
    assert "no trial has ended yet (1 begun)" in said(fake.path)
    fake.folder.sweep_file.write_text("name: fake\narms: {}\n")
    assert "sweep.yaml: arms:" in said(fake.path)
    fake.folder.sweep_file.write_text("name: [\n")
    assert "sweep.yaml" in said(fake.path)
    assert not (fake.path / "analysis").exists()


def test_it_needs_neither_torch_nor_ray():
    code = "import sys, analysis.command_line; print(sorted({'torch', 'ray', 'fla', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_interactive_figures_are_in_the_page_only_when_asked_for(full, capsys, monkeypatch):
    pytest.importorskip("plotly", reason="needs pip install 'attnlab[interactive]'")
    plain = write_report(full.path).read_text()
    assert "<script" not in plain and 'id="hover"' not in plain
    assert main([str(full.path), "--benchmarks", "none", "--interactive"]) == 0
    page = (full.path / "analysis" / "report.html").read_text()
    assert page.count('id="interactive-') >= 2, "curves and settings"
    assert "cdn.plot.ly" not in page.split("plotly.js v", 1)[0] and "<script src" not in page and "<link" not in page
    monkeypatch.setattr(interactive, "available", lambda: False)
    assert main([str(full.path), "--interactive"]) == 2
    assert "pip install 'attnlab[interactive]'" in capsys.readouterr().err


def test_every_arm_has_its_trials_and_how_to_train_its_best_again(made):
    fake, page = made
    rows = list(csv.DictReader((fake.path / "analysis" / "trials.csv").read_text().splitlines()))
    assert len(rows) == 22 and {row["arm"] for row in rows} == {"standard", "gla", "hybrid"}
    assert {row["state"] for row in rows} == {"completed", "pruned", "diverged", "failed", "unfinished", "unreadable"}
    (best,) = [row for row in rows if row["arm"] == "gla" and row["best"] == "3.1" and row["phase"] == "search"]
    assert f"gla/{best['trial']}/experiment_config.json" in page.text and "0: 3.1000, 1: 3.1100, 2: 3.1200" in page.text
    assert "1,234,567, 987,654 without embeddings" in page.text
