"""The run that a search selected is never among those that confirm it."""

import pytest
import yaml

from attnlab.config.resolved import Plan
from attnlab.config.sweep import Sweep
from attnlab.config.sweep_file import dump
from attnlab.config.values import MOST
from attnlab.plan import dry_run
from attnlab.plan.extension import planned_trials
from attnlab.plan.load import read, resolve
from attnlab.plan.seeds import with_own_seeds
from attnlab.ranking.candidates import confirmed_values
from attnlab.records.paths import SweepDir
from attnlab.sweep import engine
from attnlab.util.errors import UserError
from tests.test_fixture_of_before import FOLDER

TREE = {
    "name": "s",
    "trial": {"train": {"max_steps": 8, "eval_every": 2}},
    "arms": {"a": {"model": {"mixer": "gla"}}, "b": {"model": {"mixer": "standard"}}},
    "search": {"space": {"optim.lr": {"loguniform": [1e-4, 1e-1]}}, "trials": 3},
}


def plan_of(seeds, own=(0, 0), **changes):
    arms = {arm: {**tree, "train": {"seed": seed}} for (arm, tree), seed in zip(TREE["arms"].items(), own, strict=True)}
    return resolve({**TREE, "arms": arms, "confirm": {"seeds": list(seeds)}, **changes})


@pytest.mark.parametrize(
    ("given", "own", "wanted"),
    [
        ([0, 1, 2], (0, 0), (3, 1, 2)),
        ([1, 2], (0, 0), (1, 2)),
        ([0], (0, 0), (1,)),
        ([0, 1, 2], (0, 1), (3, 4, 2)),  # arms keep their seeds in common
        ([5, 7], (7, 5), (6, 8)),
        ([MOST], (MOST, MOST), (0,)),
        ([MOST, 0], (MOST, 3), (1, 0)),
    ],
)
def test_a_seed_equal_to_the_searchs_is_replaced_by_the_next_free_one(given, own, wanted):
    plan = plan_of(given, own)
    assert plan.seeds == wanted and not set(plan.seeds) & set(own)
    assert plan.total_trials == 2 * (3 + len(given)), "the cost is that of before"
    assert len(plan.notes) == (wanted != tuple(given))
    assert with_own_seeds(plan).seeds == wanted, "once"
    assert plan.only(["b"]).seeds == wanted and plan.only(["b"]).notes == plan.notes


def test_a_replaced_seed_is_told_in_a_line():
    assert plan_of([0, 1, 2]).notes == (
        "confirm.seeds: 0 is the search's own (train.seed), so 3 takes its place: no run confirms itself",
    )
    assert (
        "0 and 1 are the search's own (train.seed), so 3 and 4 take their place" in plan_of([0, 1, 2], (0, 1)).notes[0]
    )


def test_without_a_search_nothing_is_selected_and_no_seed_replaced():
    plan = resolve({**{key: value for key, value in TREE.items() if key != "search"}, "confirm": {"seeds": [0, 1]}})
    assert plan.seeds == (0, 1) and not plan.notes
    assert plan_of([0, 1]).sweep.confirm and not resolve(TREE).notes


def test_a_tiny_sweep_has_seeds_apart_too():
    assert plan_of([0, 1, 2]).notes and resolve({**TREE, "confirm": {"seeds": [0, 1, 2]}}, scale="tiny").seeds == (2, 1)


def test_a_folder_whose_confirm_runs_had_the_searchs_seed_is_read_as_before_and_gets_no_run_more(tmp_path):
    """The folder of before as if its confirm runs had used the search's seed, 3, besides 8."""
    tree = yaml.safe_load((FOLDER / "sweep.yaml").read_text())
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({**tree, "confirm": {**tree["confirm"], "seeds": [3, 8]}}))
    old, was, results = read(path), read(FOLDER / "sweep.yaml"), SweepDir(FOLDER).results()
    assert old.seeds == (3, 8) and with_own_seeds(old).seeds == (4, 8), "a new one is another matter"
    resumed = with_own_seeds(old, folder=old)
    assert resumed.seeds == (3, 8) and not resumed.notes
    assert planned_trials(resumed, results) == planned_trials(was, results)
    for arm in was.names:
        runs = [r for r in results if r["arm"] == arm]
        assert confirmed_values(resumed, runs) == confirmed_values(was, runs)


def test_a_sweep_begun_with_replaced_seeds_keeps_them_when_it_is_resumed_and_grows(tmp_path):
    folder = SweepDir(tmp_path / "s")
    folder.path.mkdir()
    folder.sweep_file.write_text(dump(plan_of([0, 1]).sweep))
    assert read(folder.sweep_file).seeds == (2, 1)
    for given, wanted in (([0, 1], (2, 1)), ([0, 1, 2], (3, 1, 2)), ([0, 1, 3], (2, 1, 3))):
        tree = {**TREE, "confirm": {"seeds": given}}
        assert resolve(tree, resume_in=tmp_path).seeds == wanted
        assert {2, 1} <= set(wanted), "what has run still counts"


def test_a_folder_of_before_is_resumed_with_its_seeds(tmp_path):
    """Else a finished sweep would get a run more."""
    folder = SweepDir(tmp_path / "s")
    folder.path.mkdir()
    folder.sweep_file.write_text(dump(Plan.of(Sweep.model_validate({**TREE, "confirm": {"seeds": [0, 1]}})).sweep))
    for given in ([0, 1], [0, 1, 2]):
        plan = resolve({**TREE, "confirm": {"seeds": given}}, resume_in=tmp_path)
        assert plan.seeds == tuple(given) and not plan.notes
    assert resolve({**TREE, "confirm": {"seeds": [0, 1]}}).seeds == (2, 1)


def test_the_line_stands_in_the_dry_run_and_at_the_start(tiny, tmp_path, capsys, monkeypatch):
    arms = {"a": {"train": {"seed": 0}}}
    plan = resolve({**TREE, "trial": tiny, "arms": arms, "confirm": {"seeds": [0, 1]}, "claims": ["a < 3"]})
    dry_run.show(plan)
    shown = capsys.readouterr().out.splitlines()
    assert shown.count(plan.notes[0]) == 1 and "claim: a < 3" in shown

    def refuse(plan, room):
        raise UserError("no room")

    monkeypatch.setattr(engine.memory, "check", refuse)
    with pytest.raises(UserError, match="no room"):
        engine.run(plan, tmp_path)
    assert capsys.readouterr().out.splitlines() == [*plan.notes]
