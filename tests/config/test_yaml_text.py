"""Whatever a sweep file may say is read by YAML 1.2's rules and written so that it reads back equal."""

import json
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.config import sweep_file, yaml_text
from attnlab.config.sweep import Sweep
from attnlab.plan.load import load, read
from attnlab.util.errors import UserError

# what YAML 1.1 or 1.2 would take for something else, and what is hard to write
TRAPS = ["1e-3", "2024e10", "no", "on", "010", "0o10", "0x1F", "1_000", "12:30", "2020-01-01", "null", "~", "", " ",
         "=", "<<", "true", ".inf", ".nan", "-", "?", ":", "#", "a #b", "a: b", "'", '"', "\\", "\t", "\n", "a\n\n b ",
         "---", "...", "&a", "*a", "!a", "%a", "@", "`", "[", "{", "\x85", "\u2028", "\u2029", "\ufeff", "\x7f", "\x00",
         "é", "\N{GRINNING FACE}", "e\u0301", "hybrid[gla]", "x[/gla]", "a\xa0b", "x " * 90]  # fmt: skip
texts = st.sampled_from(TRAPS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | texts
finite = scalars.filter(lambda value: not isinstance(value, float) or math.isfinite(value))
trees = st.recursive(scalars, lambda t: st.lists(t, max_size=3) | st.dictionaries(texts, t, max_size=3), max_leaves=12)


@settings(deadline=None, max_examples=200)
@given(trees)
def test_what_is_written_reads_back_equal(tree):
    for layout in ({}, {"width": 120}, {"default_flow_style": True, "width": 1000}):
        assert repr(yaml_text.load(yaml_text.dump(tree, **layout))) == repr(tree)


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(texts, st.just({}), min_size=1, max_size=4), texts, texts, st.lists(finite, min_size=1), texts)
def test_a_sweep_that_is_written_reads_back_equal(arms, description, hypothesis, choices, key):
    choices = list({repr(c): c for c in choices}.values())
    space = {key: {"choice": choices}, "optim.lr": {"loguniform": [1e-5, 2e22]}}
    trial = {"task": {"name": "text", "dataset": description}, "optim": {"clip": None, "lr": 1e-17}}
    sweep = Sweep(name="1e-3", description=description, hypothesis=hypothesis, arms=arms, trial=trial,
                  search={"space": space, "metric": hypothesis})  # fmt: skip
    assert Sweep.model_validate(sweep_file.parse(sweep_file.dump(sweep), "t")) == sweep


@pytest.mark.parametrize("arm", [trap for trap in TRAPS if trap.strip() and trap.isprintable() and len(trap) < 90])
def test_an_arm_of_any_name_is_found_again_in_the_written_file(tmp_path, arm):
    file = tmp_path / "sweep.yaml"
    file.write_text(sweep_file.dump(Sweep(name="s", arms={arm: {"model.mixer": "gla"}})), encoding="utf-8")
    assert read(file).names == (arm,)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10), ("0o10", 8), ("0x1F", 31), ("-3", -3), ("1e-3", 0.001), ("1.", 1.0), (".5", 0.5), ("~", None),
        ("1_000", "1_000"), ("12:30", "12:30"), ("2020-13-45", "2020-13-45"), ("2026-11-28", "2026-11-28"),
        ("yes", "yes"), ("TRUE", True), ("0b1", "0b1"), ("=", "="), ("!!float 1", 1.0), ("!!str 1", "1"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text, value):
    assert repr(yaml_text.load(text)) == repr(value)


def test_keys_are_texts_as_they_stand():
    assert yaml_text.load("{1e-3: a, 010: b, no: c, null: d, 2020-01-01: e}") == {
        "1e-3": "a", "010": "b", "no": "c", "null": "d", "2020-01-01": "e"}  # fmt: skip


