"""Training gives the losses that were recorded: what changes a trial's numbers at equal settings does not go unseen.

Six of the trials of tests/tools/same_as.py, one a mixer, are trained here. The bound allows for processors of other
kinds, which add up in another order. After an intended change of the numbers (a new recipe), record all of them anew:

    python tests/tools/same_as.py --record tests/fixtures/recorded_losses.json
"""

import json
from pathlib import Path

import numpy as np
import pytest

from attnlab import run_experiment
from tests.tools.same_as import COLUMNS, trials

RECORDED = json.loads((Path(__file__).parent / "fixtures" / "recorded_losses.json").read_text())
TRAINED = (  # rounding moves these by 1e-6 at most; rwkv7-adamw-mqar, whose loss still falls steeply, by 7e-3
    "standard-adamw-mqar",
    "gla-muon-mqar",
    "mamba2-adamw-text",
    "gated_deltanet-adamw-text",
    "hgrn-muon-text",
    "rwkv7-muon-mqar",
)


def test_there_is_a_record_of_every_trial_and_one_of_each_mixer_is_trained():
    assert RECORDED.keys() == trials().keys()
    assert {name.partition("-")[0] for name in TRAINED} == {name.partition("-")[0] for name in RECORDED}


@pytest.mark.parametrize("name", TRAINED)
def test_losses_are_those_recorded(name, tmp_path, cache):
    rows = []
    results = run_experiment(trials()[name], tmp_path, device="cpu", report=rows.append)
    trial_id, recorded = RECORDED[name]
    assert results["trial_id"] == trial_id, "the trial's digest has changed"
    np.testing.assert_allclose([[row[key] for key in COLUMNS] for row in rows], recorded, rtol=1e-4)
