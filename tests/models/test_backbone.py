"""The decoder around the mixers, and what transformers sees of it."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from attnlab import models
from attnlab.models.backbone import BackboneForCausalLM
from attnlab.models.block import mlp_width

torch.set_num_threads(1)
SMALL = {"d_model": 32, "n_layers": 2, "n_heads": 2}


def build(seed=0, **model):
    torch.manual_seed(seed)
    return models.build_model({**SMALL, **model}, 40)


@pytest.mark.parametrize("model", [{}, {"tie_embeddings": True}, {"mlp": "gelu", "d_ff": 48}, {"mlp": "none"}])
@pytest.mark.parametrize("mixer", ["standard", ["gla", "gla", {"name": "standard", "window": 8}], "mamba2"])
def test_saved_and_loaded_again_it_is_the_same(tmp_path, model, mixer):
    saved = build(mixer=mixer, **model).eval()
    saved.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} >= {"config.json", "model.safetensors"}
    torch.manual_seed(99)
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(loaded, BackboneForCausalLM)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.config.model() == saved.config.model()
    tokens = torch.randint(0, 40, (2, 70))
    with torch.no_grad():
        assert torch.equal(loaded.eval()(tokens).logits, saved(tokens).logits)
    tied = loaded.head.weight is loaded.backbone.embed.weight
    assert tied == bool(model.get("tie_embeddings"))


def test_loss_sum_is_the_aligned_cross_entropy_of_the_logits():
    model = build(mixer="hgrn").eval()
    tokens = torch.randint(0, 40, (3, 12))
    targets = torch.randint(0, 40, (3, 12))
    targets[:, ::3] = -100
    logits = model(tokens).logits
    want = -logits.log_softmax(-1).gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)[targets != -100].sum()
    got = model.loss_sum(tokens, targets)
    assert got.dtype == torch.float32 and got.shape == ()
    assert torch.allclose(got, want, rtol=1e-5)


def test_labels_are_shifted_inside():
    model = build().eval()
    tokens = torch.randint(0, 40, (3, 12))
    loss = model(tokens, labels=tokens).loss
    assert torch.allclose(loss, model.loss_sum(tokens[:, :-1], tokens[:, 1:]) / 33, rtol=1e-5)


def test_only_the_asked_positions_reach_the_head():
    model = build().eval()
    tokens = torch.randint(0, 40, (1, 9))
    full = model(tokens).logits
    for keep, where in ((2, slice(-2, None)), (torch.tensor([1, 4]), [1, 4])):
        some = model(tokens, logits_to_keep=keep).logits
        assert some.shape == full[:, where].shape
        assert torch.allclose(some, full[:, where], atol=1e-6)  # fewer rows may be multiplied in another order


@torch.no_grad()
def test_hidden_states_at_some_positions_are_those_of_all():
    model = build(mixer="gla").eval()
    tokens = torch.randint(0, 40, (3, 12))
    at = torch.tensor([0, 0, 2]), torch.tensor([3, 11, 0])
    assert torch.allclose(model.backbone.hidden(tokens, None, at), model.hidden(tokens)[at], atol=1e-6)


def test_the_same_seed_gives_the_same_model_and_another_another():
    a, b, c = build(1), build(1), build(2)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.head.weight, c.head.weight)


def test_initialisation():
    model = build(d_model=128, n_layers=4, mixer="gated_deltanet")
    block = model.backbone.blocks[0]
    assert model.backbone.embed.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert block.mlp.up.weight.std().item() == pytest.approx(0.02, rel=0.1)
    for writer in (block.mlp.down, block.mixer.o_proj):  # 8 residual branches
        assert writer.weight.std().item() == pytest.approx(0.02 / 8**0.5, rel=0.1)
    rates = block.mixer.A_log.exp()
    assert rates.min() >= 0 and rates.max() <= 16 and rates.std() > 0.1, "the layer's own decay rates were overwritten"


def test_counts_add_up():
    for tie in (False, True):
        model = build(tie_embeddings=tie, mlp="none")
        counts = models.count_params(model)
        assert counts["n_params"] - counts["n_params_non_embedding"] == 40 * 32 * (1 if tie else 2)
        assert counts["n_params_mixers"] == 2 * 4 * 32 * 32
        assert counts["n_params_non_embedding"] == counts["n_params_mixers"] + 3 * 32  # the norms
    with torch.device("meta"):
        assert models.count_params(models.build_model({**SMALL, "mlp": "none", "tie_embeddings": True}, 40)) == counts


def test_default_mlp_width():
    assert mlp_width(384, "swiglu") == 1024
    assert mlp_width(64, "swiglu") == 192
    assert mlp_width(64, "gelu") == 256


def test_dropout_acts_in_training_only():
    model = build(dropout=0.5)
    tokens = torch.randint(0, 40, (1, 9))
    assert not torch.equal(model(tokens).logits, model(tokens).logits)
    model.eval()
    assert torch.equal(model(tokens).logits, model(tokens).logits)


def test_bf16_autocast_trains_with_fp32_loss():
    model = build(mixer=["gla", "mamba2", "gated_deltanet", "hgrn", "standard", "retnet", "deltanet"], n_layers=7)
    tokens = torch.randint(0, 40, (2, 70))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss_sum(tokens, tokens)
    exact = model.loss_sum(tokens, tokens)
    assert loss.dtype == torch.float32
    assert torch.allclose(loss, exact, rtol=0.02)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("mixer", ["gla", "momentum_deltanet", "abc", "mesa", "log_linear_mamba2", "path"])
def test_beam_search_reorders_the_recurrent_state(mixer):
    model = build(mixer=mixer).eval()
    out = model.generate(torch.randint(0, 40, (2, 4)), max_new_tokens=5, num_beams=3, do_sample=False)
    assert out.shape == (2, 9)


def test_what_a_layer_hands_on_reaches_the_later_ones():
    """RWKV7's later layers mix their values with the first one's, across layers of other kinds too."""
    model = build(mixer=["rwkv7", "gla", "rwkv7"], n_layers=3)
    seen = []
    for layer in (0, 2):
        mixer = model.backbone.blocks[layer].mixer
        mixer.register_forward_hook(
            lambda module, args, kwargs, result: seen.append((kwargs["v_first"], result[3])), with_kwargs=True
        )
    tokens = torch.randint(0, 40, (1, 9))
    for _ in range(2):  # nothing stays from one call to the next
        seen.clear()
        model.loss_sum(tokens, tokens)
        (before, first), (handed, last) = seen
        assert before is None and handed is first and last is first


def test_a_state_of_padded_sequences_that_a_mixer_does_not_keep():
    model = build(mixer="momentum_deltanet").eval()
    tokens, mask = torch.randint(0, 40, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    mask[0, :3] = 0
    model(tokens, attention_mask=mask)
    with pytest.raises(ValueError, match="no cache of padded sequences; pass use_cache=False"):
        model(tokens, attention_mask=mask, use_cache=True)


def test_the_auto_classes_know_it():
    assert AutoConfig.for_model("attnlab").hidden_size == 128


@pytest.mark.parametrize("tied", [False, True])
def test_weights_that_a_mixer_shares_are_stored_once_and_shared_again(tmp_path, monkeypatch, tied):
    (tmp_path / "sharing.py").write_text(
        "import torch\n"
        "class Sharing(torch.nn.Module):\n"
        "    def __init__(self, d_model: int):\n"
        "        super().__init__()\n"
        "        self.q_proj = torch.nn.Linear(d_model, d_model)\n"
        "        self.k_proj, self.v_proj = self.q_proj, torch.nn.Linear(d_model, d_model)\n"
        "        self.v_proj.bias = self.q_proj.bias\n"
        "    def forward(self, hidden_states, **extra):\n"
        "        return self.v_proj(self.k_proj(hidden_states)) + self.q_proj(hidden_states), None, None\n"
    )
    monkeypatch.chdir(tmp_path)
    saved = build(mixer="sharing:Sharing", tie_embeddings=tied).eval()
    saved.save_pretrained(tmp_path / "saved")
    torch.manual_seed(99)
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    mixer = loaded.backbone.blocks[1].mixer
    assert mixer.k_proj.weight is mixer.q_proj.weight and mixer.v_proj.bias is mixer.q_proj.bias
    assert models.count_params(loaded) == models.count_params(saved)
    tokens = torch.randint(0, 40, (2, 7))
    assert torch.equal(loaded.eval()(tokens).logits, saved(tokens).logits)


def test_a_users_own_mixer(tmp_path, monkeypatch):
    (tmp_path / "my_mixers.py").write_text(
        "import torch\n"
        "class Mean(torch.nn.Module):\n"
        "    def __init__(self, d_model: int, n_heads: int, power: float = 1.0):\n"
        "        super().__init__()\n"
        "        self.out = torch.nn.Linear(d_model, d_model)\n"
        "    def forward(self, hidden_states, past_key_values=None, use_cache=False, **extra):\n"
        "        count = torch.arange(1, hidden_states.shape[1] + 1)[:, None]\n"
        "        return self.out(hidden_states.cumsum(1) / count), None, past_key_values\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    model = build(mixer={"name": "my_mixers:Mean", "power": 2.0}).eval()
    tokens = torch.randint(0, 40, (1, 5))
    assert model.generate(tokens, max_new_tokens=3, do_sample=False).shape == (1, 8)
    with pytest.raises(ValueError, match="takes no argument pover; did you mean 'power'"):
        build(mixer={"name": "my_mixers:Mean", "pover": 2.0})
    with pytest.raises(ValueError, match="d_model follows from the model"):
        build(mixer={"name": "my_mixers:Mean", "d_model": 2})
