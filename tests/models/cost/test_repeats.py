"""Of a deep model some layers are looked at, and its costs are those of the whole."""

import pytest

from attnlab.config.trial import ModelConfig
from attnlab.models import count_params
from attnlab.models.cost import repeats
from attnlab.models.cost.flops import _layers
from attnlab.models.cost.repeats import looked_at
from attnlab.models.cost.size import build_empty, params_of
from attnlab.models.cost.state import state_bytes

SIZE = {"d_model": 32, "n_heads": 2}


@pytest.mark.parametrize(
    "mixer", [("gla",), ("rwkv7",), ("rwkv7", "standard", {"name": "gla", "expand_k": 1.0})], ids=str
)
@pytest.mark.parametrize("layers", [11, 12])
def test_a_deep_models_costs_are_those_of_all_its_layers(monkeypatch, mixer, layers):
    model = ModelConfig(**SIZE, n_layers=layers, mixer=mixer)
    whole = count_params(build_empty(model, 64)), _layers(model.model_dump_json(), 16), state_bytes(model, 16)
    monkeypatch.setattr(repeats, "FEW", 4)
    _layers.cache_clear()
    assert sum(times for _, times in looked_at(model)) == layers > len(looked_at(model))
    assert (params_of(model, 64), _layers(model.model_dump_json(), 16), state_bytes(model, 16)) == whole
    _layers.cache_clear()


def test_a_model_of_few_layers_and_own_mixers_are_looked_at_whole():
    assert looked_at(ModelConfig(**SIZE, n_layers=64)) == [(layer, 1) for layer in range(64)]
    assert len(looked_at(ModelConfig(**SIZE, n_layers=1000, mixer=("gla", "mine:Mixer")))) == 1000
    assert looked_at(ModelConfig(**SIZE, n_layers=1001, mixer=("gla", "standard"))) == [
        (0, 1), (1, 1), (2, 499), (3, 499), (4, 1),
    ]  # fmt: skip
