import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from attnlab.data.tokenizer import EOS, ByteTokenizer, Spec, byte_alphabet, load, lost_text, train_bpe

TEXT = [
    "It is a truth universally acknowledged, that a single man",
    "in possession of a good fortune, must be in want " * 9,
]
BPE = train_bpe(TEXT, 300)
BYTES = ByteTokenizer()
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@settings(max_examples=150)
@given(ANY)
def test_any_text_comes_back(text):
    for tokenizer in (BPE, BYTES):
        (ids,) = tokenizer.encode([text])
        assert tokenizer.decode(ids) == text
        assert (ids < tokenizer.vocab_size).all() and tokenizer.eos_id not in ids


@settings(max_examples=50)
@given(ANY)
def test_bytes_are_the_bytes_and_the_exported_file_agrees(text):
    (ids,) = BYTES.encode([text])
    assert bytes(ids.astype(np.uint8)) == text.encode()
    assert Backend.from_str(BYTES.json).encode(text, add_special_tokens=False).ids == ids.tolist()


def test_text_that_spells_the_separator_stays_text():
    for tokenizer in (BPE, BYTES):
        (ids,) = tokenizer.encode([f"a{EOS}b"])
        assert tokenizer.eos_id not in ids and tokenizer.decode(ids) == f"a{EOS}b"


def test_vocabularies():
    assert BYTES.vocab_size == 257 and BYTES.eos_id == 256
    assert BPE.vocab_size == 300 and len(set(byte_alphabet())) == 256


def test_training_is_deterministic():
    assert train_bpe(TEXT, 300).json == BPE.json


def test_a_local_file_and_a_local_folder(tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_text(BPE.json)
    assert load(Spec.parse(str(file)), tmp_path).json == BPE.json
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": EOS}}))
    assert load(Spec.parse(str(tmp_path)), tmp_path).eos_id == BPE.eos_id


def test_padding_and_truncation_of_a_published_file_are_switched_off(tmp_path):
    backend = Backend.from_str(BPE.json)
    backend.enable_truncation(3)
    backend.enable_padding(length=8)
    backend.save(str(tmp_path / "tokenizer.json"))
    loaded = load(Spec.parse(str(tmp_path / "tokenizer.json")), tmp_path)
    assert loaded.decode(loaded.encode([TEXT[0]])[0]) == TEXT[0]


@pytest.mark.parametrize(
    ("form", "size", "says"),
    [
        ("bytez", None, "tokenizer: no 'bytez'; did you mean 'bytes'?"),
        ("nowhere/tokenizer.json", None, "tokenizer: no file nowhere/tokenizer.json"),
        ("bpe", 100, "vocab_size: a byte-level BPE needs at least 257, not 100"),
        ("bytes", 300, "vocab_size: only tokenizer bpe is trained to a size; bytes has its own"),
        ({"name": "bpe", "vocab_sise": 300}, None, "tokenizer.vocab_sise: unknown key; did you mean 'vocab_size'?"),
        ({"name": "bpe", "vocab_size": "big"}, None, "tokenizer.vocab_size: a whole number, not 'big'"),
        ({"vocab_size": 300}, 300, "vocab_size: said twice"),
        ({"name": "bytes", "revision": "main"}, None, "tokenizer.revision: bytes is local"),
    ],
)
def test_mistakes(form, size, says):
    with pytest.raises(ValueError) as error:
        Spec.parse(form, size)
    assert str(error.value).startswith(says) and "\n" not in str(error.value)


def test_a_hub_tokenizer_that_cannot_be_had(tmp_path):
    with pytest.raises(
        ValueError, match="^tokenizer nobody/nothing: no local file or folder, and not to be had"
    ) as error:
        load(Spec.parse("nobody/nothing"), tmp_path)
    assert "\n" not in str(error.value)


def test_no_tokenizer_in_the_file_and_no_separator(tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_text("{}")
    with pytest.raises(ValueError, match="no tokenizer.json"):
        load(Spec.parse(str(file)), tmp_path)
    for path in (file, tmp_path):
        file.write_bytes(b"\xff\xfe{}")
        with pytest.raises(ValueError, match=f"tokenizer {path}: no tokenizer.json: not UTF-8 text"):
            load(Spec.parse(str(path)), tmp_path)
    file.write_text(BPE.json.replace(EOS, "<|else|>"))
    with pytest.raises(ValueError, match="no end-of-document token"):
        load(Spec.parse(str(file)), tmp_path)


@pytest.mark.parametrize(
    "lost, shown",
    [(1.0, "100.0"), (0.12399, "12.3"), (0.001, "0.1"), (0.0009, "0.09"), (0.00001, "0.001"), (2.99e-7, "0.00002")],
)
def test_a_small_share_of_lost_text_is_told_as_the_least_that_it_is(lost, shown):
    assert lost_text(lost, "the text") == f"at least {shown}% of the text's characters do not"


def test_text_in_another_order_has_no_share():
    assert lost_text(0.0, "the text") == "the text does not"
