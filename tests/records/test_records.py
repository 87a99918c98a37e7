"""The on-disk contract: atomic, strict, readable after a crash."""

import json
import math
import multiprocessing
import os
import signal

from hypothesis import given
from hypothesis import strategies as st

from attnlab.config.trial import Trial
from attnlab.records.metrics import MetricsWriter, best_row, learning_curve, steps_run
from attnlab.records.paths import TrialDir
from attnlab.records.results import Job
from attnlab.util.files import json_value, read_json, write_json

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_what_is_written_is_strict_json(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("j") / "x.json"
    write_json(path, {"v": value})
    json.loads(path.read_text(), parse_constant=lambda name: 1 / 0)
    assert read_json(path)["v"] == json_value(value)


def test_a_last_line_cut_short_is_left_out(tmp_path):
    trial = TrialDir(tmp_path)
    trial.metrics_file.write_text('{"step": 1}\n{"step": 2, "val_lo')
    assert trial.metrics() == [{"step": 1}]


def test_resuming_keeps_the_rows_of_the_checkpoint_and_drops_later_ones(tmp_path):
    trial = TrialDir(tmp_path)
    writer = MetricsWriter(trial, 0)
    for step in (10, 20, 30):
        writer.write({"step": step, "val_loss": math.nan if step == 20 else 1.0})
    again = MetricsWriter(trial, 20)
    again.write({"step": 30, "val_loss": 2.0})
    assert [(r["step"], r["val_loss"]) for r in trial.metrics()] == [(10, 1.0), (20, None), (30, 2.0)]


def test_a_branch_is_made_again_where_the_trial_resumes_from_its_rung(tmp_path):
    trial = TrialDir(tmp_path)
    rows = [{"step": 10}, {"step": 10, "branch_steps": 2}, {"step": 20}, {"step": 20, "branch_steps": 4}]
    trial.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert steps_run(rows) == 26 and learning_curve(rows) == [rows[0], rows[2]]
    assert MetricsWriter(trial, 20).rows == rows[:3]


def _write_for_ever(path):
    n = 0
    while True:
        n += 1
        write_json(path, {"n": n, "pad": "x" * 200_000})


def test_a_reader_never_sees_half_a_file_though_the_writer_is_killed(tmp_path):
    path = tmp_path / "leaderboard.json"
    for _ in range(5):
        process = multiprocessing.get_context("spawn").Process(target=_write_for_ever, args=(path,))
        process.start()
        while not path.exists():
            pass
        for _ in range(20):
            assert read_json(path)["n"] >= 1
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert len(read_json(path)["pad"]) == 200_000


def test_the_best_row_is_the_earliest_of_equals_and_skips_missing_values():
    rows = [{"step": 1, "m": None}, {"step": 2, "m": 0.5}, {"step": 3, "m": 0.5}, {"step": 4, "m": 0.9}]
    assert best_row(rows, "m", "min")["step"] == 2
    assert best_row(rows, "m", "max")["step"] == 4
    assert best_row(rows[:1], "m", "min") is None
    assert best_row([*rows, {"step": 3, "branch_steps": 1, "m": 0.1}], "m", "min")["step"] == 2


def test_a_trial_id_ends_in_the_digest_of_what_determines_the_result():
    trial = Trial()
    job = Job.make("gla", 7, trial)
    assert job.trial_id == f"t007-{trial.digest}"
    assert Trial(train={"seed": 1}).digest != trial.digest
    assert Job.model_validate(json.loads(json.dumps(job.model_dump(mode="json")))) == job
