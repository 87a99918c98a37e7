"""Operations and state: held to numbers that can be worked out by hand, and to how they must grow."""

import dataclasses

import pytest
import torch

from attnlab.config.trial import ModelConfig
from attnlab.kernels import dispatch
from attnlab.models import MIXERS, build_model, check_mixer, count_params
from attnlab.models.cost.flops import flops_per_token
from attnlab.models.cost.state import state_bytes, state_of
from attnlab.util import trust

HERE = [name for name, row in MIXERS.items() if not row.refused and not row.needs]


def model_of(mixer, **rest):
    for heads in (4, 2):
        model = ModelConfig(**{"d_model": 64, "n_heads": heads, "n_layers": 2, "mixer": mixer} | rest)
        if not check_mixer(model.mixer[0], model):
            return model
    raise AssertionError(mixer)


@pytest.mark.parametrize("name", HERE)
def test_every_mixer_is_counted(name):
    model = model_of(name)
    if (operations := MIXERS[name].operations) is None:
        pytest.skip("its row does not say its operations")
    short, long = flops_per_token(model, 64), flops_per_token(model, 1024)
    matrices = 6 * sum(p.numel() for b in build_model(model, 8).backbone.blocks for p in b.parameters() if p.dim() > 1)
    assert matrices < short < 4 * matrices
    assert long > short if operations.grows else long == short


@pytest.mark.parametrize("name", HERE)
def test_every_state_is_measured(name):
    assert (state_of(model_of(name), 0) is not None) == MIXERS[name].cached


def test_a_row_that_does_not_say_its_operations_is_not_known(monkeypatch):
    monkeypatch.setitem(MIXERS, "new", dataclasses.replace(MIXERS["gla"], operations=None))
    assert flops_per_token(model_of("new"), 64) is None


def test_softmax_attention_by_hand():
    model = ModelConfig(d_model=64, n_heads=4, n_layers=3, d_ff=256, mixer="standard")
    matrices = 4 * 64 * 64 + 3 * 64 * 256
    seen = (100 + 1) / 2  # keys per query, on average over 100 positions
    assert flops_per_token(model, 100) == pytest.approx(3 * 3 * (2 * matrices + 4 * 64 * seen))
    assert flops_per_token(model, 100, 50) - flops_per_token(model, 100) == pytest.approx(6 * 64 * 50)
    assert state_bytes(model, 100) == 3 * 100 * 2 * 64 * 4


def test_a_window_bounds_what_is_seen_and_kept():
    model = model_of({"name": "standard", "window": 16}, n_layers=1)
    seen = (16 * 17 / 2 + (100 - 16) * 16) / 100
    free = flops_per_token(model_of("standard", n_layers=1), 100)
    assert free - flops_per_token(model, 100) == pytest.approx(3 * 4 * 64 * ((100 + 1) / 2 - seen))
    assert state_bytes(model, 100) == 16 * 2 * 64 * 4


def test_gated_linear_attention_by_hand():
    gla = {"name": "gla", "expand_k": 0.5, "expand_v": 1.0}
    gated, ungated = model_of(gla, n_layers=1), model_of({**gla, "use_gk": False}, n_layers=1)
    numbers = 4 * (32 // 4) * (64 // 4)  # heads x key width x value width
    assert state_of(gated, 0).recurrent == numbers
    assert state_bytes(gated, 10_000) == 4 * numbers
    sizes = [
        sum(p.numel() for p in build_model(m, 8).backbone.blocks[0].parameters() if p.dim() > 1)
        for m in (gated, ungated)
    ]
    assert flops_per_token(gated, 77) == pytest.approx(3 * (2 * sizes[0] + 5 * numbers))
    assert flops_per_token(ungated, 77) == pytest.approx(3 * (2 * sizes[1] + 4 * numbers))


def test_a_hybrid_is_the_sum_of_its_layers():
    one, other = (flops_per_token(model_of(m, n_layers=1), 128) for m in ("gla", "standard"))
    assert flops_per_token(model_of(["gla", "standard", "gla"], n_layers=3), 128) == pytest.approx(2 * one + other)


def test_counting_leaves_torchs_random_numbers_alone():
    torch.manual_seed(3)
    want = torch.rand(4)
    torch.manual_seed(3)
    flops_per_token(model_of("retnet", d_model=48), 128)
    state_bytes(model_of("retnet", d_model=48), 128)
    assert torch.equal(torch.rand(4), want)


def test_users_own_mixers_say_it_themselves_or_are_not_known(tmp_path, monkeypatch):
    (tmp_path / "own_counted.py").write_text(
        "import torch\n\n\nclass Silent(torch.nn.Module):\n"
        "    def __init__(self, d_model):\n        super().__init__()\n"
        "        self.w = torch.nn.Linear(d_model, d_model)\n\n\n"
        "class Counted(Silent):\n    def flops_per_token(self, seq_len):\n        return 10.0 * seq_len\n"
    )
    monkeypatch.chdir(tmp_path)
    counted = ModelConfig(d_model=32, n_layers=1, mlp="none", mixer="own_counted:Counted")
    with trust.naming(["own_counted"]):
        assert flops_per_token(ModelConfig(d_model=32, n_layers=1, mixer="own_counted:Silent"), 8) is None
        assert flops_per_token(counted, 8) == 3 * (2 * 32 * 32 + 80)
    assert count_params(build_model(counted, 8))["n_params_mixers"] == 32 * 32 + 32


def test_measuring_a_state_is_no_kernel_of_the_trial():
    dispatch.calls.clear()
    model = ModelConfig(d_model=24, n_heads=2, n_layers=2, mixer="gla")  # a size that no other test has measured
    assert state_bytes(model, 64) > 0
    assert not dispatch.calls, "results.json would say that PyTorch stood in for FLA's kernels, on CUDA too"
