"""The optimizers of a trial as one: exact resuming, clipping, rates in tensors, capture."""

import copy
import io
import math

import pytest
import torch
from torch import nn

from attnlab.config.trial import OptimConfig
from attnlab.optim import branch_factor, make_optimizer
from tests.optim.small import Model


def train(model, optimizer, steps):
    """Losses of `steps`, each on a batch of its own."""
    losses = []
    for step in steps:
        tokens = torch.randint(11, (2, 7), generator=torch.Generator().manual_seed(step))
        logits = model(tokens[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.clip(1.0)
        optimizer.set_lr(step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def new_run(name, capturable=False):
    torch.manual_seed(0)
    model = Model()
    return model, make_optimizer(model, OptimConfig(name=name, lr=0.01), 12, "cpu", capturable)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_resumed_run_is_bit_identical(name):
    model, optimizer = new_run(name)
    train(model, optimizer, range(1, 6))
    weights, stored = copy.deepcopy(model.state_dict()), io.BytesIO()
    torch.save(optimizer.state_dict(), stored)
    losses = train(model, optimizer, range(6, 13))

    resumed, other = new_run(name)
    resumed.load_state_dict(weights)
    stored.seek(0)
    other.load_state_dict(torch.load(stored, weights_only=True))
    assert train(resumed, other, range(6, 13)) == losses
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))
    assert all(torch.equal(x, other.state_dict()[key]) for key, x in optimizer.state_dict().items())


def test_the_state_passes_through_safetensors(tmp_path):
    from safetensors.torch import load_file, save_file

    model, optimizer = new_run("muon")
    train(model, optimizer, range(1, 4))
    save_file(optimizer.state_dict(), tmp_path / "optimizer.safetensors")
    _, other = new_run("muon")
    other.load_state_dict(load_file(tmp_path / "optimizer.safetensors"))
    assert all(torch.equal(x, other.state_dict()[key]) for key, x in optimizer.state_dict().items())


def test_loading_is_in_place_and_refuses_another_optimizers_state():
    _, muon = new_run("muon")
    _, adamw = new_run("adamw")
    places = {key: x.data_ptr() for key, x in muon.state_dict().items()}
    muon.load_state_dict({key: torch.ones_like(x) for key, x in muon.state_dict().items()})
    assert places == {key: x.data_ptr() for key, x in muon.state_dict().items()}
    with pytest.raises(ValueError, match="keys differ"):
        muon.load_state_dict(adamw.state_dict())
    ones = {key: torch.ones_like(x) for key, x in adamw.state_dict().items()}
    for key in ones:  # the first one or the last, none is changed
        with pytest.raises(ValueError, match="is \\(3,\\)"):
            adamw.load_state_dict({**ones, key: torch.zeros(3)})
    assert not any(x.any() for x in adamw.state_dict().values())


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_capturable_keeps_the_rate_in_one_tensor_and_trains_alike(name):
    model, optimizer = new_run(name)
    captured, other = new_run(name, capturable=True)
    rates = {id(group["lr"]) for part in other.optimizers for group in part.param_groups}
    torch.testing.assert_close(
        train(captured, other, range(1, 13)), train(model, optimizer, range(1, 13)), rtol=1e-4, atol=0
    )
    assert rates == {id(group["lr"]) for part in other.optimizers for group in part.param_groups} and len(rates) == 1
    assert other.optimizers[0].param_groups[0]["lr"].item() == pytest.approx(other.lr(12)) == pytest.approx(0.001)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_training_lowers_the_loss(name):
    torch.manual_seed(0)
    model = Model()
    optimizer = make_optimizer(model, OptimConfig(name=name, lr=0.02), 60, "cpu")
    tokens = torch.randint(11, (4, 8))
    losses = []
    for step in range(1, 61):
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
        loss.backward()
        optimizer.set_lr(step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_clip_bounds_the_global_norm_and_reports_it_from_before():
    model, optimizer = new_run("adamw")
    params = [param for param in model.parameters() if param.requires_grad]
    for param in params[:-1]:
        param.grad = torch.ones_like(param)  # one parameter without a gradient is no obstacle
    norm = math.sqrt(sum(param.numel() for param in params[:-1]))
    assert optimizer.clip(None).item() == pytest.approx(norm)
    assert optimizer.clip(2.0).item() == pytest.approx(norm)
    assert optimizer.clip(5.0).item() == pytest.approx(2.0, rel=1e-4)
    assert optimizer.clip(None).item() == pytest.approx(2.0, rel=1e-4)
    optimizer.zero_grad(set_to_none=False)
    assert optimizer.clip(1.0).item() == 0.0


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_shows(name, value):
    model, optimizer = new_run(name)
    for param in optimizer.named.values():
        param.grad = torch.zeros_like(param)
    weight = model.blocks[0].up.weight
    weight.grad[0, 0] = value
    assert not optimizer.clip(1.0).isfinite()
    optimizer.step()
    assert not weight.isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_captured_step_trains_as_an_eager_one(name):
    """Forward to update in one CUDA graph, under the schedule; bf16 Newton-Schulz on both sides."""
    tokens = torch.randint(11, (4, 8), device="cuda", generator=torch.Generator("cuda").manual_seed(0))

    def new():
        torch.manual_seed(0)
        model = Model().cuda()
        return model, make_optimizer(model, OptimConfig(name=name, lr=0.01), 20, "cuda", capturable=True)

    def one_step(model, optimizer):
        optimizer.zero_grad(set_to_none=False)
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
        loss.backward()
        optimizer.clip(1.0)
        optimizer.step()
        return loss

    eager, captured = new(), new()
    weights, state = copy.deepcopy(captured[0].state_dict()), copy.deepcopy(captured[1].state_dict())
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        one_step(*captured)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = one_step(*captured)
    captured[0].load_state_dict(weights)
    captured[1].load_state_dict(state)

    losses = []
    for step in range(1, 21):
        eager[1].set_lr(step)
        captured[1].set_lr(step)
        graph.replay()
        losses.append((one_step(*eager).item(), loss.item()))
    assert losses[-1][0] < 0.7 * losses[0][0]
    for by_eager, by_graph in losses:
        assert by_graph == pytest.approx(by_eager, rel=1e-2)


def test_within_a_branch_the_rate_decays_over_its_steps_and_then_goes_on():
    optim = OptimConfig(lr=0.5, schedule="wsd", decay=0.2, warmup=0, min_lr_ratio=0.1)
    optimizer = make_optimizer(Model(), optim, 100, "cpu")
    with optimizer.decaying(10, 4):
        rates = [optimizer.lr(step) for step in (10, 11, 14)]
    assert rates == [0.5 * branch_factor(step, 10, 4, optim) for step in (10, 11, 14)]
    assert rates == pytest.approx([0.5, 0.5 * (0.1 + 0.9 * 0.5), 0.05])
    with pytest.raises(KeyError), optimizer.decaying(10, 4):
        raise KeyError
    assert optimizer.lr(11) == 0.5


def test_unless_told_otherwise_the_rate_is_a_number():
    optimizer = make_optimizer(Model(), OptimConfig(name="muon"), 10, "cpu")
    assert {type(group["lr"]) for part in optimizer.optimizers for group in part.param_groups} == {float}
    assert not any(group["capturable"] for group in optimizer.optimizers[1].param_groups)


@pytest.mark.parametrize("capturable", [False, True])
def test_every_setting_reaches_its_optimizer(capturable):
    optim = OptimConfig(name="muon", lr=0.5, warmup=10.0, beta1=0.7, beta2=0.8, momentum=0.6, weight_decay=0.3)
    muon, adamw = make_optimizer(Model(), optim, 100, "cpu", capturable).optimizers
    assert (muon.param_groups[0]["momentum"], muon.param_groups[0]["weight_decay"]) == (0.6, 0.3)
    groups = [*muon.param_groups, *adamw.param_groups]
    assert [float(group["lr"]) for group in groups] == pytest.approx([0.05] * 3), "that of step 1"
    assert all(isinstance(group["lr"], torch.Tensor) == capturable for group in groups)
    for group in adamw.param_groups:
        assert (group["betas"], group["eps"]) == ((0.7, 0.8), 1e-8)  # Kingma & Ba 2015
        assert (group["fused"], group["foreach"], group["capturable"]) == (capturable, not capturable, capturable)
    assert [group["weight_decay"] for group in adamw.param_groups] == [0.3, 0.0]
