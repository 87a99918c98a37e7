"""Selection, sentences and statistics."""

import math

import pytest

from analysis.records.load import load
from analysis.records.select import mixer_text, select
from analysis.report import wording
from attnlab.config.space import parse
from attnlab.plan.extension import leaderboard
from attnlab.util.text import large_text, value_text
from tests.analysis.fake_results import SWEEP, Fake


def chosen(fake):
    return select(load(fake.path))


def by_name(sel):
    return {arm.arm: arm for arm in sel.arms}


def test_states_are_counted_per_arm(full):
    arms = by_name(chosen(full))
    assert arms["standard"].counts == dict(completed=5, pruned=1, diverged=1, failed=0, unfinished=0, unreadable=0)
    assert arms["gla"].counts == dict(completed=5, pruned=1, diverged=0, failed=1, unfinished=0, unreadable=1)
    assert arms["hybrid"].counts == dict(completed=5, pruned=1, diverged=0, failed=0, unfinished=1, unreadable=0)


def test_arms_are_ranked_by_confirm_means_and_the_unreadable_best_is_no_candidate(full):
    sel = chosen(full)
    assert [arm.arm for arm in sel.arms] == ["gla", "hybrid", "standard"]
    assert [arm.rank for arm in sel.arms] == [1, 2, 3]
    assert sel.ranked_by == "confirm mean"
    assert sel.arms[0].value == pytest.approx(3.1) and sel.arms[0].confirm["n"] == 3
    assert sel.baselines == {"unigram_loss": 4.5}


def test_equal_trials_and_equal_arms_are_told(fake):
    first = fake.trial("gla", 3.0, lr=0.001)
    fake.trial("gla", 3.0, lr=0.002)
    fake.trial("standard", 3.0)
    fake.trial("hybrid", 3.5)
    sel = chosen(fake)
    arms = by_name(sel)
    assert arms["gla"].best.trial_id == first.trial_id and arms["gla"].ties == 1
    assert {arm.rank for arm in arms.values()} == {None}, "single runs rank nobody"
    assert "standard and gla share the lowest val_loss, 3.0000" in wording.answer(sel)[1]
    assert any("2 trials with exactly its best value" in line for line in wording.caveats(sel))


def test_a_single_run_per_arm_is_given_no_interval(fake):
    for arm, value in (("standard", 3.0), ("gla", 3.25), ("hybrid", 3.5)):
        fake.trial(arm, value)
    lead, values = wording.answer(chosen(fake))
    assert lead.startswith("So far: Undecided: no run outside the search has completed")
    assert values == (
        "The lowest val_loss is that of standard, 3.0000 (single run); gla has 3.2500, 0.2500 more. "
        "Each arm was run once: another seed could change the order."
    )


def confirmed(fake, **values):
    """Confirm runs over as many seeds as each arm has values."""
    for arm, each in values.items():
        for seed, value in enumerate(each):
            fake.trial(arm, value, phase="confirm", seed=seed)
    return chosen(fake)


def test_seeds_that_do_not_separate_two_arms_are_said_not_to(fake):
    sel = confirmed(fake, standard=(3.0, 3.2, 3.1), gla=(3.2, 3.0, 3.12), hybrid=(9.0, 9.1, 8.9))
    lead, values = wording.answer(sel)
    assert lead.startswith("So far: Undecided between standard and gla, all better than the other arm.")
    assert "lowest val_loss is that of standard, 3.1000 (mean of 3 confirm runs); gla has 3.1067, 0.0067 [-" in values
    ranks = {arm.arm: wording.rank_text(arm) for arm in sel.arms}
    assert ranks == {"standard": "=", "gla": "=", "hybrid": "3"}
    assert not any("is best" in line for line in (lead, values))


def test_an_arm_shown_better_than_all_leads_and_ranks(fake):
    sel = confirmed(fake, standard=(3.0, 3.02, 3.01), gla=(3.5, 3.51, 3.52), hybrid=(4.0, 4.01, 3.99))
    assert wording.answer(sel)[0] == "So far: standard is best: better than each of the other 2 arms."
    assert [(arm.rank, arm.not_worse) for arm in sel.arms] == [(1, True), (2, False), (3, False)]
    assert all(low < arm.score < high for arm in sel.arms for low, high in [arm.interval])


def test_no_mean_of_confirm_runs_is_told_where_none_were(tmp_path):
    fake = Fake(tmp_path, {k: v for k, v in SWEEP.items() if k not in ("search", "confirm")})
    for arm, value in (("standard", 3.0), ("gla", 3.1), ("hybrid", 3.2)):
        fake.trial(arm, value)
    sel = chosen(fake)
    told = " ".join([*wording.answer(sel), wording.ranked_text(sel)])
    assert "confirm" not in told and "standard, 3.0000 (single run)" in told and "best" not in told
    assert told.startswith("Undecided: standard, gla and hybrid have one run each, and a test needs two seeds.")


def test_arms_that_learnt_nothing_are_held_against_the_baseline(fake):
    for arm, value in (("standard", 4.0), ("gla", 4.6), ("hybrid", 4.1)):
        fake.trial(arm, value)
    fake.baselines(unigram_loss=4.5, unigram_accuracy=0.2)
    assert wording.answer(chosen(fake))[2:] == ["Not better than the baseline unigram loss (4.5000): gla."]


