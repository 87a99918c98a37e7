"""A model that answers for every position out of its last one."""

import torch
from transformers import AutoModelForCausalLM

from attnlab.models import build_model, count_params

MODEL = {"d_model": 32, "n_layers": 1, "n_heads": 2, "mixer": {"name": "standard", "window": 4}}


def test_answers_come_through_the_last_position_alone():
    torch.manual_seed(0)
    model = build_model(MODEL, 16, "last").eval()
    plain = build_model(MODEL, 16).eval()
    tokens = torch.randint(16, (2, 12))
    far, near = tokens.clone(), tokens.clone()
    far[:, 0] = (far[:, 0] + 1) % 16  # out of the last position's window of four
    near[:, 10] = (near[:, 10] + 1) % 16
    answers = model.hidden(tokens)
    assert torch.equal(model.hidden(far), answers)
    assert not torch.equal(plain.hidden(far), plain.hidden(tokens))
    assert (model.hidden(near) - answers).abs().amax(-1).min() > 0  # every answer hangs on it, the first one too
    assert (answers[:, 1:] - answers[:, :-1]).abs().amax(-1).min() > 0  # and on its own position


def test_it_survives_saving(tmp_path):
    model = build_model(MODEL, 16, "last").eval()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokens = torch.randint(16, (2, 12))
    assert torch.equal(loaded.hidden(tokens), model.hidden(tokens))
    assert torch.equal(loaded(tokens).logits, model.head(model.hidden(tokens)))


def test_other_models_are_as_they_were():
    with_it, without = build_model(MODEL, 16, "last"), build_model(MODEL, 16)
    assert count_params(with_it)["n_params"] - count_params(without)["n_params"] == 2 * (32 * 32 + 32) + 3 * 32
    assert not [name for name in without.state_dict() if "readout" in name]
