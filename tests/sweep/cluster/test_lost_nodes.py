"""Nodes that are lost, and a link that is cut: the trial goes on elsewhere, and no sweep waits in vain."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from itertools import count
from pathlib import Path

import psutil
import pytest

from attnlab.config.merge import merge
from tests.sweep.conftest import LAUNCH, finish, wait_until
from tests.sweep.test_faults import SEARCH, begun, undisturbed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

CLUSTER = """
import sys
from ray.cluster_utils import Cluster

def add(cpus):
    return cluster.add_node(num_cpus=cpus)

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [add(1), add(1)]
print("ready", cluster.address, flush=True)
for line in sys.stdin:
    if line.startswith("add"):
        nodes.append(add(1))
    else:
        cluster.remove_node(nodes.pop(0), allow_graceful=False)
    print("ready", flush=True)
cluster.shutdown()
"""


class Nodes:
    """A cluster whose head has no CPU for trials, and two nodes with one each."""

    def __init__(self):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen([sys.executable, "-c", CLUSTER], **pipes)
        self.address = self._answer().split()[1]

    def _answer(self):
        return next(line for line in self._process.stdout if line.startswith("ready"))

    def add(self):
        self._tell("add")

    def lose_one(self):
        """Kill a node's processes, and with them those of a worker there."""
        self._tell("lose")

    def _tell(self, line):
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        self._answer()

    def end(self):
        with self._process:
            self._process.stdin.close()
            self._process.wait(60)


@pytest.fixture
def nodes():
    cluster = Nodes()
    yield cluster
    cluster.end()


@pytest.fixture
def long(slow):
    """Trials that still run when the last slot is up."""
    return merge(slow, {"train": {"max_steps": 2000, "eval_every": 50, "save_every": 50}})


def both_train(folder):
    return begun(folder) and len(list(folder.glob("*/*/metrics.jsonl"))) == 2


def test_a_lost_nodes_trial_goes_on_at_a_node_that_is_added(write_sweep, launch, folder, tmp_path, long, nodes):
    process = launch(write_sweep(trial=long, search=SEARCH), "--address", nodes.address, wait=False)
    wait_until(lambda: both_train(folder))
    nodes.lose_one()
    nodes.add()
    done = finish(process)
    assert done.returncode == 0, done.stdout + done.stderr
    undisturbed(folder, tmp_path)


def test_a_lost_nodes_trial_goes_on_at_another_slot(write_sweep, launch, folder, tmp_path, long, nodes):
    process = launch(write_sweep(trial=long, search=SEARCH), "--address", nodes.address, wait=False)
    wait_until(lambda: both_train(folder))
    nodes.lose_one()
    done = finish(process)
    assert done.returncode == 0, done.stdout + done.stderr
    undisturbed(folder, tmp_path)


