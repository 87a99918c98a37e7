import pytest

from attnlab import run_experiment
from attnlab.config import SweepError, Trial


def test_an_experiment_from_a_dict_and_again_is_a_no_op(tiny, tmp_path):
    rows = []
    results = run_experiment(tiny, tmp_path, name="mine", report=rows.append, device="cpu")
    assert results["state"] == "completed" and len(rows) == 6
    assert (tmp_path / "mine" / results["trial_id"] / "checkpoints" / "final" / "model.safetensors").exists()
    assert (
        run_experiment(Trial.model_validate(tiny), tmp_path, name="mine", report=rows.append, device="cpu") == results
    )
    assert len(rows) == 6


def test_a_mistake_is_told_before_anything_is_written(tiny, tmp_path):
    with pytest.raises(SweepError, match="did you mean 'max_steps'"):
        run_experiment({**tiny, "train": {"max_step": 3}}, tmp_path)
    assert not list(tmp_path.iterdir())
