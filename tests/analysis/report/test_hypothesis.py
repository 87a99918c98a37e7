"""A sweep's own claims are judged on its page, with what was changed after its first trial."""

import pytest

from analysis.command_line import main
from analysis.records.load import load
from analysis.records.select import select
from analysis.report import hypothesis
from analysis.report.wording import caveats
from attnlab.config.sweep_file import dump
from attnlab.plan.preregistration import preregister
from attnlab.records.mirror import Mirror
from attnlab.util.files import write_text
from tests.analysis.fake_results import SWEEP, Fake

SPREAD = (0.0, 0.012, -0.009)
CLAIMS = [
    "gla < standard by 2%", "standard beats gla", "gla < hybrid on val_loss", "gla < standard on lambada", "gla < 3.0",
]  # fmt: skip


@pytest.fixture
def planted(tmp_path):
    """gla and hybrid at 3.1, standard at 3.3, three seeds each; preregistered with all but the last claim."""
    fake = Fake(tmp_path, {**SWEEP, "claims": CLAIMS[:-1], "sesoi": 0.02, "baseline": "standard"})
    preregister(fake.plan, Mirror(fake.folder))
    for i, (arm, base) in enumerate((("standard", 3.3), ("gla", 3.1), ("hybrid", 3.1))):
        fake.trial(arm, base)
        for seed in range(3):
            fake.trial(arm, base + SPREAD[(seed + i) % 3], phase="confirm", seed=seed)
    return fake


def restate(fake, **keys):
    write_text(fake.folder.sweep_file, dump(fake.plan.sweep.model_copy(update=keys)))


def found(fake):
    return hypothesis.gather(select(load(fake.path)))


def test_the_sweeps_own_claims_are_judged(planted, capsys):
    restate(planted, claims=tuple(CLAIMS))
    verdicts = [line.partition(":")[0] for line in found(planted).claims]
    assert verdicts == ["supported", "refuted", "undecided", "undecided", "refuted"]
    assert "gla < standard on lambada. It cannot be judged: no metric or benchmark lambada" in found(planted).claims[3]
    assert main([str(planted.path), "--benchmarks", "none"]) == 0
    page, out = (planted.folder.analysis / "report.html").read_text(), capsys.readouterr().out
    assert page.count("<li>supported: gla &lt; standard by 2%.") == 1
    assert (
        page.index("Hypothesis") < page.index('id="claims"') < page.index('id="preregistered"') < page.index("Answer")
    )
    assert "<li>The claim &#39;gla &lt; 3.0&#39; was added.</li>" in page
    assert "claim refuted: standard beats gla." in out


def test_what_was_changed_after_the_first_trial_is_told(planted):
    as_it_was = found(planted)
    assert as_it_was.changed == [] and "before the first trial, under the digest" in as_it_was.registered
    assert as_it_was.registered.endswith("unchanged since.")
    restate(planted, claims=tuple(CLAIMS), sesoi=0.5)
    changed = found(planted)
    assert changed.changed == ["The claim 'gla < 3.0' was added.", "sesoi was 0.02 and is now 0.5."]
    assert changed.registered.endswith("changed since, as below.")


def test_a_folder_without_one_says_so_and_a_damaged_one_is_told(planted):
    path = planted.folder.preregistration_file
    path.write_text(path.read_text().replace("0.02", "0.5"))
    assert "cannot be relied on" in found(planted).registered and "changed afterwards" in found(planted).registered
    path.unlink()
    assert found(planted).registered.startswith("Not preregistered: ") and found(planted).changed == []


def test_a_claim_that_a_hand_has_spoilt_is_undecided(planted):
    restate(planted, claims=("gla is best", "gla < nothing"))
    assert [line.partition(":")[0] for line in found(planted).claims] == ["undecided"] * 2


def test_a_run_that_confirms_itself_is_told_of_folders_of_before(planted, tmp_path):
    told = [line for line in caveats(select(load(planted.path))) if "among those that confirm it" in line]
    assert told == [
        "The run that was selected is among those that confirm it, which flatters: standard, gla and hybrid."
    ]
    apart = Fake(tmp_path, {**SWEEP, "name": "apart"})
    for phase, seed in (("search", 0), ("confirm", 1), ("confirm", 2)):
        apart.trial("gla", 3.1, phase=phase, seed=seed)
    assert not any("among those that confirm it" in line for line in caveats(select(load(apart.path))))
