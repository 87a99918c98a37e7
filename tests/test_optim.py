"""Schedules, the sorting of parameters, Muon against its definition and against torch's, and exact resuming."""

import copy
import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attnlab.config import OptimConfig
from attnlab.optim import Muon, branch_factor, lr_factor, make_optimizer, orthogonalize, param_groups, warmup_steps
from attnlab.optim import muon as muon_module

SCHEDULES = ("cosine", "linear", "wsd", "constant")


# ------------------------------------------------------------------------------------------------------- schedule


@st.composite
def schedules(draw):
    max_steps = draw(st.integers(2, 400))
    fraction = st.floats(0.0, 0.99)
    steps = st.integers(1, max(1, max_steps - 1)).map(float)
    return max_steps, OptimConfig(
        schedule=draw(st.sampled_from(SCHEDULES)),
        warmup=draw(st.one_of(fraction, steps)),
        decay=draw(st.floats(0.01, 1.0)),
        min_lr_ratio=draw(st.floats(0.0, 1.0)),
    )


@settings(max_examples=150)
@given(schedules())
def test_a_schedule_warms_up_peaks_at_one_and_ends_at_its_floor(case):
    max_steps, optim = case
    factors = [lr_factor(step, max_steps, optim) for step in range(1, max_steps + 1)]
    warmup = warmup_steps(max_steps, optim)
    assert factors[:warmup] == pytest.approx([step / warmup for step in range(1, warmup + 1)])
    assert factors[0] > 0 and factors[warmup - 1] == 1.0 == max(factors)
    assert factors[-1] == (1.0 if optim.schedule == "constant" else optim.min_lr_ratio)
    after = factors[warmup - 1 :]
    assert all(later <= earlier + 1e-12 for earlier, later in zip(after, after[1:], strict=False))

    # Between two steps the factor moves by no more than the steepest slope, or the whole first step of 1 - sqrt.
    decay = min(len(after) - 1, max(1, round(optim.decay * max_steps)))
    steepest = {
        "cosine": math.pi / 2 / max(1, len(after) - 1),
        "linear": 1 / max(1, len(after) - 1),
        "wsd": 1 / math.sqrt(max(1, decay)),
        "constant": 0.0,
    }[optim.schedule]
    jumps = [earlier - later for earlier, later in zip(after, after[1:], strict=False)]
    assert max(jumps, default=0.0) <= steepest * (1 - optim.min_lr_ratio) + 1e-9


@pytest.mark.parametrize(
    ("schedule", "golden"),
    [
        ("cosine", {1: 0.1, 5: 0.5, 10: 1.0, 55: 0.55, 100: 0.1}),
        ("linear", {1: 0.1, 10: 1.0, 55: 0.55, 100: 0.1}),
        ("wsd", {1: 0.1, 10: 1.0, 80: 1.0, 85: 0.55, 100: 0.1}),  # sqrt(5 / 20) = 1 / 2
        ("constant", {1: 0.1, 10: 1.0, 55: 1.0, 100: 1.0}),
    ],
)
def test_golden_factors(schedule, golden):
    optim = OptimConfig(schedule=schedule, warmup=0.1, decay=0.2, min_lr_ratio=0.1)
    assert {step: lr_factor(step, 100, optim) for step in golden} == pytest.approx(golden)
    in_steps = optim.model_copy(update={"warmup": 10.0})
    assert [lr_factor(s, 100, in_steps) for s in range(1, 101)] == [lr_factor(s, 100, optim) for s in range(1, 101)]


@pytest.mark.parametrize("steps", [1, 4, 25])
def test_a_branch_decays_as_a_run_does_that_ends_there(steps):
    optim = OptimConfig(schedule="wsd", warmup=0.1, decay=0.2, min_lr_ratio=0.1)
    factors = [branch_factor(50 + step, 50, steps, optim) for step in range(steps + 1)]
    assert factors[0] == 1.0 and factors[-1] == optim.min_lr_ratio and sorted(factors, reverse=True) == factors
    whole = [lr_factor(80 + step, 100, optim) for step in range(21)]
    assert [branch_factor(50 + step, 50, 20, optim) for step in range(21)] == whole


def test_a_run_of_one_step_is_at_the_full_rate():
    assert all(lr_factor(1, 1, OptimConfig(schedule=name, min_lr_ratio=0.0)) == 1.0 for name in SCHEDULES)


@pytest.mark.parametrize("step", [0, 101])
def test_steps_outside_the_run_are_errors(step):
    with pytest.raises(ValueError, match="steps are 1 to max_steps = 100"):
        lr_factor(step, 100, OptimConfig())


def test_a_warm_up_as_long_as_the_run_is_an_error():
    with pytest.raises(ValueError, match="optim.warmup is 100 steps"):
        lr_factor(1, 100, OptimConfig(warmup=100))


