"""A sweep whose rungs are decays, on a real Ray."""

import pytest

from attnlab.config.merge import merge
from attnlab.records.mirror import Mirror
from attnlab.records.paths import SweepDir
from attnlab.sweep.search.asha import ArmAsha
from attnlab.sweep.search.searcher import ArmSearch
from tests.contract import check_folder


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_trials_are_judged_on_decays_and_the_records_say_so(write_sweep, launch, folder, tiny):
    from attnlab.plan.load import load

    trial = merge(tiny, {"optim": {"schedule": "wsd", "decay": 0.25}, "train": {"max_steps": 16}})
    search = {
        "space": {"optim.lr": {"loguniform": [1e-5, 1e-1]}},
        "trials": 6,
        "sampler": "random",
        "asha": {"grace_steps": 4, "reduction_factor": 2, "decay_rungs": True},
    }
    path = write_sweep(trial=trial, search=search, confirm={"seeds": [9]})
    done = launch(path)
    assert done.returncode == 0, done.stderr
    suite = check_folder(folder)
    assert sum(r["state"] == "pruned" for r in suite) >= 2
    home = SweepDir(folder)
    for result in suite:
        rows = home.trial(result["arm"], result["trial_id"]).metrics()
        branches = {r["step"]: r["branch_steps"] for r in rows if "branch_steps" in r}
        if result["phase"] == "confirm":
            assert branches == {} and result["steps"] == 16
        elif result["state"] == "completed":
            assert branches == {4: 1, 8: 2} and result["steps"] == 19
    sweep = load(path)
    search = ArmSearch(sweep, Mirror(home))
    asha = ArmAsha(sweep, search.job_of, print, search.reports())
    assert all(len(asha.brackets[arm].rungs[4]) == 6 for arm in sweep.names)
