"""A sweep on a cluster on which nothing runs yet: Ray's real autoscaler, with machines that are processes here."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile

import psutil
import pytest
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE

from attnlab.plan import Plan, gpu_packing, resolve
from attnlab.sweep.cluster.autoscaler import HEAD, Autoscaler, NodeType, from_config
from attnlab.sweep.cluster.room import room
from attnlab.util.errors import UserError
from tests.contract import check_folder
from tests.sweep.cluster.test_on_a_cluster import NODES

pytestmark = pytest.mark.usefixtures("no_token")


def test_what_could_come_is_counted_from_the_node_types():
    config = {
        "max_workers": 5,
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 0}, "max_workers": 0},
            "big": {"resources": {"CPU": 16, "GPU": 8, "accelerator_type:H100": 1}, "max_workers": 2},
            "small": {"resources": {"CPU": 4}},
            "never": {"resources": {"CPU": 64}, "max_workers": 0},
        },
    }
    told = from_config(config)
    assert told.active and [kind.max_nodes for kind in told.node_types] == [2, 5]
    up = [
        {"Alive": True, "Resources": {HEAD: 1.0, "CPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 4.0}},  # a small one that came before
        {"Alive": False, "Resources": {HEAD: 1.0, "CPU": 100.0}},
    ]
    most = told.largest(up)
    assert (most["CPU"], most["GPU"], most["accelerator_type:H100"]) == (1 + 2 * 16 + 3 * 4, 16, 2)
    assert Autoscaler(True, (NodeType({"CPU": 4}, 2),), 1).largest([]) == {"CPU": 4}


@pytest.fixture
def autoscaled(tmp_path):
    """A head without CPUs that may start two machines of two CPUs; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = {
        "cluster_name": "test",
        "max_workers": 2,
        "idle_timeout_minutes": 5,
        "upscaling_speed": 10.0,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"127.0.0.1:{port}",
            "disable_node_updaters": True,  # no ssh
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "setup_commands": [],
        "initialization_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }
    file = tmp_path / "cluster.json"
    file.write_text(json.dumps(config))
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={port}", "--num-cpus=0"]
    command += ["--node-ip-address=127.0.0.1"]
    command += [f"--autoscaling-config={file}", "--include-dashboard=false", "--disable-usage-stats", "--block"]
    home = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short, for its sockets
    command += [f"--temp-dir={home}"]
    marker = str(tmp_path)
    environment = {
        **os.environ,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "ATTNLAB_TEST": marker,
    }
    with (tmp_path / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        waited = subprocess.run([sys.executable, "-c", NODES, f"127.0.0.1:{port}", "1"], capture_output=True, text=True)
        assert waited.returncode == 0, (tmp_path / "head.log").read_text() + waited.stderr
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)
    for left in psutil.process_iter(["environ"]):  # the machines that the autoscaler started
        if (left.info["environ"] or {}).get("ATTNLAB_TEST") == marker:
            left.kill()
    shutil.rmtree(home, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_sweep_on_an_empty_cluster_waits_for_its_machines(write_sweep, launch, folder, autoscaled):
    done = launch(write_sweep(), "--address", autoscaled, "resources.cpus_per_worker=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 at a time" in done.stdout, "as many as there could be machines"
    assert "0 of 2 slots up, the others wait for nodes" in done.stdout
    assert len(check_folder(folder)) == 4


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_what_no_machine_that_could_come_can_hold_is_told_at_once(write_sweep, launch, folder, autoscaled):
    done = launch(write_sweep(), "--address", autoscaled, "resources.cpus_per_worker=5")
    assert done.returncode == 2
    assert "a trial takes 1 x 5 CPUs and 1 x 0 GPUs, but here are at most 4 CPUs and 0 GPUs" in done.stderr
    assert not folder.exists()


def test_what_an_unknown_autoscaler_may_start_is_taken_at_its_word():
    plan = resolve({"name": "s", "trial": {}, "arms": {"a": {}, "b": {}, "c": {}}})
    need, kube = gpu_packing.Need(1.0, 1.0), Autoscaler(active=True)
    with pytest.raises(UserError, match="give resources.max_concurrent and resources.gpus_per_worker as numbers"):
        room(plan, need, {}, kube)
    with pytest.raises(UserError, match="here are 0 CPUs"):
        room(plan, need, {}, Autoscaler())
    resources = plan.sweep.resources.model_copy(update={"max_concurrent": 2, "gpus_per_worker": 1.0})
    shape, slots = room(Plan.of(plan.sweep.model_copy(update={"resources": resources})), need, {}, kube)
    assert (shape.gpus, slots) == (1.0, 2)
