"""What every row of the table of mixers must do; a new row is tested by being there."""

import importlib

import pytest
import torch

from attnlab import models
from attnlab.config.trial import ModelConfig
from attnlab.kernels import install
from attnlab.models.build import build_mixer
from attnlab.models.checks import arguments
from attnlab.models.mixers.rules import ModelShape
from attnlab.models.mixers.table import MIXERS

torch.set_num_threads(1)
install()
NAMES = sorted(name for name, row in MIXERS.items() if not (row.needs or row.refused))
D, HEADS, T = 32, 2, 70  # T above 64: FLA's layers switch kernels there


def config(name, **args):
    return ModelConfig(d_model=D, n_heads=HEADS, n_layers=2, mixer={"name": name, **args})


def build(name, layer=0, **args):
    torch.manual_seed(0)
    model = config(name, **args)
    return build_mixer(model.mixer[0], model, layer)


def out(result):
    return result[0] if isinstance(result, tuple) else result


@pytest.mark.parametrize("name", NAMES)
def test_shape_causality_and_gradients(name):
    mixer, x = build(name), torch.randn(2, T, D)
    with torch.no_grad():
        for parameter in mixer.parameters():  # away from zeros that some initialisations start at
            parameter.add_(0.02 * torch.randn_like(parameter))
    torch.manual_seed(1)  # Raven draws noise
    y = out(mixer(x))
    assert y.shape == x.shape
    other = x.clone()
    other[:, 40:] += 1.0
    torch.manual_seed(1)
    changed = out(mixer(other))
    assert torch.allclose(changed[:, :40], y[:, :40], atol=1e-5)
    assert not torch.allclose(changed[:, 40:], y[:, 40:], atol=1e-5)
    (y * torch.randn_like(y)).sum().backward()
    for key, parameter in mixer.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), f"{key} has no influence"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_state_dict_is_flas_own_and_the_constructor_gets_the_layers_index(name):
    spec = MIXERS[name]
    module, _, cls = spec.path.partition(":")
    theirs = getattr(importlib.import_module(module), cls)(**arguments(spec, {}, ModelShape(D, HEADS, 1, 2)))
    mine = build(name, layer=1)
    assert {k: v.shape for k, v in mine.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    if "layer_idx" in spec.sets:
        assert mine.layer_idx == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_few_steps_lower_the_loss_and_repeat_exactly(name):
    tokens = torch.randint(0, 32, (4, 33), generator=torch.Generator().manual_seed(0))

    def losses():
        torch.manual_seed(1)
        model = models.build_model(config(name), 32)
        optimizer, seen = torch.optim.SGD(model.parameters(), 0.1), []
        for _ in range(3):
            loss = model.loss_sum(tokens[:, :-1], tokens[:, 1:]) / 128
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(loss.item())
        return seen

    first = losses()
    assert first[2] < first[1] < first[0]
    assert losses() == first


@pytest.mark.parametrize("name", [n for n in NAMES if MIXERS[n].cached])
@pytest.mark.parametrize("prompt", [5, 67])
def test_prefill_and_decode_equal_the_full_forward(name, prompt):
    torch.manual_seed(0)
    model = models.build_model(config(name), 32).eval()
    tokens = torch.randint(0, 32, (2, T))
    with torch.no_grad():
        full = model(tokens, use_cache=False).logits
        part = model(tokens[:, :prompt], use_cache=True)
        logits = [part.logits]
        for t in range(prompt, min(prompt + 6, T)):
            part = model(tokens[:, t : t + 1], past_key_values=part.past_key_values, use_cache=True)
            logits.append(part.logits)
    logits = torch.cat(logits, 1)
    assert torch.allclose(logits, full[:, : logits.shape[1]], atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_generate_greedy_equals_stepwise_argmax(name):
    torch.manual_seed(0)
    model = models.build_model(config(name), 32).eval()
    tokens = torch.randint(0, 32, (2, 4))
    got = model.generate(tokens, max_new_tokens=6, do_sample=False)
    with torch.no_grad():
        for _ in range(6):
            tokens = torch.cat([tokens, model(tokens, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(got, tokens)


def problems(name, model=None, **args):
    mixer = ModelConfig(mixer={"name": name, **args}).mixer[0]
    return models.check_mixer(mixer, ModelConfig(**(model or {}), mixer=mixer))


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("glaa", {}, "no mixer 'glaa'; did you mean 'gla'?"),
        ("gla", {"expandk": 0.5}, "takes no argument expandk; did you mean 'expand_k'?"),
        ("gla", {"num_heads": 2}, "num_heads follows from the model; set model.n_heads instead"),
        ("standard", {"hidden_size": 2}, "hidden_size follows from the model; set model.d_model instead"),
        ("gla", {"expand_k": "half"}, "expand_k is 'half', but should be float"),
        ("deltanet", {"use_gate": 1}, "use_gate is 1, but should be bool"),
        ("deltanet", {"conv_size": True}, "conv_size is True, but should be int"),
        ("gla", {"use_gk": 0}, "use_gk is 0, but should be true or false"),
        ("standard", {"num_kv_heads": 3}, "n_heads 4 is not divisible by num_kv_heads 3; 1, 2, 4 divide it"),
        ("gla", {"expand_k": 0.3}, "d_model 128 x expand_k 0.3 = 38.4 is no whole number"),
        (
            "mamba2",
            {"head_dim": 60},
            "d_model = 256 is not divisible by head_dim 60; 4, 8, 16, 32, 64 divide it",
        ),
        ("no_such_package.file:Mixer", {}, "there is no module no_such_package"),
        ("fla.layers.gla:Gla", {}, "module fla.layers.gla defines no class Gla"),
    ],
)
def test_mistakes_are_named_with_what_would_be_right(name, args, said):
    assert said in "; ".join(problems(name, **args))
    with pytest.raises(ValueError, match="mixer"):
        model = ModelConfig(mixer={"name": name, **args})
        build_mixer(model.mixer[0], model, 0)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mamba3", "needs the package mamba_ssm, which is not installed"),
        ("mom", "lets a token see later ones"),
        ("nsa", "n_heads 4 / num_kv_heads 1 is no multiple of 16"),
        ("cyfa", "mixer cyfa: needs CUDA"),
        ("path", "head width 48 is none of 16, 32, 64, 128; n_heads 3 or 6 or 12 or 24 would be right"),
        (["gla", "rwkv7"], "hands v_first from the model's first layer on; begin the pattern with rwkv7"),
    ],
)
def test_what_cannot_be_had_here_is_said_in_one_line(name, said):
    width = {"d_model": 384, "n_heads": 8} if name == "path" else {}
    model = ModelConfig(mixer=name, **width)
    with pytest.raises(ValueError) as error:
        build_mixer(model.mixer[-1], model, 1)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_every_layer_that_fla_ships_has_a_row():
    """Parts of other models (YOCO's, Samba's shared-key attention) are no mixers of their own."""
    import fla.layers

    parts = {"SlidingWindowSharedKeyAttention", "YOCOCrossAttention", "YOCOGatedRetention", "YOCOSharedKVBuilder"}
    assert {row.path.partition(":")[2] for row in MIXERS.values()} >= set(fla.layers.__all__) - parts


def test_widths_that_do_not_divide():
    said = problems("standard", {"d_model": 100, "n_heads": 3})
    assert said == ["d_model 100 is not divisible by n_heads 3; 1, 2, 4, 5, 10 divide it"]
    assert "is odd; rotary needs even" in problems("standard", {"d_model": 30, "n_heads": 2})[0]
    assert problems("gated_deltanet", {"d_model": 100, "n_heads": 3}) == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", [{"d_model": 64, "n_heads": 1}, {"d_model": 384, "n_heads": 6}])
def test_the_usual_widths_are_accepted_as_they_are(name, model):
    assert problems(name, model) == []


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("gla", {"expand_k": 0.5, "expand_v": 1.0, "use_gk": False}),
        ("standard", {"window": 8, "num_kv_heads": 1, "qk_norm": True}),
        ("mamba2", {"n_groups": 2, "head_dim": 16, "D_has_hdim": True, "dt_limit": [0.0, 0.5]}),
        ("gated_deltanet", {"use_gate": False, "allow_neg_eigval": True, "num_v_heads": 4, "head_dim": 16}),
        ("retnet", {"use_short_conv": True, "fuse_norm": False}),
        ("deltanet", {"use_gate": True, "qk_norm": "sum", "qk_activation": "elu"}),
        ("hgrn", {"use_short_conv": True}),
        ("gsa", {"num_slots": 8, "use_short_conv": True, "num_kv_heads": 1}),
        ("abc", {"num_slots": 8, "use_short_conv": True, "use_input_gate": True}),
        ("lightnet", {"use_short_conv": True}),
        ("gated_deltaproduct", {"num_householder": 3, "use_forget_gate": False}),
        ("forgetting", {"num_kv_heads": 1, "qk_norm": True, "use_output_gate": True}),
        ("path", {"use_forget_gate": True, "use_low_rank_w": False}),
        ("log_linear_mamba2", {"n_groups": 2}),
        ("mesa", {"use_output_gate": True}),
        ("momentum_deltanet", {"min_log_mu": None, "use_p_times_alpha": False}),
        ("parallax", {"window": 8, "num_kv_heads": 1}),
        ("raven", {"topk": 4, "decay_type": "GLA", "use_rope": True}),
    ],
)
def test_arguments_reach_the_layer_and_it_still_trains_and_decodes(name, args):
    assert models.check_mixer(config(name, **args).mixer[0], config(name, **args)) == []
    x = torch.randn(2, T, D, requires_grad=True)
    out(build(name, **args)(x))[:, 30].sum().backward()
    reach = x.grad.abs().sum((0, 2)) > 1e-9
    first = 31 - args.get("window", 31)
    assert reach[first:31].all() and not reach[:first].any() and not reach[31:].any()
    torch.manual_seed(0)
    model = models.build_model(config(name, **args), 32).eval()
    tokens = torch.randint(0, 32, (1, 20))
    with torch.no_grad():
        full = model(tokens, use_cache=False).logits
        part = model(tokens[:, :15], use_cache=True)
        for t in range(15, 20):
            part = model(tokens[:, t : t + 1], past_key_values=part.past_key_values, use_cache=True)
    assert torch.allclose(part.logits[:, 0], full[:, -1], atol=2e-5)


def test_what_a_layers_authors_warn_of_is_logged_once(caplog):
    from attnlab.models import build as module

    module._warn_once.cache_clear()
    for layer in (0, 1):
        build("deltanet", layer, use_short_conv=False)
    assert [r.message.split(":")[0] for r in caplog.records] == ["deltanet"]


def test_mamba2_heads_read_the_group_they_belong_to():
    """Head h reads group h // (H / G), as mamba_ssm's kernels do (FLA's PyTorch path tiles groups instead)."""
    layer, x, seen = build("mamba2", n_groups=2, head_dim=16), torch.randn(1, T, D), []
    width, states = layer.intermediate_size, layer.ssm_state_size
    layer.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    layer(x)
    halves = seen[0].view(1, T, 2, width // 2)  # the heads of group 0, those of group 1
    for group in (0, 1):
        (grad,) = torch.autograd.grad(halves[:, :, group].sum(), layer.in_proj.weight, retain_graph=True)
        keys = grad[2 * width : 2 * width + 2 * states].view(2, states, D)  # the rows that make B, by group
        assert keys[group].any() and not keys[1 - group].any()
