import json
import lzma
from itertools import chain

import pytest

from attnlab.data import splits
from attnlab.data.sources import Dataset, check_dataset, open_dataset
from attnlab.data.splits import Split
from attnlab.util.files import write_text


def split(dataset, cache):
    found = Split(open_dataset(dataset, cache))
    return list(found.train()), found.validation()


def write(kind, documents, root):
    import datasets
    import pyarrow
    import pyarrow.parquet

    rows = [{"text": d, "n": i} for i, d in enumerate(documents)]
    path = root / f"corpus.{kind}"
    if kind == "folder_of_txt":
        path.mkdir()
        for i, d in enumerate(documents):
            (path / f"{i:03}.txt").write_bytes(d.encode())
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif kind == "jsonl.xz":
        path.write_bytes(lzma.compress("\n".join(map(json.dumps, rows)).encode()))
    elif kind == "json":
        path.write_text(json.dumps(rows))
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif kind == "save_to_disk":
        datasets.Dataset.from_list(rows).save_to_disk(str(path))
    elif kind == "dict_save_to_disk":
        datasets.DatasetDict(train=datasets.Dataset.from_list(rows)).save_to_disk(str(path))
    return str(path)


@pytest.mark.parametrize(
    "kind", ["folder_of_txt", "jsonl", "jsonl.xz", "json", "parquet", "save_to_disk", "dict_save_to_disk"]
)
def test_every_local_format_gives_the_same_documents_and_the_same_split(kind, documents, tmp_path, cache, jsonl):
    train, validation = split(Dataset(write(kind, documents, tmp_path / ".")), cache)
    assert sorted(train + validation) == sorted(documents)
    assert (train, sorted(validation)) == (
        split(Dataset(str(jsonl)), cache)[0],
        sorted(split(Dataset(str(jsonl)), cache)[1]),
    )


def test_a_single_text_file_gives_its_tail(tmp_path, cache):
    text = "".join(f"line {i} of the book\n" for i in range(1000))
    (tmp_path / "book.txt").write_text(text)
    (head,), (tail,) = split(Dataset(str(tmp_path / "book.txt")), cache)
    assert head + tail == text and head.endswith("\n") and 0.04 < len(tail) / len(text) < 0.06


@pytest.mark.parametrize("n", [2, 7, 100, 3000])
def test_held_out_documents_are_never_trained_on_even_when_repeated(n, tmp_path, cache):
    documents = [f"{i} {'x' * (i % 50)}" for i in range(n)]
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps({"text": d}) + "\n" for d in chain(documents, documents[::2])))
    train, validation = split(Dataset(str(path)), cache)
    assert not set(train) & set(validation) and set(train) | set(validation) == set(documents)
    assert len(validation) == len(set(validation)) and (n < 100 or 0.03 < len(validation) / n < 0.08)


def test_a_document_keeps_its_side_when_others_are_added(tmp_path, cache):
    sides = []
    for n in (2000, 2600):
        path = tmp_path / f"{n}.jsonl"
        path.write_text("".join(json.dumps({"text": f"document {i}"}) + "\n" for i in range(n)))
        sides.append(set(split(Dataset(str(path)), cache)[1]))
    assert sides[0] <= sides[1]


def test_copies_of_training_documents_leave_a_named_validation_split(tmp_path, cache):
    for name, documents in {
        "train": ["a b", "c d", "e f"],
        "validation": ["c d", "g h", "g h", "  "],
        "test": ["no"],
    }.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": d}) for d in documents))
    assert split(Dataset(str(tmp_path), validation="validation"), cache) == (["a b", "c d", "e f"], ["g h"])
    assert split(Dataset(str(tmp_path), split="test", validation="validation"), cache)[0] == ["no"]
    file = Dataset(str(tmp_path / "train.jsonl"), validation="validation.jsonl")
    assert split(file, cache) == (["a b", "c d", "e f"], ["g h"])


def test_identity_follows_content_not_place(documents, tmp_path, cache, jsonl):
    other = tmp_path / "elsewhere.jsonl"
    other.write_bytes(jsonl.read_bytes())
    assert open_dataset(Dataset(str(other)), cache).identity == open_dataset(Dataset(str(jsonl)), cache).identity
    other.write_bytes(jsonl.read_bytes() + b'{"text": "one more"}\n')
    assert open_dataset(Dataset(str(other)), cache).identity != open_dataset(Dataset(str(jsonl)), cache).identity