def test_a_metric_that_grows_is_ranked_the_other_way(tmp_path):
    trial = {**SWEEP["trial"], "train": {**SWEEP["trial"]["train"], "max_steps": 10}}
    tree = {**SWEEP, "trial": trial, "search": {**SWEEP["search"], "mode": "max"}}
    fake = Fake(tmp_path, tree)
    for arm, value in (("standard", 3.0), ("gla", 3.5), ("hybrid", 2.0)):
        fake.trial(arm, value, steps=10)
    fake.baselines(unigram_loss=2.5)
    told = wording.answer(chosen(fake))
    assert "The highest val_loss is that of gla, 3.5000 (single run); standard has 3.0000, 0.5000 less." in told[1]
    assert told[2] == "Not better than the baseline unigram loss (2.5000): hybrid."


def test_a_pruned_trial_is_no_candidate(fake):
    fake.trial("standard", 3.0)
    fake.trial("gla", 2.9, state="pruned", steps=30)
    early = fake.trial("hybrid", 2.5, state="pruned", steps=30)
    late = fake.trial("hybrid", 3.5)
    sel = chosen(fake)
    arms = by_name(sel)
    assert (arms["gla"].best, arms["gla"].value) == (None, None)
    assert arms["hybrid"].best.trial_id == late.trial_id != early.trial_id and arms["hybrid"].value == 3.5
    assert [arm.arm for arm in sel.arms] == ["standard", "hybrid", "gla"]
    assert "Without a value of val_loss, which only completed trials have: gla." in wording.caveats(sel)


def test_an_arm_has_one_speed_wherever_it_is_shown(full):
    sel = chosen(full)
    board = leaderboard(sel.plan, sel.data.results)["arms"]
    assert {arm.arm: arm.tokens_per_s for arm in sel.arms} == {name: row["tokens_per_s"] for name, row in board.items()}


def test_baselines_that_every_arm_beats_are_one_sentence(fake):
    for arm in fake.plan.names:
        fake.trial(arm, 3.0)
    fake.baselines(unigram_loss=4.5, uniform_loss=7.6)
    assert wording.answer(chosen(fake))[2:] == [
        "All 3 arms are better than the baselines unigram loss (4.5000) and uniform loss (7.6000)."
    ]


def test_without_a_value_there_is_no_answer(fake):
    fake.trial("gla", None, state="diverged", steps=20)
    sel = chosen(fake)
    assert "no answer" in " ".join(wording.answer(sel)) and all(arm.rank is None for arm in sel.arms)


@pytest.mark.parametrize(("lr", "end"), [(0.09, "upper"), (0.00011, "lower"), (0.05, None), (0.0002, None)])
def test_a_best_setting_near_the_end_of_its_range_is_named(fake, lr, end):
    fake.trial("gla", 3.0, lr=lr)
    told = wording.edges(chosen(fake))
    assert (len(told) == 1 and f"{end} edge" in told[0] and "gla" in told[0]) if end else told == []


def test_after_an_extension_the_range_searched_last_counts(tmp_path):
    space = {"optim.lr": {"loguniform": [1e-3, 1e-1]}}
    fake = Fake(tmp_path, {**SWEEP, "search": {"space": space, "trials": 2, "extend": 1}})
    for arm in ("standard", "gla", "hybrid"):
        fake.trial(arm, 3.0, lr=0.01)
        fake.trial(arm, 2.9 if arm == "gla" else 3.1, lr=0.095)
    assert chosen(fake).planned == 3 * (2 + 1 + 3) and chosen(fake).in_progress
    for arm in ("standard", "gla", "hybrid"):
        fake.trial(arm, 2.8, lr=0.2 if arm == "gla" else 0.02)
    sel = chosen(fake)
    assert wording.edges(sel) == [] and sel.planned == 3 * (2 + 1 + 3)


def test_the_comparison_uses_the_setting_with_the_best_confirm_mean(tmp_path):
    fake = Fake(tmp_path, {**SWEEP, "confirm": {"seeds": [0, 1], "top": 2}})
    for arm in ("standard", "gla", "hybrid"):
        fake.trial(arm, 3.0, lr=0.01)
        fake.trial(arm, 3.1, lr=0.02)
        for seed in (0, 1):
            fake.trial(arm, 3.3, lr=0.01, phase="confirm", seed=seed)
            fake.trial(arm, 3.2, lr=0.02, phase="confirm", seed=seed)
    sel = chosen(fake)
    assert all(sel.confirm_values(arm, "val_loss") == pytest.approx({0: 3.2, 1: 3.2}) for arm in sel.arms)
    told = wording.caveats(sel)
    assert any("gla is confirmed with lr 0.02" in line for line in told)
    assert any("best mean of up to 2 confirmed settings" in line for line in told)


def test_position_is_on_the_scale_searched():
    assert parse({"loguniform": [1e-4, 1e-2]}).position(1e-3) == pytest.approx(0.5)
    assert parse({"uniform": [0, 4]}).position(1) == 0.25
    assert parse({"uniform": [0, 4]}).position(None) is None


def test_mixers_are_described_as_built(fake):
    assert mixer_text(fake.plan, "standard", {}) == "standard x4"
    assert mixer_text(fake.plan, "gla", {}) == "gla (expand_k 0.5) x4"
    assert mixer_text(fake.plan, "hybrid", {}) == "gla, standard (window 32) repeated over 4 layers"


@pytest.mark.parametrize(
    ("value", "text"), [(3.14159, "3.1416"), (None, "-"), (math.nan, "-"), (2e-5, "2e-05"), (0.0, "0.0000")]
)
def test_values_as_text(value, text):
    assert value_text(value) == text


def test_large_numbers_as_text():
    assert [large_text(v) for v in (17_123_456, 999_999, 950, None)] == ["17.1M", "1M", "950", "-"]
