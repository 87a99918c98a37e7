"""Which files of a folder are trained on, validated on and left out."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.data.folders import divide
from attnlab.data.sources import Dataset, check_dataset, open_dataset


def lay_out(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        row = json.dumps({"text": f"the text of {name}"})
        path.write_text(row if ".json" in name.lower() else f"the text of {name}")
    return root


def divided(root, **settings):
    files = divide(root, **settings)
    return tuple([p.relative_to(root).as_posix() for p in each] for each in (files.train, files.validation))


HUB = ("README.md", ".gitattributes", "dataset_infos.json", ".cache/huggingface/download/README.md.metadata")
LAYOUTS = {
    "hub": (
        (*HUB, *(f"data/{s}-00000-of-00001.parquet" for s in ("train", "validation", "test")), "README.txt"),
        (["data/train-00000-of-00001.parquet"], ["data/validation-00000-of-00001.parquet"]),
    ),
    "TinyStories": (
        (
            *HUB, "TinyStories-train.txt", "TinyStories-valid.txt", "TinyStoriesV2-GPT4-train.txt",
            "TinyStoriesV2-GPT4-valid.txt", "TinyStories_all_data.tar.gz", "Evaluation prompts.yaml",
            "data/train-00000-of-00004-2d5a1467fff1081b.parquet", "data/train-00001-of-00004-5852b56a2bd28fd9.parquet",
            "data/validation-00000-of-00001-869c898b519ad725.parquet",
        ),
        (
            ["data/train-00000-of-00004-2d5a1467fff1081b.parquet",
             "data/train-00001-of-00004-5852b56a2bd28fd9.parquet"],
            ["data/validation-00000-of-00001-869c898b519ad725.parquet"],
        ),
    ),
    "TinyStories, texts": (
        ("TinyStories-train.txt", "TinyStories-valid.txt", "README.md"),
        (["TinyStories-train.txt"], ["TinyStories-valid.txt"]),
    ),
    "C4": (
        tuple(f"en/c4-{s}.{n}.json.gz" for s, n in
              (("train", "00000-of-01024"), ("train", "00001-of-01024"), ("validation", "00000-of-00008"))),
        (["en/c4-train.00000-of-01024.json.gz", "en/c4-train.00001-of-01024.json.gz"],
         ["en/c4-validation.00000-of-00008.json.gz"]),
    ),
    "folders": (
        ("train/a.txt", "train/b.txt", "dev/c.txt", "testing/d.txt", "e.txt"),
        (["train/a.txt", "train/b.txt"], ["dev/c.txt"]),
    ),
    "upper case": (("TRAIN.TXT", "Val.TXT", "TEST.TXT"), (["TRAIN.TXT"], ["Val.TXT"])),
    "no names": (("latest.txt", "strain.txt", "invalid.txt", "devote.txt"),
                 (["devote.txt", "invalid.txt", "latest.txt", "strain.txt"], [])),
    "only the others are named": (("a.txt", "b.txt", "test-1.txt", "valid.txt"), (["a.txt", "b.txt"], ["valid.txt"])),
    "test in train": (("train/a.txt", "train/test/b.txt", "train_test.txt"), (["train/a.txt"], [])),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_is_divided_by_its_names(name, tmp_path):
    files, wanted = LAYOUTS[name]
    assert divided(lay_out(tmp_path, *files)) == wanted


def test_one_line_says_what_is_read(tmp_path, cache):
    lay_out(tmp_path, *LAYOUTS["hub"][0][:-1], "notes.docx", "data/extra.bin")
    says = (
        "read 1 files as training, 1 as validation, 5 left out (README.md, data/extra.bin, "
        "data/test-00000-of-00001.parquet, ...)"
    )
    assert str(divide(tmp_path)) == says
    assert str(divide(lay_out(tmp_path / "own", "a.txt", "B.JSONL.bak", "b.txt"))) == (
        "read 2 files as training, none as validation (a part is held out), 1 left out (B.JSONL.bak)"
    )


def test_the_note_comes_with_the_source(tmp_path, cache):
    lay_out(tmp_path, "train.txt", "dev.txt", "test.txt")
    source = open_dataset(Dataset(str(tmp_path)), cache)
    assert source.note == f"dataset {tmp_path}: read 1 files as training, 1 as validation, 1 left out (test.txt)"
    assert [*source.train(), *source.validation()] == ["the text of train.txt", "the text of dev.txt"]


CONFIGS = ("en/c4-train.00000-of-00001.json.gz", "realnewslike/c4-train.00000-of-00001.json.gz")
AMBIGUOUS = {
    "configs": (
        CONFIGS,
        "config: {} has training files in several folders, 'en' and 'realnewslike': set config to the",
    ),
    "formats": (("a.txt", "b.parquet"), "files: the training files of {} have several formats (a.txt, b.parquet): set"),
    "twice": (("train.txt", "train.txt.gz"), "files: train.txt, train.txt.gz in {} are one training file twice: set"),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_is_ambiguous_is_refused_and_can_be_chosen(name, tmp_path):
    files, says = AMBIGUOUS[name]
    lay_out(tmp_path, *files)
    (problem,) = check_dataset(Dataset(str(tmp_path)))
    assert problem.startswith(says.format(tmp_path)) and "\n" not in problem
    assert divided(tmp_path, pattern="*") == (sorted(files), [])
    if name == "configs":
        assert divided(tmp_path, config="en") == ([CONFIGS[0]], [])
    else:
        assert divided(tmp_path, pattern=re.search(r'such as "(.*?)"', problem)[1])[0] in ([files[0]], [files[1]])


def test_mistakes_name_the_setting(tmp_path):
    lay_out(tmp_path, *CONFIGS)
    for given_settings, says in (
        ({"config": "eng"}, "config: {} has no config or folder 'eng' with data; did you mean 'en'?"),
        ({"files": "*.txt"}, "files: no data file in {} has a path like '*.txt'"),
        ({"config": "en", "validation": "val"}, "validation: {} has no files of split 'val'"),
        ({"config": "en", "split": "test"}, "split: {} has no files of split 'test'; one of: train"),
    ):
        (problem,) = check_dataset(Dataset(str(tmp_path), **given_settings))
        assert problem.startswith(says.format(tmp_path)) and "\n" not in problem


def test_splits_of_other_names_are_taken_when_asked_for(tmp_path):
    lay_out(tmp_path, *(f"data/{s}-00000-of-00001.parquet" for s in ("train_sft", "train_gen", "test_sft")))
    assert divided(tmp_path, split="train_sft", validation="test_sft") == (
        ["data/train_sft-00000-of-00001.parquet"], ["data/test_sft-00000-of-00001.parquet"],
    )  # fmt: skip
    with pytest.raises(ValueError, match="no files of split 'train'; did you mean 'train_sft'"):
        divide(tmp_path)


CARD = """---
license: mit
configs:
- config_name: whole
  data_files: "data/**/*.parquet"