def test_a_big_files_hash_is_remembered_until_the_file_changes(tmp_path, cache, jsonl, monkeypatch):
    monkeypatch.setattr("attnlab.data.sources.BIG_FILE", 1)
    first = open_dataset(Dataset(str(jsonl)), cache).identity
    with monkeypatch.context() as patch:
        patch.setattr("attnlab.data.sources.file_digest", None)  # calling it would fail
        assert open_dataset(Dataset(str(jsonl)), cache).identity == first
    jsonl.write_bytes(jsonl.read_bytes() + b"\n")
    assert open_dataset(Dataset(str(jsonl)), cache).identity != first


def test_a_hub_dataset_is_pinned_and_streamed(cache, monkeypatch, documents):
    import datasets
    import huggingface_hub

    asked = []

    class Api:
        def dataset_info(self, name, revision=None):
            asked.append((name, revision))
            return type("Info", (), {"sha": "a" * 40})

    def load_dataset(name, config, *, split, revision, streaming):
        assert (name, config, revision, streaming) == ("some/set", "en", "a" * 40, True)
        return [{"body": d} for d in (documents if split == "train" else ["held out"])]

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    dataset = Dataset("some/set", "en", field="body", validation="validation")
    assert split(dataset, cache) == split(dataset, cache) == (documents, ["held out"])
    assert asked == [("some/set", None)]
    with pytest.raises(ValueError, match="dataset some/set row 1: no column 'text'; set `field` to one of: body"):
        split(Dataset("some/set", "en", validation="validation"), cache)


def test_offline_a_hub_dataset_is_one_clear_line(cache):
    with pytest.raises(
        ValueError, match="^dataset nobody/nothing: no built-in name, no local path, and not to be had"
    ) as error:
        open_dataset(Dataset("nobody/nothing"), cache)
    assert "\n" not in str(error.value)


def test_the_first_to_write_wins(tmp_path):
    write_text(tmp_path / "a" / "b", "first", overwrite=False)
    write_text(tmp_path / "a" / "b", "second", overwrite=False)
    assert (tmp_path / "a" / "b").read_text() == "first" and len(list((tmp_path / "a").iterdir())) == 1


MISTAKES = {
    "typo": (Dataset("austin"), "dataset: no file or folder austin; did you mean 'austen'?"),
    "missing": (Dataset("./none.txt"), "dataset: no file or folder ./none.txt; a built-in name (austen)"),
    "built-in": (Dataset("austen", revision="x"), "revision: the built-in dataset austen takes none"),
    "empty": (Dataset("{}/empty.txt"), "dataset: {}/empty.txt: the training split is empty"),
    "format": (Dataset("{}/a.docx"), "dataset: {}/a.docx: unknown format; one of .txt, .jsonl, .json, .parquet"),
    "nothing": (Dataset("{}/hollow"), "dataset: {}/hollow: no .txt, .jsonl, .json, .parquet file in this folder"),
    "column": (
        Dataset("{}/a.jsonl", field="txt"),
        "dataset: {}/a.jsonl line 1: no column 'txt'; set `field` to one of: text, n",
    ),
    "number": (Dataset("{}/a.jsonl", field="n"), "dataset: {}/a.jsonl line 1: column 'n' holds int, not text"),
    "json": (Dataset("{}/bad.jsonl"), "dataset: {}/bad.jsonl line 1: not JSON"),
    "parquet": (Dataset("{}/bad.parquet"), "dataset: {}/bad.parquet: not a Parquet file"),
    "local": (Dataset("{}/a.jsonl", config="en"), "config: {}/a.jsonl is local; only a hub dataset has one"),
    "plain": (Dataset("{}/a.txt", field="body"), "field: {}/a.txt is plain text and has no columns"),
    "second": (Dataset("{}/a.jsonl", validation="v.jsonl"), "validation: no file v.jsonl"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_each(name, tmp_path):
    (tmp_path / "hollow").mkdir()
    (tmp_path / "bad.parquet").write_text("not parquet")
    (tmp_path / "bad.jsonl").write_text("not json\n")
    (tmp_path / "a.jsonl").write_text('{"text": "t", "n": 1}\n')
    for file in ("empty.txt", "a.docx", "a.txt"):
        (tmp_path / file).write_text("" if file == "empty.txt" else "words")
    dataset, says = MISTAKES[name]
    dataset = Dataset(
        dataset.name.format(tmp_path), dataset.config, "train", dataset.revision, dataset.field, dataset.validation
    )
    (problem,) = check_dataset(dataset)
    assert problem.startswith(says.format(tmp_path)) and "\n" not in problem


def test_text_that_is_no_utf8(tmp_path, cache):
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin.txt: not UTF-8 text \(byte 3\)"):
        split(Dataset(str(tmp_path / "latin.txt")), cache)


def test_the_tail_of_text_without_lines():
    for text in ("word " * 100, "x" * 100, "ab"):
        head, tail = splits.cut_tail(text)
        assert head + tail == text and head and tail
