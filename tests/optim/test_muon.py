"""Muon against its definition and against torch's."""

import math

import pytest
import torch
from torch import nn

from attnlab.config.trial import OptimConfig
from attnlab.optim import Muon, make_optimizer, orthogonalize, param_groups
from attnlab.optim import muon as muon_module
from tests.optim.small import Model


@pytest.mark.parametrize("shape", [(16, 16), (16, 40), (3, 64)])
def test_orthogonalize_brings_singular_values_near_one_and_keeps_the_vectors(shape):
    matrices = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    out = orthogonalize(matrices)
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    in_basis = u.mT @ out @ vh.mT  # diagonal, as the iteration is a polynomial of the singular values alone
    values = in_basis.diagonal(dim1=-2, dim2=-1)
    assert (in_basis - torch.diag_embed(values)).abs().max() < 1e-4
    large = torch.linalg.svdvals(matrices)
    values = values[large > 0.05 * large.amax(-1, keepdim=True)]
    assert values.min() > 0.6 and values.max() < 1.25


def test_batched_iteration_is_the_single_one_per_matrix_and_scale_free():
    matrices = torch.randn(6, 12, 20, generator=torch.Generator().manual_seed(1))
    singly = torch.cat([orthogonalize(matrix[None]) for matrix in matrices])
    torch.testing.assert_close(orthogonalize(matrices), singly, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(orthogonalize(1e3 * matrices), singly, rtol=1e-4, atol=1e-5)
    assert orthogonalize(torch.zeros(1, 2, 3)).eq(0).all()


SHAPES = [(8, 24), (24, 8), (8, 8), (8, 24), (8, 8), (24, 8), (5, 24)]


def matrices(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def give_grads(params, step):
    generator = torch.Generator().manual_seed(1000 + step)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)


@pytest.mark.parametrize("limit", [1 << 26, 400, 1])  # one batch a shape, a few, one batch a matrix
def test_muon_follows_torchs_muon(limit, monkeypatch):
    """torch iterates in bf16 (8 bits of mantissa) one matrix at a time: single entries differ by some percent of an
    update's size, the update as a whole by far less."""
    monkeypatch.setattr(muon_module, "MAX_BATCH_ELEMENTS", limit)
    ours, theirs = matrices(), matrices()
    settings = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9}
    mine = Muon(ours, **settings)
    torchs = torch.optim.Muon(theirs, **settings, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        give_grads(ours, step)
        give_grads(theirs, step)
        mine.step()
        torchs.step()
    for start, a, b in zip(matrices(), ours, theirs, strict=True):
        assert (a - b).norm() < 0.02 * (b - start).norm()
        torch.testing.assert_close(mine.state[a]["momentum_buffer"], torchs.state[b]["momentum_buffer"])


def test_matrices_of_one_shape_or_its_transpose_are_one_batch(monkeypatch):
    seen = []
    monkeypatch.setattr(muon_module, "orthogonalize", lambda x: seen.append(tuple(x.shape)) or orthogonalize(x))
    params = matrices()
    give_grads(params, 0)
    Muon(params).step()
    assert seen == [(4, 8, 24), (2, 8, 8), (1, 5, 24)], "small models are bound by launches"


def test_muon_is_its_formula_per_matrix():
    params, lr, weight_decay, momentum = matrices(), 0.02, 0.1, 0.9
    muon = Muon(params, lr, weight_decay, momentum)
    expected = [param.detach().clone() for param in params]
    buffers = [torch.zeros_like(param) for param in expected]
    for step in range(3):
        give_grads(params, step)
        for i, param in enumerate(params):
            buffers[i] = momentum * buffers[i] + (1 - momentum) * param.grad
            update = (1 - momentum) * param.grad + momentum * buffers[i]
            tall = param.shape[0] > param.shape[1]
            update = orthogonalize(update.mT[None])[0].mT if tall else orthogonalize(update[None])[0]
            scale = 0.2 * math.sqrt(max(param.shape))
            expected[i] = (1 - lr * weight_decay) * expected[i] - lr * scale * update
        muon.step()
    for param, value in zip(params, expected, strict=True):
        torch.testing.assert_close(param.detach(), value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_decay_is_decoupled_from_the_gradient(name):
    """With zero gradients, a decayed parameter shrinks by 1 - lr wd a step and the others stay."""
    model = Model()
    before = {key: param.detach().clone() for key, param in model.named_parameters()}
    optim = OptimConfig(name=name, lr=0.1, weight_decay=0.5, schedule="constant", warmup=0)
    optimizer, split = make_optimizer(model, optim, 10, "cpu"), param_groups(model)
    for param in model.parameters():
        param.grad = torch.zeros_like(param)
    optimizer.step()
    for key, param in model.named_parameters():
        shrunk = 0.95 if key in split.hidden or key in split.decay else 1.0
        torch.testing.assert_close(param.detach(), shrunk * before[key], msg=lambda text, key=key: f"{key}: {text}")


def test_an_updates_root_mean_square_is_adamws():
    """0.2 lr up to the spread the iteration leaves in the singular values (about 0.7 to 1.2)."""
    params = matrices()
    before = [param.detach().clone() for param in params]
    give_grads(params, 0)
    Muon(params, lr=1.0, weight_decay=0.0).step()
    for start, param in zip(before, params, strict=True):
        assert 0.13 < (param - start).square().mean().sqrt() < 0.25


def test_a_rate_in_a_tensor_is_the_same_rate():
    by_float, by_tensor = matrices(), matrices()
    optimizers = Muon(by_float, lr=0.02), Muon(by_tensor, lr=torch.tensor(0.02))
    for step in range(3):
        for params, optimizer in zip((by_float, by_tensor), optimizers, strict=True):
            give_grads(params, step)
            optimizer.step()
    for a, b in zip(by_float, by_tensor, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_muon_refuses_what_is_no_matrix_and_skips_what_has_no_gradient():
    with pytest.raises(ValueError, match="matrices"):
        Muon([nn.Parameter(torch.zeros(3))])
    with pytest.raises(ValueError, match="momentum 1"):
        Muon(matrices(), momentum=1.0)
    params = matrices()
    before = [param.detach().clone() for param in params]
    give_grads(params[:2], 0)
    Muon(params).step()
    moved = [not torch.equal(param, start) for param, start in zip(params, before, strict=True)]
    assert moved == [True, True] + [False] * (len(params) - 2)


@pytest.mark.parametrize(
    "wrong", [{"lr": -0.1}, {"weight_decay": -0.1}, {"momentum": -0.1}, {"momentum": 1.5}], ids=str
)
def test_each_setting_has_its_range(wrong):
    with pytest.raises(ValueError, match="momentum below 1"):
        Muon(matrices(), **wrong)
    assert Muon(matrices(), lr=0.0, weight_decay=0.0, momentum=0.0)
    assert Muon(matrices()).defaults == {"lr": 3e-3, "weight_decay": 0.1, "momentum": 0.95}


def test_a_step_returns_its_closures_loss_and_leaves_half_precision_as_it_is():
    params = [param.bfloat16().detach().requires_grad_() for param in matrices()]

    def closure():
        loss = sum(param.float().square().sum() for param in params)
        loss.backward()
        return loss

    assert Muon(params).step(closure).item() > 0 and Muon(matrices()).step() is None
    out = muon_module._orthogonalize_all([param.grad for param in params[:1]], 0.1)
    assert out[0].dtype == torch.bfloat16
