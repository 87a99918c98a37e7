"""What is expected of a sweep is written down once, before its first trial, and later changes are told."""

import json

import pytest

from attnlab.config.sweep_file import dump, normal
from attnlab.plan.load import resolve
from attnlab.plan.preregistration import changed_since, preregister, registered
from attnlab.records.mirror import Mirror
from attnlab.records.paths import SweepDir
from attnlab.sweep.folder import changes, restate
from attnlab.sweep.preflight import undone_for_mistakes
from attnlab.util.errors import UserError
from attnlab.util.files import write_text

TREE = {
    "name": "s",
    "hypothesis": "Gates help.",
    "claims": ["gla < standard by 1%"],
    "sesoi": 0.01,
    "baseline": "standard",
    "trial": {"train": {"max_steps": 8, "eval_every": 2}},
    "arms": {
        "gla": {"model.mixer": "gla", "search": {"space": {"optim.weight_decay": {"choice": [0.0, 0.1]}}}},
        "standard": {"model.mixer": "standard"},
    },
    "search": {"space": {"optim.lr": {"loguniform": [1e-4, 1e-1]}}, "trials": 3, "extend": 2},
    "confirm": {"seeds": [0, 1, 2]},
}


def plan_of(**keys):
    return resolve(normal({**TREE, **keys}))


@pytest.fixture
def mirror(tmp_path):
    return Mirror(SweepDir(tmp_path / "s"))


def test_what_is_expected_is_written_once_with_a_digest_of_all_but_the_date(mirror):
    plan = plan_of()
    preregister(plan, mirror)
    path = mirror.folder.preregistration_file
    held = json.loads(path.read_text())
    keys = "date digest hypothesis claims metric mode sesoi baseline ranges seeds trials test"
    assert list(held) == keys.split()
    assert held["date"].endswith("+00:00") and len(held["digest"]) == 64
    assert (held["claims"], held["hypothesis"]) == (TREE["claims"], "Gates help.")
    assert (held["metric"], held["mode"], held["sesoi"], held["baseline"]) == ("val_loss", "min", 0.01, "standard")
    assert held["ranges"]["standard"] == {"optim.lr": {"loguniform": [1e-4, 1e-1]}}
    assert list(held["ranges"]["gla"]) == ["optim.lr", "optim.weight_decay"]
    assert held["seeds"] == [3, 1, 2] and held["trials"] == {"search": 3, "extend": 2}
    assert all(word in held["test"] for word in ("Tukey", "5%", "standard (Dunnett)", "within 0.01"))
    before = path.read_bytes()
    preregister(plan_of(hypothesis="Gates harm."), mirror)
    assert path.read_bytes() == before, "never rewritten"
    assert registered(mirror.folder) == held and changed_since(held, plan) == []


def test_the_digest_is_of_what_is_said_and_not_of_when(tmp_path):
    held = []
    for name, keys in (("1", {}), ("2", {}), ("3", {"sesoi": 0.02})):
        mirror = Mirror(SweepDir(tmp_path / name))
        preregister(plan_of(**keys), mirror)
        held.append(registered(mirror.folder)["digest"])
    assert held[0] == held[1] != held[2]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"hypothesis": "Gates harm."}, ["hypothesis was 'Gates help.' and is now 'Gates harm.'."]),
        (
            {"claims": ["gla < standard by 2%"]},
            ["The claim 'gla < standard by 2%' was added.", "The claim 'gla < standard by 1%' was taken back."],
        ),
        ({"sesoi": None}, ["sesoi was 0.01 and is now not given."]),
        ({"baseline": "gla"}, ["baseline was 'standard' and is now 'gla'."]),
        ({"confirm": {"seeds": [1, 2]}}, ["seeds was [3, 1, 2] and is now [1, 2]."]),
        ({"arms": {**TREE["arms"], "retnet": {"model.mixer": "retnet"}}}, ["Arms were added: retnet."]),
        (
            {"search": {**TREE["search"], "trials": 4}},
            ["trials was {'search': 3, 'extend': 2} and is now {'search': 4,"],
        ),
    ],
)
def test_what_is_changed_when_a_sweep_is_resumed_is_allowed_and_told(mirror, keys, said):
    preregister(plan_of(), mirror)
    new = plan_of(**keys)
    assert changes(plan_of(), new) == [], "it may be resumed"
    found = changed_since(registered(mirror.folder), new)
    assert [line.startswith(text) for line, text in zip(found, said, strict=True)] == [True] * len(said), found


def test_a_sweep_begun_in_parts_is_registered_whole_and_its_parts_change_nothing(mirror):
    part = plan_of().only(["gla"])
    preregister(part, mirror)
    held = registered(mirror.folder)
    assert (
        held["claims"] == TREE["claims"]
        and held["baseline"] == "standard"
        and list(held["ranges"]) == list(TREE["arms"])
    )
    read_again = resolve(normal({**TREE, "arms": {"gla": TREE["arms"]["gla"]}, "claims": [], "baseline": None}))
    assert changed_since(held, read_again) == ["Arms that were preregistered are not in it: standard."]


def test_a_sweep_of_which_trials_have_begun_is_not_registered_any_more(mirror):
    write_text(mirror.folder.trial("gla", "t000-0123456789").config_file, "{}")
    preregister(plan_of(), mirror)
    assert not mirror.folder.preregistration_file.exists() and registered(mirror.folder) is None


@pytest.mark.parametrize(
    "text", ["{", "[]", '"x"', '{"date": 3}', "[" * 100_000], ids=["cut", "list", "text", "other", "deep"]
)
def test_a_damaged_one_is_one_line(mirror, text):
    write_text(mirror.folder.preregistration_file, text)
    with pytest.raises(UserError) as error:
        registered(mirror.folder)
    assert "preregistration.json: " in str(error.value) and len(error.value.problems) == 1


def test_one_that_was_edited_is_told(mirror):
    preregister(plan_of(), mirror)
    path = mirror.folder.preregistration_file
    path.write_text(path.read_text().replace("Gates help.", "Gates hurt."))
    with pytest.raises(UserError, match="its digest is not that of what it holds, so it was changed afterwards"):
        registered(mirror.folder)


def test_a_refused_sweep_leaves_none_and_a_refused_resume_keeps_it(mirror):
    with pytest.raises(UserError), undone_for_mistakes(mirror):
        preregister(plan_of(), mirror)
        raise UserError("no")
    assert not mirror.folder.path.exists()
    preregister(plan_of(), mirror)
    with pytest.raises(UserError), undone_for_mistakes(mirror):
        raise UserError("no")
    assert mirror.folder.preregistration_file.exists()


def test_a_sweep_that_has_ended_takes_what_is_asked_of_it_now(mirror):
    restate(plan_of(), mirror)
    assert not mirror.folder.sweep_file.exists()
    write_text(mirror.folder.sweep_file, dump(plan_of().sweep))
    new = plan_of(sesoi=0.05, claims=[], resources={"max_failures": 7})
    restate(new, mirror)
    said = mirror.folder.sweep_file.read_text()
    assert "sesoi: 0.05" in said and "max_failures: 7" not in said and "gla < standard" not in said