def test_merge_keys_merge_and_a_mappings_own_keys_come_first():
    text = "a: &a {x: 1, y: 1}\nb: &b {<<: *a, y: 2}\nc: {z: 3, <<: [*b, {x: 0, w: 4}]}"
    assert yaml_text.load(text)["b"] == {"x": 1, "y": 2}
    assert yaml_text.load(text)["c"] == {"x": 1, "y": 2, "z": 3, "w": 4}
    with pytest.raises(UserError, match="y: given twice, in lines 1 and 2"):
        yaml_text.load("b: {<<: {x: 1}, y: 1,\n y: 2}")


BOMB = "a0: &a0 [1, 1, 1, 1]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, 30))
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{f'*a{i - 1}, ' * 9}]}}\n" for i in range(1, 30))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("!!int abc", "!!int abc is not a whole number"),
        ("!!float x", "!!float x is not a number"),
        ("!!bool maybe", "!!bool maybe is not true or false"),
        ("!!python/object:os.system x", "is not known"),
        ("x: 1\nx: 2", "given twice, in lines 1 and 2"),
        ("[a]: 3", "a list as a key"),
        ("? {a: b}\n: c", "a mapping as a key"),
        ("a: &a [*a]", "an alias holds itself"),
        (BOMB, "more than 100,000 values"),
        ("[" * 5000, "nested deeper than 50"),
        ("\n".join("  " * i + "a:" for i in range(200)), "nested deeper than 50"),
        ("9" * 5000, "a number of 5,000 digits"),
        ("a: \x01", "0x01"),
        ("a: [1", "line 1"),
        ("a" * 1_000_001, "1,000,001 characters"),
    ],
)
def test_what_cannot_be_read_is_one_short_line(text, said):
    start = time.process_time()
    with pytest.raises(UserError) as error:
        yaml_text.load(text)
    (line,) = error.value.problems
    assert said in line and len(line) < 200 and line.isprintable()
    assert time.process_time() - start < 20


def test_a_bomb_of_merges_is_small():
    assert yaml_text.load(MERGED)["a29"] == {"x": 1}


GOOD = "name: s\ndescription: Zähl\narms: {a: {}}\n"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (GOOD.encode("latin-1"), "line 2: the byte 0xe4 is not UTF-8; save the file as UTF-8"),
        (GOOD.encode("utf-16"), "line 1: UTF-16 is not UTF-8; save the file as UTF-8"),
        (GOOD.encode("utf-16-le"), "UTF-8"),
        (GOOD.replace("ä", "a").encode("utf-16-be"), "0x00"),
    ],
)
def test_a_file_in_another_encoding_is_one_line(tmp_path, raw, said):
    file = tmp_path / "s.yaml"
    file.write_bytes(raw)
    with pytest.raises(UserError) as error:
        load(file)
    (line,) = error.value.problems
    assert line.startswith(str(file)) and said in line


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_bytes(GOOD.encode("utf-8-sig"))
    assert load(file).sweep.description == "Zähl"


@pytest.mark.parametrize("path", ["\0", "x" * 300, ".", "nowhere/x.yaml"])
def test_a_path_that_cannot_be_read_is_one_line(path):
    with pytest.raises(UserError) as error:
        load(path)
    assert len(error.value.problems) == 1


def test_a_surrogate_pair_is_one_character_as_in_json_and_a_lone_half_stays_one():
    assert yaml_text.load(r'{"\ud83d\ude00": "a\ud83d\ude00b"}') == {"\U0001f600": "a\U0001f600b"}
    assert yaml_text.load(r'["\ud83d", "\ude00\ud83d", "\ufeff\u00e9"]') == ["\ud83d", "\ude00\ud83d", "\ufeff\u00e9"]


@given(st.text(st.characters(exclude_categories=[])))
def test_what_json_writes_is_read_as_json_reads_it(text):
    assert yaml_text.load(json.dumps({"a": text})) == json.loads(json.dumps({"a": text}))