- config_name: small
  data_files:
  - {split: test, path: sample/test/*}
  - {split: train, path: ["sample/**"]}
- config_name: other
  data_dir: other
---
# A dataset
"""


def test_the_card_of_a_folder_says_its_configs(tmp_path):
    small, whole = ["sample/0.parquet", "sample/1.parquet"], ["data/a/0.parquet", "data/b/0.parquet"]
    lay_out(tmp_path, *small, *whole, "sample/test/2.parquet", "other/train.txt", "other/dev.txt", "e.txt")
    (tmp_path / "README.md").write_text(CARD)
    with pytest.raises(
        ValueError, match="^config: the card of .* has several, 'whole', 'small' and 'other': set config"
    ):
        divide(tmp_path)
    assert divided(tmp_path, config="small") == (small, [])
    assert divided(tmp_path, config="small", validation="test") == (small, ["sample/test/2.parquet"])
    assert divided(tmp_path, config="whole") == (whole, [])
    assert divided(tmp_path, config="other") == (["other/train.txt"], ["other/dev.txt"])
    assert divided(tmp_path, pattern="data/a/*") == (["data/a/0.parquet"], [])
    (tmp_path / "README.md").write_text(CARD.replace("config_name: whole", "config_name: default"))
    assert divided(tmp_path) == (whole, [])


def test_the_one_config_that_was_downloaded_is_taken_and_a_page_that_is_no_card_is_none(tmp_path):
    lay_out(tmp_path, "sample/0.parquet", "sample/test/2.parquet")
    for text, train in ((CARD, ["sample/0.parquet"]), (CARD[:60], ["sample/0.parquet"]), ("---\n[\n---\n", None)):
        (tmp_path / "README.md").write_text(text)
        assert divided(tmp_path)[0] == train or train is None


WORDS = ("train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation")
SOME = st.lists(st.sampled_from([*WORDS, "data", "a", "Test", "00000-of-00001", "readme", "."]), min_size=1, max_size=3)
PART = SOME.flatmap(lambda words: st.sampled_from("-_. 1x").map(lambda mark: mark.join(words)))
NAME = st.tuples(st.lists(PART, max_size=2), PART, st.sampled_from([".txt", ".TXT", ".jsonl", ".txt.gz", ".md", ""]))
TEST = re.compile(r"(?<![a-z])(test|testing|eval|evaluation)(?![a-z])", re.I)


@settings(max_examples=120)
@given(st.lists(NAME, min_size=1, max_size=6), st.sampled_from([None, "*"]))
def test_any_folder_is_divided_whole_and_no_test_file_is_used(tmp_path_factory, names, pattern):
    root = tmp_path_factory.mktemp("any")
    for folders, stem, ending in names:
        path = root.joinpath(*(f for f in folders if f.strip(".")), stem + ending)
        if not (path.exists() or any(p.is_file() for p in path.parents)):
            lay_out(root, path.relative_to(root).as_posix())
    everything = sorted(path for path in root.rglob("*") if path.is_file())
    try:
        files = divide(root, pattern=pattern)
    except ValueError as error:
        assert "\n" not in str(error) and str(error).startswith(("dataset ", "split: ", "config: ", "files: "))
        return
    assert sorted([*files.train, *files.validation, *files.left_out]) == everything
    assert files.train and len({*files.train, *files.validation, *files.left_out}) == len(everything)
    for path in (*files.train, *files.validation):
        name = path.relative_to(root)
        sharded = name.parts[0] == "data" and len(name.parts) == 2 and "-of-" in name.name
        keyed = [part for part in name.parts[:-1] if re.search(rf"(?<![a-z])({'|'.join(WORDS)})(?![a-z])", part, re.I)]
        assert sharded or not any(TEST.search(part) for part in keyed or [name.name])


@pytest.mark.parametrize("name", ["hub", "TinyStories", "TinyStories, texts", "C4", "no names"])
def test_datasets_divides_them_the_same_way(name, tmp_path, monkeypatch):
    from datasets.data_files import DataFilesDict, get_data_patterns

    lay_out(tmp_path, *LAYOUTS[name][0])
    patterns = get_data_patterns(str(tmp_path))
    theirs = DataFilesDict.from_patterns(patterns, base_path=str(tmp_path))
    train, validation = LAYOUTS[name][1]
    for split, files in (("train", train), ("validation", validation)):
        found = [Path(file).relative_to(tmp_path).as_posix() for file in theirs.get(split, ())]
        left = ("README", "dataset_infos")  # they read a .txt of this name as data
        assert sorted(f for f in found if not f.startswith(left)) == files


CONFIGS_OF = "configs:\n- config_name: en\n  data_files: train.txt\n"


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("---\nconfigs: [\n---\n", "line 3: "),
        ("---\na: b: c\n---\n", "line 2: mapping values are not allowed here"),
        (f"---\n{CONFIGS_OF}# A corpus\n", "its front matter has no end, a line ---"),
        ("---\nconfigs: 3\n---\n", "configs: not as huggingface.co"),
        ("---\nconfigs: [3]\n---\n", "configs: not as huggingface.co"),
        ("---\nreleased: 2020-13-45\n---\n", "month must be in 1..12"),
        (b"---\nauthor: \xe9\n---\n", "it is not UTF-8"),
        (f"---\na: {'[' * 5000}\n---\n", "it is nested too deeply"),
    ],
)
def test_a_card_that_cannot_be_read_is_said_and_names_decide(tmp_path, card, said):
    (lay_out(tmp_path, "train.txt", "dev.txt") / "README.md").write_bytes(
        card if isinstance(card, bytes) else card.encode()
    )
    line = str(divide(tmp_path))
    assert line.startswith("read 1 files as training, 1 as validation, ") and "\n" not in line
    assert f"; its README.md is no card ({said}" in line and line.endswith("), so names decide")


@pytest.mark.parametrize(
    "page", ["# A corpus\n", "---\n\nA page.\n", "---\nlicense: mit\n---\n", f"---\n{CONFIGS_OF}---\n"]
)
def test_a_page_and_a_sound_card_say_nothing(tmp_path, page):
    (lay_out(tmp_path, "train.txt", "dev.txt") / "README.md").write_text(page)
    assert "card" not in str(divide(tmp_path))
