"""Two ranks per trial, on a Ray cluster that was up before and stays up after: nothing of the sweep's is left on it."""

import pytest

from attnlab.config.merge import merge
from attnlab.records.paths import SweepDir, TrialDir
from attnlab.training.loop import train
from tests.contract import check_folder
from tests.sweep.conftest import free_again

pytestmark = pytest.mark.timeout(3600)


def test_two_ranks_per_trial_give_the_losses_of_one_and_a_cluster_is_left_as_it_was(
    write_sweep, launch, shared_ray, folder, tmp_path, tiny
):
    import ray

    trial = merge(tiny, {"model": {"dropout": 0.0}})
    search = {"space": {"optim.lr": {"loguniform": [1e-3, 1e-1]}}, "trials": 2}
    path = write_sweep(trial=trial, search={**search, "asha": {"grace_steps": 4, "reduction_factor": 2}})
    address = ray.get_runtime_context().gcs_address
    done = launch(path, "--address", address, "resources.workers=2", RAY_AUTH_MODE="token")
    assert done.returncode == 0, done.stdout + done.stderr
    suite = check_folder(folder)
    assert len(suite) == 4 and {r["environment"]["workers"] for r in suite} == {2}
    free_again()
    for result in suite:
        ran, fresh = SweepDir(folder).trial(result["arm"], result["trial_id"]), TrialDir(tmp_path / result["trial_id"])
        train(ran.job(), fresh)
        for two, one in zip(ran.metrics(), fresh.metrics(), strict=False):  # a pruned trial's are the first
            assert two["train_loss"] == pytest.approx(one["train_loss"], abs=1e-5)
            assert two["val_loss"] == pytest.approx(one["val_loss"], abs=1e-5)
