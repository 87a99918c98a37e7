"""A damaged tokenizer.json is one line, also where the library panics."""

import json
import os
import sys
from types import SimpleNamespace

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.data import backend
from attnlab.data.tokenizer import Spec, Tokenizer, load, train_bpe
from attnlab.util.errors import UserError

TREE = json.loads(train_bpe(["it is a truth universally acknowledged " * 9], 300).json)
PANICS = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
VALUES = [None, True, -1, 0, 2**31, 2**63, 1e308, "", "\ud800", "x" * 1000, [], {}, [[]], "Unigram", ["a", "b"], PANICS,
          {"type": "x"}, {"a": 2**32 - 1}]  # fmt: skip


def places(tree, path=()):
    """Where a value can be put in a tree: the first few of each level."""
    for key in list(tree)[:9] if isinstance(tree, dict) else range(min(len(tree), 9)) if isinstance(tree, list) else ():
        yield (*path, key)
        yield from places(tree[key], (*path, key))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(list(places(TREE))), st.sampled_from(VALUES), st.booleans())
def test_whatever_stands_in_the_file_it_works_or_is_one_line(path, value, gone):
    tree = json.loads(json.dumps(TREE))
    node = tree
    for key in path[:-1]:
        node = node[key]
    if gone:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    try:
        tokenizer = Tokenizer(json.dumps(tree), None, "mine")
        assert tokenizer.vocab_size > 0
        for ids in tokenizer.encode(["it is a truth", "\U0001f600 x"]):
            tokenizer.decode(ids)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1 and str(error).startswith("tokenizer mine: ")


def test_a_panics_page_is_kept_from_the_terminal_and_other_words_are_not(capfd):
    with pytest.raises(UserError, match="^it: Precompiled"):
        backend.build(json.dumps({**TREE, "normalizer": PANICS}), "it")
    assert capfd.readouterr().err == ""
    with backend.panics_unsaid():
        os.write(2, b"another thread's\n")
    assert capfd.readouterr().err == "another thread's\n"


def test_one_that_panics_on_any_text_does_so_without_its_page(capfd):
    never = {"type": "FixedLength", "length": 0}
    with pytest.raises(UserError, match="^it: chunk size must be non-zero$"):
        backend.build(json.dumps({**TREE, "pre_tokenizer": never}), "it")
    assert capfd.readouterr().err == ""


def test_one_that_panics_as_transformers_reads_it_is_one_line(tmp_path, monkeypatch, capfd):
    def convert(*args, **how):
        return tokenizers.Tokenizer.from_str(json.dumps({**TREE, "normalizer": PANICS}))

    auto = SimpleNamespace(AutoTokenizer=SimpleNamespace(from_pretrained=convert))
    monkeypatch.setitem(sys.modules, "transformers", auto)
    with pytest.raises(ValueError, match="^tokenizer .*: no local file or folder, .*Precompiled") as error:
        load(Spec(str(tmp_path)), tmp_path)
    assert len(str(error.value).splitlines()) == 1 and capfd.readouterr().err == ""


def test_one_that_lacks_letters_is_built():
    words = {"type": "WordLevel", "vocab": {"it": 0, "<|endoftext|>": 1}, "unk_token": "none"}
    assert backend.build(json.dumps({**TREE, "model": words, "pre_tokenizer": None, "added_tokens": []}), "it")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_is_no_mistake_of_the_librarys_passes_through(error):
    with pytest.raises(error), backend.refusing("it"):
        raise error
