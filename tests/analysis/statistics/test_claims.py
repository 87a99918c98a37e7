"""Claims on a sweep's records: verdicts on planted differences, ties and unknowns."""

import numpy as np
import pytest

from analysis.command_line import main
from analysis.records.load import load
from analysis.records.select import select
from analysis.statistics.claims import judge
from attnlab.ranking.claims import parse
from tests.analysis.benchmark_file import write_benchmarks

SPREAD = (0.0, 0.012, -0.009, 0.004, -0.006)


@pytest.fixture
def planted(fake):
    """gla 3.1, hybrid 3.1 too, standard 3.3; each with five confirm seeds that scatter by themselves."""
    for i, (arm, base) in enumerate((("standard", 3.3), ("gla", 3.1), ("hybrid", 3.1))):
        fake.trial(arm, base)
        for seed in range(5):
            fake.trial(arm, base + SPREAD[(seed + 2 * i) % 5], phase="confirm", seed=seed)
    return fake


def verdict(fake, text):
    return judge(parse(text), select(load(fake.path))).verdict


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("gla < standard", "supported"),
        ("gla > standard", "refuted"),
        ("gla beats standard on val_loss", "supported"),
        ("standard beats gla", "refuted"),
        ("gla < standard by 2%", "supported"),
        ("gla < standard by 0.1", "supported"),
        ("gla < standard by 20%", "refuted"),
        ("gla < standard by 0.2", "undecided"),  # exactly what was planted
        ("standard > gla by 2%", "supported"),
        ("gla < hybrid", "undecided"),
        ("gla ~ hybrid by 1%", "supported"),
        ("gla ~ standard by 1%", "refuted"),
        ("gla ~ hybrid by 0.001", "undecided"),
        ("gla < 3.2", "supported"),
        ("gla > 3.2", "refuted"),
        ("gla < 3.1", "undecided"),
    ],
)
def test_planted_differences_and_ties_are_told_apart(planted, text, wanted):
    assert verdict(planted, text) == wanted


def test_undecided_says_what_would_decide(planted):
    text = judge(parse("gla < hybrid"), select(load(planted.path))).text
    assert "95 % interval" in text and "two-sided p" in text
    assert "would decide it" in text


def test_without_seeds_nothing_is_claimed(fake):
    for arm in ("standard", "gla"):
        fake.trial(arm, 3.0 if arm == "gla" else 3.3)
    text = judge(parse("gla < standard"), select(load(fake.path))).text
    assert text.startswith("undecided") and "confirm" in text


def test_benchmarks_are_judged_by_their_items(planted):
    rng = np.random.default_rng(0)
    sure = rng.random(400) < 0.5
    write_benchmarks(planted, {"hellaswag": {"standard": sure & (rng.random(400) < 0.7), "gla": sure, "hybrid": sure}})
    assert verdict(planted, "gla beats standard on hellaswag") == "supported"
    assert verdict(planted, "standard > gla on hellaswag") == "refuted"
    assert verdict(planted, "gla beats hybrid on hellaswag") == "undecided"
    assert verdict(planted, "gla > standard on hellaswag by 0.02") == "supported"


def test_the_command(planted, capsys):
    assert main([str(planted.path), "--claim", "gla < standard on val_loss by 2%"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("supported: gla < standard on val_loss by 2%.") and out.count("\n") == 1
    assert not (planted.path / "analysis").exists()
    for text, said in (
        ("gal < standard", "did you mean 'gla'?"),
        ("gla < standard on val_los", "'val_loss'"),
        ("x", "write"),
    ):
        assert main([str(planted.path), "--claim", text]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: claim") and error.count("\n") == 1 and said in error
