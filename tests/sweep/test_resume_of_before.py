"""A results folder of an earlier version is resumed: its unfinished trial goes on, and nothing else runs."""

import json
import shutil

import pytest

from tests.test_fixture_of_before import BEFORE, FOLDER, UNFINISHED, assert_holds, read

pytestmark = pytest.mark.timeout(3600)


def test_the_unfinished_trial_ends_from_its_checkpoint_and_nothing_is_added(launch_here, tmp_path):
    for name in ("before.yaml", "own_mixer.py"):
        shutil.copy(BEFORE / name, tmp_path)
    shutil.copytree(FOLDER, resumed := tmp_path / "results" / "before")
    done = launch_here(tmp_path / "before.yaml", "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("trials recorded without hashes of corpus, tokenizer and mixers") == 1

    trial = UNFINISHED.relative_to(FOLDER)
    step = int(next(UNFINISHED.glob("checkpoints/step_*")).name.partition("_")[2])
    rows, old = ((folder / trial / "metrics.jsonl").read_text().splitlines() for folder in (resumed, FOLDER))
    old = [line for line in old if json.loads(line)["step"] <= step]
    assert old and rows[: len(old)] == old, "the reports before the checkpoint are kept as they were"
    assert len(rows) > len(old)

    assert not (resumed / "preregistration.json").exists(), "trials had begun"

    configs = {file.relative_to(resumed) for file in resumed.glob("*/*/experiment_config.json")}
    assert configs == {file.relative_to(FOLDER) for file in FOLDER.glob("*/*/experiment_config.json")}
    for file in FOLDER.glob("*/*/results.json"):
        assert (resumed / file.relative_to(FOLDER)).read_bytes() == file.read_bytes(), "a finished trial ran again"
    suite = read(resumed / "experiment_suite_results.json")
    assert len(suite) == len(configs) and suite.count(read(resumed / trial / "results.json")) == 1
    assert_holds(read(resumed / "leaderboard.json"), read(BEFORE / "expected_leaderboard.json"))
