"""Switches of ours on FLA's layers."""

import pytest
import torch

from attnlab.config.trial import ModelConfig
from attnlab.models.build import build_mixer

torch.set_num_threads(1)
D, HEADS, T = 32, 2, 70  # T above 64: FLA's layers switch kernels there


def build(name, **args):
    torch.manual_seed(0)
    model = ModelConfig(d_model=D, n_heads=HEADS, n_layers=2, mixer={"name": name, **args})
    return build_mixer(model.mixer[0], model, 0)


def test_gla_without_its_gate_has_the_gates_parameters_less_and_gives_another_output():
    gated, plain = build("gla"), build("gla", use_gk=False)
    theirs, ours = (dict(layer.named_parameters()) for layer in (gated, plain))
    assert theirs.keys() - ours.keys() == {"gk_proj.0.weight", "gk_proj.1.weight", "gk_proj.1.bias"}
    assert not ours.keys() - theirs.keys()
    counts = (sum(p.numel() for p in layer.parameters()) for layer in (gated, plain))
    assert next(counts) - next(counts) == D * 16 + 16 * D // 2 + D // 2  # a low rank of 16 to half the width of keys
    plain.load_state_dict({key: value for key, value in gated.state_dict().items() if key in ours})
    x = torch.randn(2, T, D)
    one, other = gated(x)[0], plain(x)[0]
    assert torch.allclose(one[:, 0], other[:, 0], atol=1e-6)  # nothing to forget yet
    assert ((one - other).abs().amax((0, 2)) > 1e-3)[1:].all()


@pytest.mark.parametrize("steps", [50, T])  # FLA's recurrent and its chunked function
@pytest.mark.parametrize("kv_heads", [None, 1])
def test_gla_without_its_gate_is_linear_attention_that_forgets_nothing(steps, kv_heads):
    """Against the definition, with the layer's own projections: S[t] = sum over s <= t of k[s] v[s]^T, o = q^T S."""
    layer, x = build("gla", use_gk=False, num_kv_heads=kv_heads), torch.randn(2, steps, D)
    q, gate = (p(x).unflatten(-1, (HEADS, -1)) for p in (layer.q_proj, layer.g_proj))
    k, v = (p(x).unflatten(-1, (kv_heads or HEADS, -1)) for p in (layer.k_proj, layer.v_proj))
    states = (k[..., :, None] * v[..., None, :]).cumsum(1).expand(-1, -1, HEADS, -1, -1)
    o = torch.einsum("bthk,bthkv->bthv", q * q.shape[-1] ** -0.5, states)
    o = o * (o.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * layer.g_norm_swish_gate.weight
    wanted = layer.o_proj((o * torch.nn.functional.silu(gate)).flatten(-2))
    assert torch.allclose(layer(x)[0], wanted, atol=1e-5)
    parameters = list(layer.parameters())
    grads = (torch.autograd.grad(y.square().sum(), parameters, retain_graph=True) for y in (layer(x)[0], wanted))
    for ours, theirs in zip(*grads, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_gla_without_its_gate_forgets_nothing_in_half_precision():
    layer = build("gla", use_gk=False)
    with torch.no_grad():
        assert not torch.nn.functional.logsigmoid(layer.gk_proj(torch.randn(1, T, D))).any()
        assert not torch.nn.functional.logsigmoid(layer.gk_proj(torch.randn(1, T, D, dtype=torch.bfloat16))).any()
