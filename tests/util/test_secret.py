"""A password in a URI is in no message, record or list of processes."""

import subprocess
import sys

import pytest

from attnlab import run_experiment
from attnlab.records import storage
from attnlab.records.mirror import RemoteMirror
from attnlab.records.paths import SweepDir
from attnlab.records.storage import Store, local, shown
from attnlab.util.errors import StorageError, UserError
from attnlab.util.secret import masked

URI = "s3://AKIA:hun/ter2@bucket/results?region=eu&secret_key=hunter3"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("s3://me:hunter2@bucket/a/b", "s3://***@bucket/a/b"),
        ("s3://me:hun/t@er2@bucket/a", "s3://***@bucket/a"),
        ("see ftp://hunter2@host/x, 'http://a:hunter2@b' now", "see ftp://***@host/x, 'http://***@b' now"),
        ("s3://bucket/a@b/c?region=eu", "s3://bucket/a@b/c?region=eu"),
        ("gs://b?access_token=hunter2&x=1", "gs://b?access_token=***&x=1"),
        ("s3://me:hunter'2?x@bucket/a", "s3://***@bucket/a"),
        ("'s3://me:hun\"ter2@b', <s3://b/a>", "'s3://***@b', <s3://b/a>"),
        ("s3://me:hunter2@b?endpoint_override=http://me:hunter2@h:9", "s3://***@b?endpoint_override=http://***@h:9"),
        ("results/x", "results/x"),
    ],
)
def test_what_is_secret_in_a_text_is_masked(text, seen):
    assert masked(text) == seen


class Refusing:
    """A filesystem that says the whole URI in its errors."""

    type_name = "s3"

    def __getattr__(self, name):
        raise OSError(f"cannot reach {URI}")


def test_no_message_of_the_storage_has_it(tmp_path):
    store = Store(URI, Refusing(), "bucket/results")
    there = RemoteMirror(SweepDir(tmp_path), store)
    assert shown(URI) == str(store) == str(there) == "s3://bucket/results"
    said = [repr(store), repr(there), repr(there.for_worker("w")), str(store.child("x"))]
    for refused in (store.list, lambda: store.read("x"), lambda: store.write("x", b""), lambda: store.delete("x")):
        with pytest.raises(StorageError) as error:
            refused()
        said.append(str(error.value))
    with pytest.raises(StorageError) as error:
        storage._filesystem("nowhere://me:hunter2@host/x")
    said.append(str(error.value))
    with pytest.raises(StorageError) as error:
        local("file://me:hunter2@host/x")
    said.append(str(error.value))
    with pytest.raises(UserError) as error:
        run_experiment({}, URI)
    said.append(str(error.value))
    assert not any("hunter" in line or "ter2" in line for line in said), said


@pytest.mark.skipif(sys.platform != "linux", reason="by /proc")
def test_a_commands_arguments_are_masked_in_the_list_of_processes():
    code = (
        "import sys; from pathlib import Path; from attnlab.util.secret import hide_arguments;"
        "hide_arguments(sys.argv);"
        "print(Path('/proc/self/cmdline').read_bytes(), Path('/proc/self/environ').read_bytes()[:20], sys.argv[1])"
    )
    command = [sys.executable, "-c", code, "s3://me:hunter2@bucket/x", "--after"]
    seen = subprocess.run(command, capture_output=True, text=True, check=True, env={"FIRST": "untouched"}).stdout
    cmdline, environ, argument = seen.rsplit(" ", 2)
    assert "s3://***@bucket/x" in cmdline and "--after" in cmdline and "hunter2" not in cmdline
    assert environ.startswith("b'FIRST=untouched") and argument.strip() == "s3://me:hunter2@bucket/x"
