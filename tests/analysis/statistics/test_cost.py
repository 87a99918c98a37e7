"""What an answer costs, from records whose truth is known."""

import copy

import numpy as np
import pytest

from analysis.efficiency.peaks import peak_of
from analysis.records.load import load
from analysis.records.select import select
from analysis.statistics import cost
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
