import json
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from attnlab.data import packed as packed_module
from attnlab.data.packed import Packed, pack, pieces
from attnlab.data.sources import Dataset, open_dataset
from attnlab.data.splits import Split
from attnlab.data.tokenizer import Spec

BYTES = Spec("bytes")
BUILD = """
import sys, time
from pathlib import Path
from attnlab.data import packed
from attnlab.data.sources import Dataset, open_dataset
from attnlab.data.tokenizer import Spec
if len(sys.argv) > 3:
    inner = packed.unigram_loss
    packed.unigram_loss = lambda *a: (print("late", flush=True), time.sleep(3600), inner(*a))
cache = Path(sys.argv[2])
print(packed.pack(open_dataset(Dataset(sys.argv[1]), cache), Spec("bpe", 300), None, cache).path)
"""


def build(dataset, cache, *more):
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(dataset), str(cache), *more], stdout=subprocess.PIPE, text=True
    )


def packed_of(dataset, cache, spec=BYTES, max_tokens=None):
    return pack(open_dataset(dataset, cache), spec, max_tokens, cache)


def stream(documents):
    return b"".join(d.encode() + b"\0" for d in documents)


@pytest.mark.parametrize("spec", [Spec("bytes"), Spec("bpe", 300)])
def test_tokens_are_the_documents_in_order(spec, jsonl, cache):
    split = Split(open_dataset(Dataset(str(jsonl)), cache))
    wanted = {"train": list(split.train()), "validation": split.validation()}
    packed = packed_of(Dataset(str(jsonl)), cache, spec)
    for name, documents in wanted.items():
        tokens = getattr(packed, name)
        assert tokens.dtype == np.uint16 and len(tokens) == packed.meta[name]["tokens"]
        parts = np.split(tokens, np.flatnonzero(tokens == packed.meta["eos_id"]) + 1)
        assert len(parts.pop()) == 0
        assert [packed.tokenizer.decode(p[:-1]) for p in parts] == documents
        assert packed.meta[name]["documents"] == len(documents)
        assert packed.meta[name]["bytes"] == sum(len(d.encode()) for d in documents)


def test_wide_vocabularies_take_four_bytes(jsonl, cache, monkeypatch):
    from attnlab.data.tokenizer import ByteTokenizer

    monkeypatch.setattr(ByteTokenizer, "vocab_size", 65537)
    assert packed_of(Dataset(str(jsonl)), cache).train.dtype == np.uint32


def test_unigram_loss_against_a_direct_computation(jsonl, cache):
    packed = packed_of(Dataset(str(jsonl)), cache, Spec("bpe", 300))
    seen, v = Counter(packed.train.tolist()), packed.meta["vocab_size"]
    losses = [-math.log((seen[t] + 1) / (len(packed.train) + v)) for t in packed.validation.tolist()]
    assert packed.meta["unigram_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-12)


def test_max_tokens_is_exact_and_leaves_validation_alone(jsonl, cache):
    whole, part = packed_of(Dataset(str(jsonl)), cache), packed_of(Dataset(str(jsonl)), cache, max_tokens=1000)
    assert part.path != whole.path and len(part.train) == 1000 and part.meta["train"]["tokens"] == 1000
    assert (part.train == whole.train[:1000]).all() and (part.validation == whole.validation).all()


def test_the_bpe_sees_no_validation_text(tmp_path, cache):
    (tmp_path / "train.txt").write_text("plain words and nothing else " * 200)
    (tmp_path / "validation.txt").write_text("zyzzyva " * 2000)
    packed = packed_of(Dataset(str(tmp_path), validation="validation"), cache, Spec("bpe", 300))
    assert "zy" not in json.loads(packed.tokenizer_json)["model"]["vocab"]


def test_a_long_document_joins_from_its_pieces(monkeypatch):
    monkeypatch.setattr(packed_module, "PIECE_CHARS", 50)
    for text in ("a line\n" * 100, "no line " * 100, "x" * 49 + "\n" + "y" * 200, ""):
        parts = list(pieces(text))
        assert "".join(parts) == text and all(len(p) <= 50 for p in parts)


def test_four_racing_processes_make_one_cache(jsonl, tmp_path):
    caches = tmp_path / "raced", tmp_path / "alone"
    racing = [build(jsonl, caches[0]) for _ in range(4)]
    paths = {process.communicate(timeout=600)[0].strip() for process in racing}
    assert len(paths) == 1 and all(process.returncode == 0 for process in racing)
    alone = build(jsonl, caches[1])
    paths |= {alone.communicate(timeout=600)[0].strip()}
    raced, single = sorted(map(Path, paths), key=lambda p: "alone" in str(p))
    assert [p.name for p in (caches[0] / "packed").iterdir() if p.is_dir()] == [raced.name] == [single.name]
    for file in ("meta.json", "tokenizer.json", "train.bin", "validation.bin"):
        assert (raced / file).read_bytes() == (single / file).read_bytes()


def test_a_build_killed_midway_leaves_no_half_cache(jsonl, tmp_path):
    cache = tmp_path / "killed"
    process = build(jsonl, cache, "slowly")
    assert process.stdout.readline() == "late\n"  # the tokens are written, the folder is not yet in place
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    left = [p.name for p in (cache / "packed").iterdir() if p.is_dir()]
    assert len(left) == 1 and ".tmp-" in left[0]
    packed = packed_of(Dataset(str(jsonl)), cache, Spec("bpe", 300))  # not held up by the dead process's lock
    assert [p for p in (cache / "packed").iterdir() if p.is_dir()] == [packed.path]


def test_a_failed_build_leaves_nothing(tmp_path, cache):
    (tmp_path / "blank.txt").write_text(" \n" * 50)
    with pytest.raises(ValueError, match="the train split has no text"):
        packed_of(Dataset(str(tmp_path / "blank.txt")), cache)
    assert not [p for p in (cache / "packed").iterdir() if p.is_dir()]


def test_a_finished_cache_is_opened_without_lock_or_source(jsonl, cache, monkeypatch):
    first = packed_of(Dataset(str(jsonl)), cache)
    monkeypatch.setattr(packed_module, "_build_once", None)  # calling it would fail
    assert packed_of(Dataset(str(jsonl)), cache) == Packed(first.path)


def test_austen(cache):
    source = open_dataset(Dataset(), cache)
    train, validation = list(source.train()), list(source.validation())
    assert len(train) == 5 and len(validation) == 1 and validation[0].startswith("Persuasion")
    packed = packed_of(Dataset(), cache)
    assert packed.meta["train"]["documents"] == 5
    assert bytes(packed.validation[:-1].astype(np.uint8)) == validation[0].encode()
    kept = {validation[0][i : i + 200] for i in range(0, len(validation[0]) - 200, 200)}
    assert not any(window in novel for novel in train for window in list(kept)[:200])
