"""A trial's end as Tune tells it: twice, or while the launcher is stopping. Without Ray's processes."""

import io
import signal
from types import SimpleNamespace

import jsonschema
import pytest
from optuna.trial import TrialState
from rich.console import Console

from attnlab.config.sweep_file import dump
from attnlab.records.mirror import Mirror
from attnlab.records.paths import SweepDir
from attnlab.records.reading import read_board
from attnlab.sweep.ui.callback import ProgressCallback
from attnlab.sweep.ui.progress import Progress
from attnlab.util.errors import Interrupted
from attnlab.util.files import read_json
from tests.contract import VERDICTS
from tests.sweep.search.test_searcher import end, start, sweep_of

PLAN = sweep_of()
UNTOLD = SimpleNamespace(on_trial_complete=lambda *args, **how: None)


@pytest.fixture
def sweep(tmp_path):
    """A sweep that runs: its folder, searcher and callback, and what signals have come."""
    folder = SweepDir(tmp_path / "study")
    search, board, came = start(PLAN, folder), Progress(PLAN), SimpleNamespace(came=0)
    board._console = Console(file=io.StringIO(), width=300)
    folder.sweep_file.write_text(dump(PLAN.sweep))
    callback = ProgressCallback(PLAN, Mirror(folder), search, board, {}, None, came, [])
    return SimpleNamespace(folder=folder, search=search, callback=callback, came=came, board=board)


def states(search, arm="a"):
    return [trial.state for trial in search.arms[arm].study.get_trials()]


@pytest.mark.parametrize("error", [False, True])
def test_a_trial_whose_end_is_told_twice_ends_once(sweep, error):
    config = sweep.search.suggest("0")
    trial = SimpleNamespace(config=config)
    end(sweep.folder, sweep.search, "0", config)
    sweep.callback.on_trial_complete(0, [], trial)
    (home,) = sweep.folder.trials()
    before, shown = home.results_file.read_bytes(), sweep.board._console.file.getvalue()
    sweep.search.on_trial_complete("0", {"error": "told again"}, error=error)
    (sweep.callback.on_trial_error if error else sweep.callback.on_trial_complete)(1, [], trial)
    assert sweep.board._console.file.getvalue() == shown and shown.count(config["job"]["trial_id"]) == 1
    assert home.results_file.read_bytes() == before and sweep.search.ended == 1
    assert states(sweep.search) == [TrialState.COMPLETE]


def test_the_end_of_a_trial_without_records_is_not_shown_however_often_it_is_told(sweep, monkeypatch):
    config = sweep.search.suggest("0")
    refused = OSError(28, "No space left on device", "somewhere")
    monkeypatch.setattr(sweep.search, "_end", lambda *args: (_ for _ in ()).throw(refused))
    for _ in range(2):
        sweep.search.on_trial_complete("0")
        sweep.callback.on_trial_complete(0, [], SimpleNamespace(config=config))
    assert sweep.board._console.file.getvalue() == ""
    with pytest.raises(OSError, match="No space left"):
        sweep.callback.on_step_end(0, [])


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("state", ["completed", "pruned", "diverged"])
def test_a_trial_that_ends_while_the_launcher_stops_has_ended(sweep, told, state):
    """Also where it ended after Tune was asked for the last time: the next session finds it, and trains it no more."""
    config = sweep.search.suggest("0")
    sweep.came.came = signal.SIGTERM
    end(sweep.folder, sweep.search if told else UNTOLD, "0", config, state)
    if told:
        sweep.callback.on_trial_complete(0, [], SimpleNamespace(config=config))
    with pytest.raises(Interrupted):
        sweep.callback.on_step_end(0, [])
    sweep.callback.write()  # as the sweep ends
    assert sum(read_board(sweep.folder.leaderboard_file)["arms"]["a"]["counts"].values()) >= told
    again = start(PLAN, sweep.folder)
    ended = {"completed": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "diverged": TrialState.FAIL}[state]
    assert again.ended == 1 and states(again) == [ended]
    assert again.suggest("1")["job"]["arm"] == "b", "the other arm's turn, and nothing is taken up again"


def test_the_verdicts_are_written_with_the_leaderboard_also_where_nothing_is_decided(sweep):
    end(sweep.folder, sweep.search, "0", sweep.search.suggest("0"))
    sweep.callback.write()
    board = read_json(sweep.folder.verdicts_file)
    jsonschema.validate(board, VERDICTS)
    assert [(arm["arm"], arm["n"], arm["rank"]) for arm in board["arms"]] == [("a", 0, None), ("b", 0, None)]
    ranked = read_board(sweep.folder.leaderboard_file)
    assert ranked["answer"].startswith("Undecided: no run outside the search") and ranked["not_worse"] == []
    assert {(row["rank"], row["interval"]) for row in ranked["arms"].values()} == {(None, None)}
