"""Files that are cut, misnamed or changed, and rows that are no text: one line with the file's name, and the row's."""

import gzip
import json
import lzma

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.config.trial import TaskConfig
from attnlab.data import formats
from attnlab.data.packed import pack
from attnlab.data.sources import Dataset, check_dataset, open_dataset
from attnlab.data.splits import Split
from attnlab.data.tokenizer import Spec
from attnlab.plan.load import resolve
from attnlab.plan.prepare import prepare_tasks
from attnlab.tasks import build_task
from attnlab.util.errors import UserError

TEXTS = [f"Row {i}: naïve café 🙂 " * (i + 1) for i in range(12)]
ROWS = "".join(json.dumps({"text": text, "n": i}) + "\n" for i, text in enumerate(TEXTS)).encode()


def zstd(raw):
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as out:
        out.write(raw)
    return sink.getvalue().to_pybytes()


def parquet(texts=TEXTS):
    sink = pyarrow.BufferOutputStream()
    table = pyarrow.table({"text": texts, "n": list(range(len(texts)))})
    pyarrow.parquet.write_table(table, sink, row_group_size=5, write_page_checksum=True)
    return sink.getvalue().to_pybytes()


PACKINGS = {".gz": lambda raw: gzip.compress(raw, mtime=0), ".xz": lzma.compress, ".zst": zstd}
FILES = {
    "a.txt": "".join(TEXTS).encode(),
    "a.jsonl": ROWS,
    "a.json": json.dumps([{"text": text} for text in TEXTS], indent=1).encode(),
    "a.parquet": parquet(),
    **{f"a.jsonl{ending}": packed(ROWS) for ending, packed in PACKINGS.items()},
}


def read(path):
    return list(formats.documents([path], "text"))


