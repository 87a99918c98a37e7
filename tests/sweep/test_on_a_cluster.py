"""A sweep on a Ray cluster that was up before and stays up after: nothing of the sweep's is left on it."""

import os
import subprocess
import sys
import textwrap

import pytest

from tests.contract import check_folder

pytestmark = pytest.mark.timeout(400)

LEFT = """
import json, sys, time, ray
from ray._private import state
from ray.util import placement_group_table
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
for _ in range(60):
    groups = [g for g in placement_group_table().values() if g["state"] != "REMOVED"]
    alive = [a["ActorClassName"] for a in state.actors().values() if a["State"] not in ("DEAD",)]
    alive = [name for name in alive if name != "_AutoscalingCoordinatorActor"]  # Ray's own, one per cluster
    free = ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]
    if not groups and not alive and free:
        break
    time.sleep(0.5)
print(json.dumps([groups, alive, free]))
"""


@pytest.fixture
def cluster(request):
    """A head of two CPUs and as many GPUs as the test says, in processes of its own; yields its address."""
    code = """
        import sys
        from ray.cluster_utils import Cluster
        head = {"num_cpus": 2, "num_gpus": int(sys.argv[1]), "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        print("address", cluster.address, flush=True)
        sys.stdin.read()
        cluster.shutdown()
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(getattr(request, "param", 0))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        line = next(line for line in process.stdout if line.startswith("address"))
        yield line.split()[1]
        process.stdin.close()
        process.wait(60)


def test_a_cluster_is_left_as_it_was(write_sweep, launch, folder, cluster, tmp_path):
    asha = {"grace_steps": 4, "reduction_factor": 2}
    path = write_sweep(search={"space": {"optim.lr": {"loguniform": [1e-3, 1e-1]}}, "trials": 3, "asha": asha})
    done = launch(path, "--address", cluster)
    assert done.returncode == 0, done.stderr
    assert len(check_folder(folder)) == 6
    left = subprocess.run([sys.executable, "-c", LEFT, cluster], capture_output=True, text=True, env={**os.environ})
    assert left.stdout.splitlines()[-1] == "[[], [], true]", left.stdout + left.stderr


@pytest.mark.parametrize("cluster", [1], indirect=True)
def test_a_precision_that_the_clusters_gpus_refuse_is_told_before_anything_is_written(
    write_sweep, launch, folder, cluster
):
    path = write_sweep(arms={"deltanet": {"model.mixer": "deltanet"}}, search=None)
    done = launch(path, "--address", cluster, "trial.train.precision=fp32")
    assert done.returncode == 2
    assert "arms.deltanet.model.mixer deltanet: FLA's kernel takes no fp32 on CUDA" in done.stderr
    assert not folder.exists()
