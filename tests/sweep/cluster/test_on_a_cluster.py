"""Sweeps on a Ray cluster that was up before: what its nodes lack, and what they are sent."""

import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
import torch

from attnlab.config.merge import merge
from tests.contract import check_folder
from tests.sweep.conftest import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.usefixtures("no_token"),
    pytest.mark.xdist_group("cluster"),  # one for all tests here
]

NODES = """
import sys, time, ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
end = time.monotonic() + 600
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    assert time.monotonic() < end, ray.nodes()
    time.sleep(0.2)
"""


@pytest.fixture(scope="module")
def cluster():
    """A head of two CPUs and what it takes for a GPU, in processes of its own; yields its address."""
    code = """
        import sys
        from ray.cluster_utils import Cluster
        head = {"num_cpus": 2, "num_gpus": 1, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        print("address", cluster.address, flush=True)
        sys.stdin.read()
        cluster.shutdown()
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    with process:
        line = next(line for line in process.stdout if line.startswith("address"))
        yield line.split()[1]
        process.stdin.close()
        process.wait(300)


ON_CPUS = "resources.gpus_per_worker=0"


def test_a_precision_that_the_clusters_gpus_refuse_is_told_before_anything_is_written(
    write_sweep, launch, folder, cluster
):
    path = write_sweep(arms={"deltanet": {"model.mixer": "deltanet"}}, search=None)
    done = launch(path, "--address", cluster, "trial.train.precision=fp32")
    assert done.returncode == 2
    assert "arms.deltanet.model.mixer deltanet: FLA's kernel takes no fp32 on CUDA" in done.stderr
    assert not folder.exists()


@pytest.fixture
def blind(cluster, tmp_path):
    """A real node in a mount namespace of its own, where tmp_path is another, empty folder: starts it."""
    started = []

    def start(cpus=2):
        node = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={cluster}", f"--num-cpus={cpus}"]
        script = f"mount -t tmpfs none {tmp_path} && exec {shlex.join(node)} --block --disable-usage-stats"
        with (tmp_path / "node.log").open("w") as log:
            process = subprocess.Popen(["unshare", "-m", "bash", "-c", script], stdout=log, stderr=log, cwd="/")
        started.append(process)
        waited = subprocess.run([sys.executable, "-c", NODES, cluster, "2"], capture_output=True, text=True)
        assert waited.returncode == 0, (tmp_path / "node.log").read_text() + waited.stderr

    if not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("a node with another view of the disk takes a mount namespace, which is not permitted here")
    yield start
    for process in started:
        process.terminate()
        process.wait(300)


def test_a_node_that_does_not_see_the_results_is_named_at_the_start(
    write_sweep, launch, folder, cluster, blind, tmp_path, tiny
):
    blind()
    page = shutil.copy(tiny["task"]["dataset"], tmp_path / "page.txt")
    path = write_sweep(trial=merge(tiny, {"task": {"dataset": str(page)}}))
    done = launch(path, "--address", cluster, ON_CPUS)
    assert done.returncode == 2, done.stdout + done.stderr
    seen, data = done.stderr.splitlines()
    host = f"error: node {socket.gethostname()} ("
    assert seen.startswith(host) and f"does not see --results {folder.parent}" in seen and "every node must" in seen
    assert data.startswith(host) and f"does not see the dataset {page}" in data
    assert not folder.parent.exists(), "nothing was written"


def test_a_node_that_shares_no_folder_trains_for_results_in_s3(write_sweep, launch, s3, cluster, blind, tmp_path, tiny):
    from attnlab.records.storage import Store, join

    blind()
    trial = merge(tiny, {"task": {"dataset": "austen"}})
    done = launch(
        write_sweep(trial=trial), "--address", cluster, "--results", s3, ON_CPUS, "resources.cpus_per_worker=2"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    where = Store.open(join(s3, "study"))
    for name in where.list():
        where.get(name, tmp_path / "there" / name)
    suite = check_folder(tmp_path / "there")
    assert len({r["environment"]["pid"] for r in suite}) == 2, "both nodes trained"


@pytest.fixture
def bare(tmp_path):
    """A cluster of one node that has the packages and no attnlab, nor this test's folder; its address and a folder that
    it does see."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("a node with another view of the disk takes a mount namespace, which is not permitted here")
    home = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short, for ray's sockets
    site, python = Path(torch.__file__).parents[1], home / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home / "venv")], check=True)
    (home / "packages").mkdir()
    next(home.glob("venv/lib/*/site-packages")).joinpath("packages.pth").write_text(f"{home}/packages\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    node = [python, "-m", "ray.scripts.scripts", "start", "--head", f"--port={port}", "--num-cpus=2", "--block"]
    node += [
        f"--temp-dir={home}/ray",
        "--node-ip-address=127.0.0.1",
        "--include-dashboard=false",
        "--disable-usage-stats",
    ]
    hide = f"mount --bind {site} {home}/packages && mount -t tmpfs none {ROOT} && mount -t tmpfs none {tmp_path}"
    script = f"{hide} && ! {python} -c 'import attnlab' 2>/dev/null && exec {shlex.join(map(str, node))}"
    with (home / "node.log").open("w") as log:
        process = subprocess.Popen(["unshare", "-m", "bash", "-c", script], stdout=log, stderr=log, cwd=home)
    try:
        address = f"127.0.0.1:{port}"
        waited = subprocess.run([sys.executable, "-c", NODES, address, "1"], capture_output=True, text=True)
        assert waited.returncode == 0, (home / "node.log").read_text() + waited.stderr
        yield address, home / "shared"
    finally:
        process.terminate()
        process.wait(300)
        shutil.rmtree(home, ignore_errors=True)


def test_a_cluster_without_our_code_is_sent_it_and_the_users_mixers(write_sweep, launch, bare, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))  # for the reading of the results, here
    address, shared = bare
    (tmp_path / "mine.py").write_text(
        "import torch\n\n\nclass Mine(torch.nn.Module):\n"
        "    def __init__(self, d_model: int):\n        super().__init__()\n"
        "        self.w = torch.nn.Linear(d_model, d_model)\n\n"
        "    def forward(self, hidden_states, **extra):\n        return self.w(hidden_states), None, None\n"
    )
    path = write_sweep(arms={"gla": {}, "mine": {"model.mixer": "mine:Mine"}}, search=None)
    done = launch(path, "--address", address, "--results", shared)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"sending attnlab and mine to the cluster: {socket.gethostname()} have another or none" in done.stdout
    assert [r["state"] for r in check_folder(shared / "study")] == ["completed", "completed"]
