"""The cluster files against Ray's own schema: cluster.yaml, and those that docs/cluster.md gives whole."""

import copy
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
FENCE = re.compile(r"```yaml\n(# [\w-]+\.yaml\b.*?)```", re.DOTALL)
IN_DOCS = {text.split()[1].rstrip(":"): text for text in FENCE.findall((ROOT / "docs" / "cluster.md").read_text())}
FILES = {"cluster.yaml": (ROOT / "cluster.yaml").read_text(), **IN_DOCS}
OURS = {name: text for name, text in FILES.items() if "apiVersion:" not in text}


def filled(config):
    from ray.autoscaler._private.util import prepare_config

    return prepare_config(copy.deepcopy(config))


def test_the_docs_have_the_variants():
    assert {"cluster-onprem.yaml", "cluster-gcp.yaml"} <= OURS.keys()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", OURS)
def test_a_cluster_file_is_what_ray_up_takes(name):
    from ray.autoscaler._private.util import validate_config

    config = yaml.safe_load(OURS[name])
    validate_config(filled(config))
    with pytest.raises(Exception, match="Failed validating|Additional properties"):
        validate_config(filled({**config, "max_wrokers": 3}))


def test_one_edits_five_lines_and_gpu_machines_come_from_none():
    text = FILES["cluster.yaml"]
    assert re.findall(r"EDIT (\d)", text) == list("12345")
    config = yaml.safe_load(text)
    worker, head = (config["available_node_types"][kind] for kind in ("gpu_worker", "head"))
    assert worker["min_workers"] == 0 and head["resources"] == {"CPU": 0}
    assert filled(config)["available_node_types"]["gpu_worker"]["max_workers"] == config["max_workers"]
    assert worker["node_config"]["ImageId"] == head["node_config"]["ImageId"]


@pytest.mark.parametrize("name", OURS)
def test_every_machine_gets_the_pinned_versions_and_no_rubbish(name):
    config = yaml.safe_load(OURS[name])
    assert any("-c constraints.txt" in command for command in config["setup_commands"])
    assert {".git", ".venv", "results"} <= set(config["rsync_exclude"])
