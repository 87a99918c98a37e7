"""Results behind a URI, against a real S3-compatible server: what is published, when it counts, what comes back."""

import json
import shutil

import pytest

from attnlab.records import mirror as mirrors
from attnlab.records.mirror import Mirror, mirror
from attnlab.records.paths import TrialDir
from attnlab.records.results import Job
from attnlab.records.storage import Store, join, local, shown
from attnlab.util.errors import StorageError
from attnlab.util.files import write_json
from tests.records.small import results_of


@pytest.fixture
def job(tiny):
    from attnlab.plan.load import resolve

    return Job.make("gla", 0, resolve({"name": "study", "trial": tiny, "arms": {"gla": {}}}).arm("gla").trial)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch, cache):
    """Working copies of this test's own; `tmp_path` may be emptied to be another machine."""
    monkeypatch.setenv("ATTNLAB_CACHE", str(tmp_path / "cache"))


def checkpoint(home: TrialDir, name: str, text: str = "weights"):
    folder = home.checkpoints / name
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(text)
    (folder / "state.json").write_text("{}")


def worker(uri, name="slot-0-rank-0"):
    return mirror(uri, "study").for_worker(name)


def test_a_path_is_used_as_it_is_and_file_uris_are_paths(tmp_path):
    for place in (tmp_path / "results", str(tmp_path / "results"), f"file://{tmp_path}/results"):
        found = mirror(place, "study")
        assert type(found) is Mirror and found.folder.path == tmp_path / "results" / "study"
    assert local("file:///a%20b") and str(local("file:///a%20b")) == "/a b"
    assert local("s3://bucket/a") is None
    with pytest.raises(StorageError, match="absolute path, as in file:///results/a"):
        local("file://results/a")


def test_uris_grow_before_their_query_and_are_shown_without_secrets():
    uri = "s3://me:secret@bucket/results/?endpoint_override=127.0.0.1:1&scheme=http"
    assert join(uri, "study", "gla") == (
        "s3://me:secret@bucket/results/study/gla?endpoint_override=127.0.0.1:1&scheme=http"
    )
    assert shown(uri) == "s3://bucket/results/"


def test_another_worker_goes_on_with_what_one_published(s3, job):
    first = worker(s3).open_trial(job, lead=True)
    first.folder.metrics_file.write_text('{"step": 2}\n')
    checkpoint(first.folder, "step_00000002")
    first._publish()
    second = worker(s3, "slot-1-rank-0").open_trial(job, lead=True)
    assert second.folder.path != first.folder.path
    assert second.folder.job() == job
    assert second.folder.metrics() == [{"step": 2}]
    assert (second.folder.checkpoints / "step_00000002" / "model.safetensors").read_text() == "weights"


def test_a_checkpoint_counts_when_all_of_it_is_there(s3, job):
    taken = worker(s3).open_trial(job, lead=True)
    checkpoint(taken.folder, "step_00000002")
    checkpoint(taken.folder, "step_00000004")
    taken._publish()
    below = Store.open(join(s3, "study", "gla", job.trial_id))
    below.delete("checkpoints/step_00000004/.whole")  # a worker that died before it was done
    below.write("checkpoints/step_00000006/model.safetensors", b"half")
    again = worker(s3, "other").open_trial(job, lead=True)
    assert [p.name for p in again.folder.checkpoints.iterdir()] == ["step_00000002"]
    shutil.rmtree(again.folder.checkpoints / "step_00000002")
    checkpoint(again.folder, "step_00000006", "other weights")
    again._publish()
    names = {name.split("/")[1] for name in below.list() if name.startswith("checkpoints/")}
    assert names == {"step_00000006"}, "what is not kept here is not kept there"


def test_results_are_published_last_and_nothing_is_kept_at_the_worker(s3, job, monkeypatch):
    taken = worker(s3).open_trial(job, lead=True)
    checkpoint(taken.folder, "final")
    write_json(taken.folder.results_file, {"state": "completed"})
    taken.publish()
    taken._round.result()
    below = Store.open(join(s3, "study", "gla", job.trial_id))
    assert "results.json" not in below.list()
    order = []
    put = Store.put
    monkeypatch.setattr(Store, "put", lambda self, path, name: order.append(name) or put(self, path, name))
    taken.close()
    assert order[-1] == "results.json"
    assert not taken.folder.path.exists()
    assert {"results.json", "experiment_config.json", "checkpoints/final/.whole"} <= below.list().keys()


def test_the_launcher_gets_records_and_no_checkpoints_and_loses_what_is_not_there(s3, job):
    taken = worker(s3).open_trial(job, lead=True)
    checkpoint(taken.folder, "final")
    taken.folder.metrics_file.write_text('{"step": 2}\n')
    ended = results_of(job, steps=2)
    write_json(taken.folder.results_file, ended)
    taken.close()
    place = mirror(s3, "study")
    stale = place.folder.trial("gla", "t009-0000000000")
    write_json(stale.config_file, {})
    place.folder.path.joinpath("sweep.yaml").write_text("name: study\n")
    place.push(place.folder.sweep_file)
    for _ in range(2):
        place.pull()
        home = place.folder.trial("gla", job.trial_id)
        assert home.results() == ended
        assert not home.checkpoints.exists() and not stale.config_file.exists()
        assert place.folder.sweep_file.read_text() == "name: study\n"
    place.fetch_final(home)
    assert (home.final / "model.safetensors").read_text() == "weights"


def test_storage_that_fails_for_a_while_costs_nothing_but_time(s3, job, monkeypatch, capsys):
    monkeypatch.setattr(mirrors.time, "sleep", lambda s: None)
    taken = worker(s3).open_trial(job, lead=True)
    taken.folder.metrics_file.write_text('{"step": 2}\n')
    write, left = Store.write, [3]

    def failing(self, name, content):
        if left[0]:
            left[0] -= 1
            raise StorageError(f"{self}: out of order")
        write(self, name, content)

    monkeypatch.setattr(Store, "write", failing)
    taken.publish()
    taken.close()
    assert left == [0]
    assert Store.open(join(s3, "study", "gla", job.trial_id)).read("metrics.jsonl") == b'{"step": 2}\n'
    assert "out of order" in capsys.readouterr().out


@pytest.mark.parametrize(
    "uri, said",
    [
        ("foo://bucket/x", "no storage is known for foo://"),
        ("s3://nowhere/x", "there is no such bucket; make it first"),
        ("s3:///x", "Missing bucket name"),
        ("memory-typo://x", "no storage is known for memory-typo://"),
    ],
)
def test_storage_that_cannot_be_used_is_one_line(s3, uri, said):
    with pytest.raises(StorageError) as told:
        mirror(uri, "study").check()
    assert said in str(told.value) and "\n" not in str(told.value)


def test_where_no_object_store_is_behind_the_uri_files_are_renamed_into_place(s3, job):
    where = Store.open("memory://here/results")
    where.write("a/b.json", json.dumps({}).encode())
    assert where.list() == {"a/b.json": 2}
    assert where.read("a/b.json") == b"{}"
