"""What a node says of a folder that it sees, does not see, or sees another of; asked without ray."""

import pytest

from attnlab.records.mirror import mirror
from attnlab.sweep.cluster import node_probe
from attnlab.sweep.cluster.node_probe import SharedFolder, check_node


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(SharedFolder.read, "__defaults__", (0.0,))


@pytest.fixture
def spot(tmp_path):
    return SharedFolder("--results", tmp_path)


def test_a_node_that_sees_the_token_answers_beside_it(spot, tmp_path):
    spot.write("probe/token", "abc")
    assert check_node([spot], [str(tmp_path)], "probe", "abc", "node") == []
    assert spot.read("probe/node", "abc") is None
    spot.clear("probe")
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_sees_nothing_or_another_folder_says_what_must_be(spot, tmp_path):
    (said,) = check_node([spot], [], "probe", "abc", "node")
    assert said.startswith(
        f"does not see --results {tmp_path}: nothing of what the launcher wrote is there; every node"
    )
    spot.write("probe/token", "of another sweep")
    (said,) = check_node([spot], ["/no/such/page.txt"], "probe", "abc", "node")[:1]
    assert "another file of this name" in said
    assert check_node([], ["/no/such/page.txt"], "", "", "") == [
        "does not see the dataset /no/such/page.txt; every node must"
    ]


def test_a_uri_is_a_place_like_any_other(s3, monkeypatch, tmp_path):
    monkeypatch.setenv("ATTNLAB_CACHE", str(tmp_path))
    place = mirror(s3, "study")
    (spot,) = node_probe.shared_folders(place, tmp_path / ".attnlab-kernels", tmp_path)
    spot.write("probe/token", "abc")
    assert check_node([spot], [], "probe", "abc", "node") == []
    spot.clear("probe")
    assert place.store.list() == {}


def test_a_worker_that_comes_later_is_held_against_the_sweeps_own_file(tmp_path):
    here, there = mirror(tmp_path / "a", "study"), mirror(tmp_path / "b", "study")
    for place, text in ((here, "name: study\n"), (there, "name: another\n")):
        place.folder.path.mkdir(parents=True)
        place.folder.sweep_file.write_text(text)
    sweep_file = here.folder.sweep_file.read_text()
    node_probe.check_results(here, sweep_file)
    with pytest.raises(
        node_probe.UserError, match="does not see --results .*: another file of this name is there; every node must"
    ):
        node_probe.check_results(there, sweep_file)


def test_only_nodes_that_a_worker_fits_on_are_asked():
    rows = [
        {"Alive": True, "Resources": {"CPU": 2.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"memory": 1.0}},
        {"Alive": False, "Resources": {"CPU": 2.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 2.0}},
    ]
    assert node_probe.nodes_that_fit(rows, 1, 0) == [rows[0], rows[3]]
    assert node_probe.nodes_that_fit(rows, 1, 0.25) == [rows[0]]
