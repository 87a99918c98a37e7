"""Shared by all tests: one thread, no network, no ray surprises."""

import os

os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import HealthCheck, settings

# no test depends on how fast the machine is, nor on what hypothesis drew last time
settings.register_profile("attnlab", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("attnlab")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    """Those that share a Ray run in one process, one after the other: they come first. Then come those that may take
    long, and what is short fills the processes up at the end (`--no-loadscope-reorder` keeps that order)."""
    items.sort(key=lambda item: not item.get_closest_marker("timeout"))
    items.sort(key=lambda item: "shared_ray" not in item.fixturenames)
    for item in items:
        if "shared_ray" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture(autouse=True)
def one_thread():
    """Tests share two cores with ray's processes; more threads would only change sums' order."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A token cache of this session's own, also for the processes it starts."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("ATTNLAB_CACHE")
    os.environ["ATTNLAB_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["ATTNLAB_CACHE"]
    else:
        os.environ["ATTNLAB_CACHE"] = before


@pytest.fixture(scope="session")
def tiny(cache, tmp_path_factory):
    """The smallest real trial: a page of real text, bytes, one layer. As the raw tree of a sweep file's `trial`."""
    import lzma
    from importlib.resources import files

    text = lzma.decompress(files("attnlab.data").joinpath("corpus/emma.txt.xz").read_bytes()).decode()[5000:45000]
    path = tmp_path_factory.mktemp("text") / "page.txt"
    path.write_text(text)
    return {
        "model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "dropout": 0.1, "mixer": "gla"},
        "task": {"name": "text", "dataset": str(path), "seq_len": 32, "tokenizer": "bytes", "eval_tokens": 512},
        "optim": {"name": "muon", "lr": 0.01},
        "train": {"max_steps": 12, "batch_size": 4, "eval_every": 2, "seed": 3},
    }


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """A real S3-compatible server in a process of its own, with the bucket `bucket`; yields its URL."""
    import subprocess
    import sys
    import urllib.request

    code = (
        "from moto.server import ThreadedMotoServer as Server; import sys\n"
        "server = Server('127.0.0.1', 0, verbose=False); server.start()\n"
        "print(*server.get_host_and_port(), flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    with process:
        host, port = process.stdout.readline().split()
        url = f"http://{host}:{port}"
        urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT"), timeout=30).close()
        yield url
        process.stdin.close()
        process.wait(30)


@pytest.fixture
def s3(s3_server, monkeypatch, tmp_path):
    """The environment in which `s3://bucket/...` is on that server; yields a URI of this test's own."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return f"s3://bucket/{tmp_path.name}"
