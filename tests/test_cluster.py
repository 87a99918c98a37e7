"""cluster.yaml against Ray's own schema."""

from pathlib import Path

import pytest
import yaml


@pytest.mark.filterwarnings("default")
def test_the_cluster_file_is_what_ray_up_takes():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((Path(__file__).parents[1] / "cluster.yaml").read_text())
    validate_config(prepare_config(config))
    with pytest.raises(Exception, match="Failed validating|Additional properties"):
        validate_config(prepare_config({**config, "max_wrokers": 3}))
