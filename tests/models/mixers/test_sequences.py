"""Sequences of one batch know nothing of each other, whatever the mixer: padded to either side or laid end to end."""

import pytest
import torch

from attnlab import models
from attnlab.models.mixers.table import MIXERS

torch.set_num_threads(1)
NAMES = sorted(name for name, row in MIXERS.items() if not (row.needs or row.refused))
LENGTHS = (9, 1, 70)  # FLA's layers switch kernels at 64 steps
TOLERANCE = 1e-3  # of logits of 1 to 50; what a neglected mask changes with weights as large as these is 0.1 and more


def build(mixer, enlarged=6.0):
    """A model with weights as after long training: at initial ones a mixer hardly reaches the logits."""
    torch.manual_seed(0)
    model = models.build_model({"d_model": 32, "n_layers": 2, "n_heads": 2, "mixer": mixer}, 32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:  # some start at 0
                parameter.mul_(enlarged).add_(0.05 * torch.randn_like(parameter))
            else:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def sequences(lengths=LENGTHS):
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(0, 32, (1, length), generator=draw) for length in lengths]


def padded(parts, left):
    """[sequences, longest] and its mask."""
    longest = max(part.shape[1] for part in parts)
    rows, masks = [], []
    for part in parts:
        pad = torch.zeros(1, longest - part.shape[1], dtype=torch.long)
        both = ((pad, part), (pad, torch.ones_like(part))) if left else ((part, pad), (torch.ones_like(part), pad))
        rows.append(torch.cat(both[0], 1))
        masks.append(torch.cat(both[1], 1))
    return torch.cat(rows), torch.cat(masks)


@pytest.mark.parametrize("name", [*NAMES, ["gla", "standard"], ["mamba2", "momentum_deltanet"]], ids=str)
@torch.no_grad()
def test_padded_or_laid_end_to_end_they_are_as_alone(name):
    model, parts = build(name), sequences()
    alone = [model(part, use_cache=False).logits[0] for part in parts]
    for left in (True, False):
        tokens, mask = padded(parts, left)
        together = model(tokens, attention_mask=mask, use_cache=False).logits
        for row, (logits, real) in enumerate(zip(alone, mask.bool(), strict=True)):
            off = (together[row, real] - logits).abs().max()
            assert off < TOLERANCE, f"padded {'left' if left else 'right'}, row {row}"
    packed = torch.cat(parts, 1)
    bounds = torch.tensor([0, *LENGTHS]).cumsum(0)
    positions = torch.cat([torch.arange(length) for length in LENGTHS]).unsqueeze(0)
    for how in ({"cu_seqlens": bounds}, {"position_ids": positions}):
        assert (model(packed, **how).logits[0] - torch.cat(alone)).abs().max() < TOLERANCE, f"by {', '.join(how)}"
    assert (model(packed, use_cache=False).logits[0] - torch.cat(alone)).abs().max() > 10 * TOLERANCE, "nothing told"


@pytest.mark.parametrize("name", [n for n in NAMES if MIXERS[n].cached])
@torch.no_grad()
def test_a_state_of_padded_sequences_is_that_of_each_or_refused(name):
    model, (short, long) = build(name), sequences((9, 21))
    alone = [model(part, use_cache=False).logits[0] for part in (short, long)]
    tokens, mask = padded([short, long], left=True)
    if not model.backbone.caches_padded:
        with pytest.raises(ValueError, match="no cache of padded sequences; pass use_cache=False"):
            model(tokens, attention_mask=mask, use_cache=True)
        return
    part = model(tokens[:, :-3], attention_mask=mask[:, :-3], use_cache=True)
    logits = [part.logits]
    for t in range(tokens.shape[1] - 3, tokens.shape[1]):
        part = model(tokens[:, t : t + 1], attention_mask=mask[:, : t + 1], past_key_values=part.past_key_values)
        logits.append(part.logits)
    for row, (got, real) in enumerate(zip(torch.cat(logits, 1), mask.bool(), strict=True)):
        assert (got[real] - alone[row]).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", ["standard", "gla", "mamba2", "rwkv7"])
def test_laid_end_to_end_they_have_the_loss_and_gradients_of_separate_ones(name):
    model, parts = build(name, enlarged=1.0), sequences()
    total = 0.0
    for part in parts:
        if part.shape[1] > 1:
            total = total + model(part, labels=part, num_items_in_batch=100).loss
    total.backward()
    want = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    tokens = torch.cat(parts, 1)
    loss = model(tokens, labels=tokens, num_items_in_batch=100, cu_seqlens=torch.tensor([0, *LENGTHS]).cumsum(0)).loss
    loss.backward()
    assert torch.allclose(loss, total, rtol=1e-5)
    for parameter, gradient in zip(model.parameters(), want, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-5)


@torch.no_grad()
def test_several_packed_rows_with_padding_are_as_alone():
    """Rows of whole sequences, filled up at the end: what a packed data set gives."""
    model, (a, b, c) = build(["gla", "hgrn"]), sequences((5, 7, 8))
    row = torch.cat([a, b], 1)
    tokens, mask = padded([row, c], left=False)
    positions = torch.stack(
        [torch.cat([torch.arange(5), torch.arange(7)]), torch.cat([torch.arange(8), torch.zeros(4)])]
    )
    got = model(tokens, attention_mask=mask, position_ids=positions.long()).logits
    want = [model(part, use_cache=False).logits[0] for part in (a, b, c)]
    assert (got[0] - torch.cat(want[:2])).abs().max() < TOLERANCE
    assert (got[1, :8] - want[2]).abs().max() < TOLERANCE


def test_a_users_own_mixer_sees_each_sequence_by_itself(tmp_path, monkeypatch):
    (tmp_path / "sums.py").write_text(
        "import torch\n"
        "class Sum(torch.nn.Module):\n"
        "    def __init__(self, d_model: int):\n"
        "        super().__init__()\n"
        "        self.out = torch.nn.Linear(d_model, d_model)\n"
        "    def forward(self, hidden_states, past_key_values=None, use_cache=False, **extra):\n"
        "        assert not extra\n"
        "        return self.out(hidden_states.cumsum(1))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model, parts = build("sums:Sum"), sequences()
    with torch.no_grad():
        got = model(torch.cat(parts, 1), cu_seqlens=torch.tensor([0, *LENGTHS]).cumsum(0)).logits[0]
        assert torch.allclose(got, torch.cat([model(part).logits[0] for part in parts]), atol=TOLERANCE)