@pytest.mark.parametrize("name", FILES)
def test_a_whole_file_is_read(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(FILES[name])
    assert read(path) == (["".join(TEXTS)] if name == "a.txt" else TEXTS)
    upper = tmp_path / name.upper()
    upper.write_bytes(FILES[name])
    assert read(upper) == read(path)


def error_of(path, raw):
    path.write_bytes(raw)
    with pytest.raises(ValueError) as error:
        read(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("ending", PACKINGS)
def test_a_cut_or_misnamed_packed_file_is_named(ending, tmp_path):
    path, whole = tmp_path / f"a.jsonl{ending}", FILES[f"a.jsonl{ending}"]
    for raw in (whole[: len(whole) // 2], whole[:-3], ROWS, FILES["a.jsonl.gz" if ending != ".gz" else "a.jsonl.xz"]):
        assert error_of(path, raw).startswith(f"{path}: not a {ending} file, or a damaged one (")
    assert error_of(tmp_path / "b.jsonl", whole).startswith(f"{tmp_path}/b.jsonl line 1: not ")
    (problem,) = check_dataset(Dataset(str(path)))
    assert problem.startswith(f"dataset: {path}: not a {ending} file")


def test_flipped_bytes_in_a_parquet_file_are_found_by_its_checksums(tmp_path):
    path, whole = tmp_path / "a.parquet", bytearray(FILES["a.parquet"])
    whole[whole.index(b"caf") + 1] ^= 1
    assert error_of(path, bytes(whole)).startswith(f"{path}: not a Parquet file, or a damaged one (")
    assert error_of(path, FILES["a.parquet"][:-40]).startswith(f"{path}: not a Parquet file, or a damaged one (")


@pytest.mark.parametrize("row", [b"Row 0: ", b"Row 10: "], ids=["the first page", "the last page"])
def test_a_flipped_parquet_file_is_one_line_before_the_sweep_begins(tmp_path, monkeypatch, row):
    monkeypatch.setenv("ATTNLAB_CACHE", str(tmp_path / "cache"))
    path, whole = tmp_path / "a.parquet", FILES["a.parquet"]
    path.write_bytes(whole.replace(row, b"Sow" + row[3:], 1))
    task = {"name": "text", "dataset": str(path), "tokenizer": "bytes", "seq_len": 32}
    with pytest.raises(UserError) as error:
        prepare_tasks(resolve({"name": "study", "trial": {"task": task}, "arms": {"a": {}}}))
    (line,) = error.value.problems
    assert f"{path}: not a Parquet file, or a damaged one (" in line


LINES = {
    "half of a surrogate pair": (b'{"text": "a\\ud83d"}', "column 'text' holds \\ud83d, half of a surrogate pair, at"),
    "no object": (b'["text"]', "a row is an object with columns, not list"),
    "no column": (b'{"body": "x"}', "no column 'text'; set `field` to one of: body"),
    "a number": (b'{"text": 5}', "column 'text' holds int, not text; set `field` to the text column"),
    "no UTF-8": ('{"text": "é"}'.encode("latin-1"), "not UTF-8 text (byte 10); convert it to UTF-8"),
    "no JSON": (b'{"text": "', "not JSON ("),
    "too deep": (b"[" * 100_000, "not JSON ("),
}


@pytest.mark.parametrize("name", LINES)
def test_a_row_that_is_no_text_is_named_with_its_file(name, tmp_path):
    line, says = LINES[name]
    path = tmp_path / "a.jsonl"
    assert error_of(path, b'{"text": "sound"}\n\n' + line + b"\n").startswith(f"{path} line 3: {says}")


def test_text_in_a_parquet_file_that_is_no_utf8_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    raw = pyarrow.array([b"fine", b"caf\xe9"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": raw}), path)
    with pytest.raises(ValueError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: rows 1 to 2: not UTF-8 text")


def test_rows_without_text_are_passed_over_and_counted(tmp_path, cache):
    texts = ["", None, "  \n", *TEXTS]
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    (tmp_path / "validation.jsonl").write_text('{"text": null}\n' + json.dumps({"text": "words to validate on " * 9}))
    source = open_dataset(Dataset(str(tmp_path)), cache)
    split = Split(source)
    assert list(split.train()) == TEXTS and len(split.validation()) == 1
    assert pack(source, Spec("bytes"), None, cache).meta["blank"] == {"train": 3, "validation": 1}
    task = build_task(TaskConfig(dataset=str(tmp_path), seq_len=32, tokenizer="bytes"), batch_size=2, seed=0)
    assert task.notes()[1:] == [
        f"dataset {tmp_path}: 3 train and 1 validation rows are null or blank and were passed over"
    ]


def saved(path):
    import datasets

    datasets.DatasetDict(
        {name: datasets.Dataset.from_dict({"text": TEXTS}) for name in ("train", "validation")}
    ).save_to_disk(str(path))
    return path


def test_a_saved_folder_is_validated_on_its_validation_split_and_damage_is_named(tmp_path, cache):
    source = open_dataset(Dataset(str(saved(tmp_path / "saved"))), cache)
    assert list(source.validation()) == TEXTS
    (file,) = (tmp_path / "saved/train").glob("*.arrow")
    raw = bytearray(file.read_bytes())
    raw[raw.index("é".encode())] = 0x41  # a lone continuation byte follows
    file.write_bytes(raw)
    with pytest.raises(ValueError, match=rf"^{file}: not an Arrow file, or a damaged one \(.*UTF8") as error:
        list(source.train())
    assert "\n" not in str(error.value)


@settings(max_examples=60)
@given(st.sampled_from(sorted(FILES)), st.floats(0, 1, exclude_max=True), st.integers(0, 255))
def test_any_changed_byte_gives_documents_or_one_line_with_the_files_name(tmp_path_factory, name, where, byte):
    raw = bytearray(FILES[name])
    raw[int(where * len(raw))] = byte
    path = tmp_path_factory.mktemp("changed") / name
    path.write_bytes(raw)
    try:
        texts = read(path)
    except ValueError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
    else:
        assert all(isinstance(text, str) and text.encode() is not None for text in texts)
        checked = name.endswith((".gz", ".xz"))  # .zst and Parquet's own pages carry no checksum unless asked to
        assert not checked or texts == TEXTS


@settings(max_examples=25)
@given(st.sampled_from(["data", "state", "info"]), st.floats(0, 1, exclude_max=True), st.integers(0, 255))
def test_any_changed_byte_of_a_saved_folder_gives_documents_or_one_line(tmp_path_factory, kind, where, byte):
    root = saved(tmp_path_factory.mktemp("changed") / "saved")
    glob = {"data": "train/*.arrow", "state": "train/state.json", "info": "train/dataset_info.json"}[kind]
    (file,) = root.glob(glob)
    raw = bytearray(file.read_bytes())
    raw[int(where * len(raw))] = byte
    file.write_bytes(raw)
    try:
        texts = list(formats.saved_documents(root, "train", "text"))
    except ValueError as error:
        assert str(root) in str(error) and "\n" not in str(error)
    else:
        assert all(isinstance(text, str) for text in texts)