def test_a_sweep_that_lost_every_node_ends_and_is_resumed(write_sweep, launch, folder, tmp_path, long, nodes):
    path = write_sweep(trial=long, search=SEARCH, resources={"node_wait_s": 15})
    process = launch(path, "--address", nodes.address, wait=False)
    wait_until(lambda: both_train(folder))
    nodes.lose_one()
    nodes.lose_one()
    done = finish(process)
    assert done.returncode == 1, done.stdout + done.stderr
    said = "no node could run a slot's workers for 15 s (resources.node_wait_s)"
    assert said in done.stderr.splitlines()[-1] and "--resume goes on" in done.stderr.splitlines()[-1]
    nodes.add()
    done = launch(path, "--address", nodes.address, "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    undisturbed(folder, tmp_path)


UP = """
import ray, sys, time
ray.init(address="10.77.0.1:6379", logging_level="ERROR", log_to_driver=False)
while ray.cluster_resources().get("CPU") != int(sys.argv[1]):
    time.sleep(0.5)
"""


class Net:
    """Hosts as network namespaces, each joined by a cable of its own to a bridge in the first; all of it goes with the
    namespaces."""

    _numbers = count()
    scratch = ""

    def __init__(self, hosts):
        self.names = [f"attnlab-{os.getpid()}-{next(self._numbers)}" for _ in range(hosts)]
        self._started = []
        head, *others = self.names
        self._ip("netns", "add", head)
        self._ip("-n", head, "link", "add", "br0", "type", "bridge")
        self._up(head, "br0", 1)
        for i, name in enumerate(others):
            self._ip("netns", "add", name)
            self._ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", f"port{i}", "netns", head)
            self._ip("-n", head, "link", "set", f"port{i}", "master", "br0", "up")
            self._up(name, "eth0", 11 + i)

    def _up(self, name, device, number):
        self._ip("-n", name, "link", "set", "lo", "up")
        self._ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", device)
        self._ip("-n", name, "link", "set", device, "up")
        self._ip("-n", name, "route", "add", "default", "dev", device)  # Ray asks it for the host's address

    def _ip(self, *arguments):
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
        if done.returncode:
            self.end()
            pytest.skip(f"no network namespaces here: ip {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def start(self, host, *command, **kwargs):
        env = {**os.environ, "RAY_AUTH_MODE": "disabled"}  # nothing beyond these hosts can reach them
        process = subprocess.Popen(["ip", "netns", "exec", self.names[host], *map(str, command)], env=env, **kwargs)
        self._started.append(process)
        return process

    def cut(self, host):
        """Pull the cable of host 1, 2, ...; its processes run on."""
        self._ip("-n", self.names[0], "link", "set", f"port{host - 1}", "down")

    def pids(self, host):
        return [int(pid) for pid in self._ip("netns", "pids", self.names[host]).split()]

    def end(self):
        """End what runs in the namespaces, and remove them."""
        for name in self.names:
            pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split()
            for pid in map(int, pids):
                if psutil.pid_exists(pid):
                    os.kill(pid, signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        for process in self._started:
            process.wait(30)
        shutil.rmtree(self.scratch, ignore_errors=True)


@pytest.fixture
def net():
    try:
        hosts = Net(3)
    except FileNotFoundError:
        pytest.skip("no network namespaces here: there is no `ip`")
    yield hosts
    hosts.end()


def test_a_link_that_is_cut_moves_the_trial_and_ends_the_worker_behind_it(write_sweep, folder, tmp_path, long, net):
    """Real `ray start` processes, each with an address of its own. The worker that is cut off is alive: it must end
    itself before its trial is another's."""
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    net.scratch = tempfile.mkdtemp(prefix="attnlab")  # the names of sockets must be short
    said = (tmp_path / "ray.log").open("w")
    logged = {"stdout": said, "stderr": said}
    head = ["--head", "--port=6379", "--node-ip-address=10.77.0.1", "--num-cpus=0", "--include-dashboard=false"]
    with said:
        net.start(0, *ray, *head, f"--temp-dir={net.scratch}", **logged)
        wait_until(lambda: "ray start --address" in Path(said.name).read_text(encoding="utf-8"))
        for host in (1, 2):  # one after the other: they share a disk, and look there for names of sockets that are free
            join = ["--address=10.77.0.1:6379", f"--node-ip-address=10.77.0.{10 + host}", "--num-cpus=1"]
            net.start(host, *ray, *join, **logged)
            assert net.start(0, sys.executable, "-c", UP, host, **logged).wait(120) == 0, Path(said.name).read_text(
                encoding="utf-8"
            )

    log = tmp_path / "launch.log"
    command = [*LAUNCH, write_sweep(trial=long, search=SEARCH), "--results", tmp_path / "results"]
    with log.open("w") as out:
        process = net.start(0, *command, "--address", "10.77.0.1:6379", stdout=out, stderr=out, cwd=tmp_path)
    wait_until(lambda: process.poll() is not None or both_train(folder))
    assert process.poll() is None, log.read_text()
    (cut_off,) = [p for p in net.pids(1) if "RayTrainWorker" in name_of(p)]
    net.cut(1)
    wait_until(lambda: not psutil.pid_exists(cut_off), 120)
    assert process.wait(400) == 0, log.read_text()
    undisturbed(folder, tmp_path)


def name_of(pid):
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return ""