# ------------------------------------------------------------------------------------------------ parameter groups


class Block(nn.Module):
    """One of each kind of parameter that a mixer may hold."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width, bias=False)
        self.conv = nn.Conv1d(width, width, 4, groups=width, padding=3)
        self.to_scalar = nn.Linear(width, 1, bias=False)
        self.positions = nn.Embedding(8, width)
        self.bonus = nn.Parameter(torch.randn(4, width // 4))
        self.shift = nn.Parameter(torch.randn(1, 1, width))
        self.A_log = nn.Parameter(torch.randn(width, 3))
        self.A_log._no_weight_decay = True
        self.mix = nn.Parameter(torch.eye(width))
        self.mix._hidden_matrix = True
        self.kept = nn.Linear(width, width, bias=False)
        self.kept.weight._hidden_matrix = False
        self.frozen = nn.Linear(width, width, bias=False).requires_grad_(False)

    def forward(self, x):
        h = self.norm(x) * (1 + self.shift) + self.positions.weight[: x.shape[1]]
        h = self.conv(h.mT)[..., : x.shape[1]].mT + self.frozen(self.kept(h)) @ self.mix
        h = h + self.bonus.flatten() * self.to_scalar(h) + self.A_log.sum(-1)
        return x + self.down(torch.tanh(self.up(h)))


class Model(nn.Module):
    """A language model with the accessors of `transformers`."""

    def __init__(self, width=16, vocab=11, tied=False):
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def get_input_embeddings(self):
        return self.embed

    def get_output_embeddings(self):
        return self.head

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def block_names(*names):
    return {f"blocks.{i}.{name}" for i in range(2) for name in names}


@pytest.mark.parametrize("tied", [False, True])
def test_every_trainable_parameter_is_in_one_group(tied):
    model = Model(tied=tied)
    split = param_groups(model)
    assert set(split.hidden) == block_names("up.weight", "down.weight", "mix")
    assert set(split.decay) == block_names("conv.weight", "kept.weight") | (set() if tied else {"head.weight"})
    in_groups = [id(p) for part in (split.hidden, split.decay, split.no_decay) for p in part.values()]
    assert len(in_groups) == len(set(in_groups))
    assert set(in_groups) == {id(p) for p in model.parameters() if p.requires_grad}
    assert {"embed.weight", "norm.weight"} | block_names("A_log", "bonus", "shift", "positions.weight") <= set(
        split.no_decay
    )
    assert block_names("up.bias", "conv.bias", "norm.bias", "to_scalar.weight") <= set(split.no_decay)


def test_a_model_without_accessors_still_has_its_embeddings_recognised():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3))
    split = param_groups(model)
    assert (list(split.hidden), list(split.no_decay)) == (["1.weight"], ["0.weight", "1.bias"])


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_optimizers_hold_every_parameter_once_with_its_decay(name):
    model = Model(tied=True)
    split = param_groups(model)
    optimizer = make_optimizer(model, OptimConfig(name=name, weight_decay=0.3), 10, "cpu")
    assert [type(part).__name__ for part in optimizer.parts] == (["AdamW"] if name == "adamw" else ["Muon", "AdamW"])
    held = [(id(p), g["weight_decay"]) for part in optimizer.parts for g in part.param_groups for p in g["params"]]
    decayed = {id(p) for part in (split.hidden, split.decay) for p in part.values()}
    assert len(held) == len(dict(held)) == sum(p.requires_grad for p in model.parameters())
    assert all(weight_decay == (0.3 if key in decayed else 0.0) for key, weight_decay in held)


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="no parameter"):
        make_optimizer(Model().requires_grad_(False), OptimConfig(), 10, "cpu")


# ------------------------------------------------------------------------------------------------------------ Muon


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


# ---------------------------------------------------------------------------------------------------------- holder


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
    with pytest.raises(ValueError, match="is \\(3,\\)"):
        adamw.load_state_dict({**adamw.state_dict(), "embed.weight.exp_avg": torch.zeros(3)})


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_capturable_keeps_the_rate_in_one_tensor_and_trains_alike(name):
    model, optimizer = new_run(name)
    captured, other = new_run(name, capturable=True)
    rates = {id(group["lr"]) for part in other.parts for group in part.param_groups}
    torch.testing.assert_close(
        train(captured, other, range(1, 13)), train(model, optimizer, range(1, 13)), rtol=1e-4, atol=0
    )
    assert rates == {id(group["lr"]) for part in other.parts for group in part.param_groups} and len(rates) == 1
    assert other.parts[0].param_groups[0]["lr"].item() == pytest.approx(other.lr(12)) == pytest.approx(0.001)


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
