"""No mixer of the table takes a number that is no size or scale, whatever the argument."""

import pytest

from attnlab.config.trial import ModelConfig
from attnlab.models import signature
from attnlab.models.checks import check_mixer
from attnlab.models.mixers.table import MIXERS


def numbers(spec):
    """The arguments of a row's class that are numbers, by the names a sweep file may give them."""
    takes = signature.constructor(spec.path)
    named = {**takes, **{alias: takes[name] for alias, name in spec.aliases.items() if name in takes}}
    return {n: p for n, p in named.items() if p.kinds & {"int", "float"} and p.name not in spec.sets}


@pytest.mark.parametrize("name", [name for name, spec in MIXERS.items() if not spec.path.startswith("flash_attn")])
def test_a_number_that_is_no_size_or_scale_is_refused(name):
    for argument, parameter in numbers(MIXERS[name]).items():
        whole = "float" not in parameter.kinds
        for value in (True, 10**18, 1e300, *((-5, -1) if whole else ())):
            (mixer,) = (config := ModelConfig(d_model=64, n_heads=2, mixer=({"name": name, argument: value},))).mixer
            found = check_mixer(mixer, config)
            assert found and all("\n" not in line for line in found), (argument, value)


def test_a_window_below_1_is_told():
    config = ModelConfig(d_model=64, n_heads=2, mixer=({"name": "standard", "window": -5},))
    assert check_mixer(config.mixer[0], config) == ["window is -5, but should be 1 to 10000000"]
