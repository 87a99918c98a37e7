"""A password in a URI is in no message, record or list of processes."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import launch as command
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
        ("no file https://u:hun ter2@h/x, why", "no file https://***@h/x, why"),
        ("cannot reach http://h: mail me@example.org", None),
        ("results/x", "results/x"),
        ("https://hf_hunter2@huggingface.co/x", "https://***@huggingface.co/x"),
        ('\'gs://b?json_credentials={"a": "x", "key": "hunter 2"}&x=1\'', "'gs://b?json_credentials=***&x=1'"),
        ("no file gs://b?json%5Fcredentials=hunter2, why", "no file gs://b?json%5Fcredentials=***, why"),
        ("see https://arxiv.org/list?author=a&year=2024 and mail@example.org", None),
    ],
)
def test_what_is_secret_in_a_text_is_masked(text, seen):
    assert masked(text) == (text if seen is None else seen)


SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=1000, exclude_characters="&"), min_size=6).filter(
    lambda text: "://" not in text and text.isprintable() and not set("'\"<>)],.;:") & {text[-1]} and " " not in text
)
KEYS = ["access_key", "AccessToken", "X-Amz-Signature", "client_secret", "json_credentials", "sas", "auth", "my%5Fpwd",
        "passphrase", "pass", "session[id]", "sig", "private.key", "jwt"]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(SECRETS, st.sampled_from(KEYS), st.sampled_from("?&#"), st.sampled_from(["", "'", '",', ")."]))
def test_a_value_whose_key_looks_like_a_credential_is_masked(secret, key, separator, after):
    start = "cannot read gs://bucket/x?a=1"
    shown = masked(f"{start}{separator}{key}=~{secret}~{after} for some reason")
    assert shown == f"{start}{separator}{key}=***{after} for some reason"


@settings(max_examples=60, deadline=None)
@given(SECRETS, st.sampled_from(["s3", "hf", "https", "git+ssh"]), st.sampled_from(["me:", "", ":"]))
def test_a_user_and_password_are_masked_whatever_they_hold(secret, scheme, user):
    secret = secret if user else "".join(c for c in secret if c not in "/?#") + "~"  # alone, these begin a path
    shown = masked(f"cannot read '{scheme}://{user}{secret}@host/a/b?x=1'")
    assert shown == f"cannot read '{scheme}://***@host/a/b?x=1'"


@pytest.mark.parametrize("where", ["dataset", "tokenizer", "override", "key", "choice"])
@pytest.mark.parametrize("uri", ["https://me:hunter2@host/x.txt", "hf://hunter2@a/b", "s3://b/x?secret_key=hunter2"])
def test_a_password_in_a_sweep_is_refused_in_a_line_that_says_what_to_use_instead(tmp_path, capsys, where, uri):
    sweep, results = tmp_path / "study.yaml", tmp_path / "results"
    task = {"dataset": f"dataset: '{uri}'", "tokenizer": f"tokenizer: {{name: '{uri}'}}"}.get(where, "seq_len: 32")
    task = f"'{uri}': 1" if where == "key" else task
    search = f"search: {{space: {{optim.lr: {{choice: ['{uri}']}}}}}}\n" if where == "choice" else ""
    sweep.write_text(f"name: study\ntrial: {{task: {{name: text, {task}}}}}\narms: {{a: {{}}}}\n{search}")
    override = [f"trial.task.dataset={uri}"] if where == "override" else []
    assert command.main([str(sweep), *override, "--results", str(results)]) == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert "a password in a URI" in line and "HF_TOKEN" in line and "AWS_SECRET_ACCESS_KEY" in line and "***" in line
    assert "hunter2" not in said.err + said.out and not results.exists()


def test_a_password_in_a_long_name_is_masked_before_it_is_cut():
    long = f"no file https://me:hunter2{'x' * 3000}@host/x"
    assert UserError(long).problems == ["no file https://***@host/x"]


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
