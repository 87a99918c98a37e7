"""What an answer costs, from records whose truth is known."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy import stats

from analysis.efficiency.peaks import peak_of
from analysis.records.load import load
from analysis.records.select import select
from analysis.statistics import cost
from attnlab.ranking.tests import Interval
from attnlab.util.files import write_json
from tests.analysis.fake_results import SWEEP, Fake


def chosen(fake):
    return select(load(fake.path))


def test_the_expected_best_is_what_drawing_gives():
    values = [3.0, 3.2, 3.1, 4.0, 3.6]
    ours = cost.expected_best(values, "min")
    draws = np.random.default_rng(0).choice(values, (200_000, 5))
    assert ours == pytest.approx([draws[:, : n + 1].min(1).mean() for n in range(5)], abs=5e-3)
    assert ours[0] == pytest.approx(np.mean(values))
    assert cost.expected_best([-v for v in values], "max") == pytest.approx([-v for v in ours])


def test_where_a_curve_reaches_a_value():
    assert cost.first_reach([0, 10, 20], [5.0, 4.0, 3.0], 3.5, "min") == 15
    assert cost.first_reach([0, 10, 20], [0.1, 0.2, 0.4], 0.3, "max") == 15
    assert cost.first_reach([0, 10], [5.0, 4.0], 3.0, "min") is None
    assert cost.first_reach([7, 10], [2.0, 4.0], 3.0, "min") == 7


def test_every_arm_is_costed_at_the_value_the_weakest_reached(fake):
    fake.trial("standard", 3.3)
    fake.trial("gla", 3.1)
    rows = {row.arm: row for row in cost.iso_loss(chosen(fake))}
    assert set(rows) == {"standard", "gla"} and rows["gla"].target == 3.3
    assert rows["gla"].tokens.value < rows["standard"].tokens.value == 100 * 512


def test_a_scaling_law_is_recovered(tmp_path):
    tree = copy.deepcopy(SWEEP)
    tree["search"]["space"] = {"optim.lr": {"loguniform": [1e-4, 1e-1]}}
    fake = Fake(tmp_path, tree)
    for size in (1e5, 1e6, 1e7, 1e8):
        home = fake.trial("gla", 8 * size**-0.07)
        write_json(home.results_file, home.results() | {"n_params_non_embedding": int(size)})
    fake.trial("standard", 3.0)
    (fit,) = cost.scaling(chosen(fake))
    assert fit.arm == "gla" and fit.exponent.value == pytest.approx(0.07, abs=1e-6) and fit.exponent.n == 4


def test_the_setting_that_matters_is_the_important_one(fake):
    rng = np.random.default_rng(0)
    for _ in range(14):
        lr = float(10 ** rng.uniform(-4, -1))
        fake.trial("gla", 3 + (np.log10(lr) + 2) ** 2, lr=lr, decay=float(rng.choice([0.0, 0.1])))
    fake.trial("standard", 3.0)
    found = cost.importances(chosen(fake))
    assert set(found) == {"gla"} and sum(found["gla"].values()) == pytest.approx(1)
    assert found["gla"]["optim.lr"] > 0.8


def test_flops_are_those_that_the_trials_recorded(fake):
    for arm, flops in (("standard", 2e6), ("gla", None)):
        home = fake.trial(arm, 3.0)
        write_json(home.results_file, home.results() | {"flops_per_token": flops})
    rows = {row.arm: row for row in cost.iso_loss(chosen(fake))}
    assert (
        rows["standard"].flops.value == pytest.approx(rows["standard"].tokens.value * 2e6) and rows["gla"].flops is None
    )


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA A100-SXM4-80GB", 312e12),
     ("NVIDIA L40S", 362e12), ("NVIDIA L4", 121e12), ("NVIDIA A1000", None), ("cpu", None)],
)  # fmt: skip
def test_peaks_are_known_by_the_names_that_cuda_gives(name, peak):
    assert peak_of(name) == peak


@pytest.mark.parametrize(
    ("x", "y", "target", "mode", "wanted"),
    [
        ([0, 10, 20], [5.0, 4.0, 3.0], 4.0, "min", 10),
        ([0, 10, 20], [5.0, 4.0, 3.0], 4.25, "min", 7.5),
        ([5, 10, 30], [5.0, 4.0, 2.0], 3.5, "min", 15),
        ([5, 10], [3.0, 3.0], 3.0, "min", 5),  # at once
        ([0, 10, 20], [1.0, 2.0, 6.0], 5.0, "max", 17.5),
        ([0, 10], [1.0, 2.0], 2.5, "max", None),
        ([0, 10, 20], [3.0, 2.0 + 1e-13, 1.0], 2.0, "min", 10),  # equal but for rounding
        ([], [], 1.0, "min", None),
    ],
)
def test_a_curve_is_read_along_its_straight_lines(x, y, target, mode, wanted):
    assert cost.first_reach(x, y, target, mode) == (None if wanted is None else pytest.approx(wanted))


def test_over_confirm_runs_a_cost_has_its_interval(fake):
    for arm, base in (("standard", 3.3), ("gla", 3.1)):
        fake.trial(arm, base)
        for seed, more in enumerate((0.0, 0.01, -0.02)):
            home = fake.trial(arm, base + more, phase="confirm", seed=seed)
            write_json(home.results_file, home.results() | {"flops_per_token": 2e6})
    rows = {row.arm: row for row in cost.iso_loss(chosen(fake))}
    weakest = max(row.target for row in rows.values())
    assert rows["gla"].target == rows["standard"].target == weakest == pytest.approx(3.3, abs=0.02)
    gla = rows["gla"]
    assert [(row.arm, row.index) for row in rows.values()] == [("standard", 0), ("gla", 1)]
    assert gla.tokens.n == 3 and gla.tokens.low < gla.tokens.value < gla.tokens.high
    assert gla.flops.value == pytest.approx(2e6 * gla.tokens.value) and gla.flops.n == 3
    assert gla.seconds.value == pytest.approx(gla.tokens.value / 512 * 0.11)
    # a run that never gets there leaves no mean
    assert rows["standard"].tokens is None or rows["standard"].tokens.n == 3


def test_an_interval_of_costs_never_reaches_below_zero():
    few = cost.cost_interval([60.0, 110.0, 160.0])
    assert 0 < few.low < few.value < few.high and few.value == pytest.approx((60.0 * 110 * 160) ** (1 / 3))
    assert cost.cost_interval([10.0, 209.0]) == Interval(pytest.approx(2090**0.5), None, None, 2), "says nothing"
    assert cost.cost_interval([7.3]) == Interval(7.3, None, None, 1)
    assert cost.cost_interval([0.0, 7.0]) == Interval(3.5, None, None, 2)


def test_one_arm_alone_is_not_costed(fake):
    fake.trial("gla", 3.1)
    assert cost.iso_loss(chosen(fake)) == []


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_trial_that_did_not_complete_counts_as_the_worst_that_did(fake, mode):
    for value, state in ((3.0, "completed"), (2.5, "pruned"), (None, "diverged"), (1.0, "failed")):
        fake.trial("gla", value, state=state, error="out of memory" if state == "failed" else None)
    fake.trial("standard", None, state="diverged")
    fake.trial("gla", 2.0, phase="confirm")
    found = cost.trials_to_value(chosen(fake))
    values = [3.0, 3.0, 3.0, 3.0]
    assert set(found) == {"gla"} and found["gla"] == pytest.approx(cost.expected_best(values, "min"), abs=1e-9)
    assert cost.expected_best([1.0, 2.0], mode) == [1.5, 1.25 if mode == "min" else 1.75]


def sizes(root, *trials):
    tree = copy.deepcopy(SWEEP)
    tree["search"]["space"] = {"optim.lr": {"loguniform": [1e-4, 1e-1]}}
    fake = Fake(root, tree)
    for size, value, state in trials:
        home = fake.trial("gla", value, state=state)
        write_json(home.results_file, home.results() | {"n_params_non_embedding": size})
    return cost.scaling(chosen(fake))


def test_a_scaling_law_takes_each_sizes_best_completed_trial(tmp_path):
    law = [(size, 2 * size**-0.1 * (1 + bump)) for size, bump in ((10**5, 0.0), (10**6, 0.004), (10**7, -0.004))]
    extra = [(10**6, 9.0, "completed"), (10**7, 0.1, "pruned"), (0, 1.0, "completed"), (10**8, -1.0, "completed")]
    (fit,) = sizes(tmp_path, *((n, v, "completed") for n, v in law), *extra)
    assert fit.points == [(float(n), pytest.approx(v)) for n, v in law]
    reference = stats.linregress(*np.log(np.array(law).T))
    half = stats.t.ppf(0.975, 1) * reference.stderr
    found = fit.exponent
    assert found.value == pytest.approx(-reference.slope) and found.n == 3
    assert (found.value - found.low, found.high - found.value) == pytest.approx((half, half))


def test_two_sizes_are_no_law(tmp_path):
    assert sizes(tmp_path, (10**5, 3.0, "completed"), (10**6, 2.0, "completed")) == []


@pytest.mark.parametrize("trials", [3, 4])
def test_settings_have_shares_from_four_valued_trials_on(fake, trials):
    for i in range(trials):
        fake.trial("gla", 3.0 + i, lr=0.001 * (i + 1), decay=0.1 * (i % 2))
        fake.trial("standard", 3.0, lr=0.001 * (i + 1))  # all alike
    fake.trial("gla", 9.0, lr=0.05, state="failed", error="out of memory")
    fake.trial("gla", 9.0, lr=0.05, phase="confirm")
    found = cost.importances(chosen(fake))
    assert set(found) == ({"gla"} if trials == 4 else set()) and found == cost.importances(chosen(fake)), "seeded"


@pytest.mark.parametrize("search", [None, {"space": {"optim.lr": {"loguniform": [1e-4, 1e-1]}}}])
def test_without_two_settings_there_are_no_shares(tmp_path, search):
    tree = {key: value for key, value in SWEEP.items() if key != "search"} | ({"search": search} if search else {})
    fake = Fake(tmp_path, tree)
    for i in range(5):
        fake.trial("gla", 3.0 + i, lr=0.001 * (i + 1))
    assert cost.importances(chosen(fake)) == {}


def test_the_vocabulary_is_that_of_the_first_exported_weights_that_can_be_read(tmp_path):
    assert cost.vocab_size(tmp_path / "nothing") is None
    for trial, tensors in (
        ("t000", None),
        ("t001", {"x": 7}),
        ("t002", {cost.EMBEDDING: 260}),
        ("t003", {cost.EMBEDDING: 9}),
    ):
        path = tmp_path / "arm" / trial / "checkpoints" / "final" / "model.safetensors"
        path.parent.mkdir(parents=True)
        if tensors is None:
            path.write_bytes(b"damaged")
        else:
            save_file({name: np.zeros((rows, 2), np.float32) for name, rows in tensors.items()}, path)
    assert cost.vocab_size(tmp_path) == 260


def trial_of(curve, state="completed", size=100.0):
    """A search trial whose metric is `curve` at 10, 20, ... tokens, and as many seconds."""
    last = curve[-1] if curve and state == "completed" else None
    return SimpleNamespace(
        phase="search", state=state, settings={}, value=lambda metric: last,
        results={"n_params_non_embedding": size, "flops_per_token": 3.0},
        series=lambda key, metric: ([10.0 * (i + 1) for i in range(len(curve))], curve),
    )  # fmt: skip


def selection(mode, **arms):
    """Arms of such trials; the first of an arm is its best."""
    declared = [SimpleNamespace(arm=name, index=i, trials=trials, best=trials[0], value=trials[0].value(""))
                for i, (name, trials) in enumerate(arms.items())]  # fmt: skip
    return SimpleNamespace(plan=SimpleNamespace(mode=mode), metric="val", declared=declared)


@pytest.mark.parametrize(("mode", "sign"), [("min", -1), ("max", 1)])
def test_the_weakest_arm_is_that_of_the_metrics_own_direction(mode, sign):
    a, b = trial_of([0.0, sign * 0.4]), trial_of([sign * 0.2, sign * 0.6])
    one, other = cost.iso_loss(selection(mode, a=[a], b=[b]))
    assert (one.target, other.target) == (sign * 0.4, sign * 0.4)
    assert [row.tokens.value for row in (one, other)] == pytest.approx([20.0, 15.0])
    assert [row.flops.value for row in (one, other)] == pytest.approx([60.0, 45.0])


@pytest.mark.parametrize(("mode", "sign"), [("min", -1), ("max", 1)])
def test_trials_that_did_not_complete_count_as_the_worst_in_the_metrics_own_direction(mode, sign):
    trials = [trial_of([sign * 0.6]), trial_of([sign * 0.2]), trial_of([sign * 0.7], state="pruned")]
    trials.append(trial_of([sign * 9.0], state="failed"))
    found = cost.trials_to_value(selection(mode, a=trials, b=[trial_of([], state="failed")]))
    assert found == {"a": pytest.approx(cost.expected_best([sign * v for v in (0.6, 0.2, 0.2, 0.2)], mode))}
    assert sign * found["a"][0] == pytest.approx(0.3) and sign * found["a"][-1] == pytest.approx(
        0.6 * 175 / 256 + 0.2 * 81 / 256
    )


@pytest.mark.parametrize(("mode", "pick"), [("min", 0), ("max", 1)])
def test_each_sizes_best_is_that_of_the_metrics_own_direction(mode, pick):
    trials = [trial_of([value], size=size) for size in (10.0, 100.0, 1000.0) for value in (0.1, 0.1 * size**0.2)]
    (fit,) = cost.scaling(selection(mode, a=trials, b=trials[:4]))
    assert [value for _, value in fit.points] == pytest.approx([(0.1, 0.1 * n**0.2)[pick] for n, _ in fit.points])
    assert (fit.arm, fit.index) == ("a", 0) and fit.exponent.value == pytest.approx(-0.2 * pick, abs=1e-9)
