"""What the terminal shows beside the table: warnings at the start, edges and the noise floor as they come."""

import io

from rich.console import Console

from attnlab.plan.extension import leaderboard
from attnlab.ranking.leaderboard import notes
from attnlab.records.paths import SweepDir
from attnlab.records.results import Job
from attnlab.sweep.ui.progress import Progress
from tests.sweep.search.test_extension import play
from tests.sweep.search.test_searcher import sweep_of

FOUND = {"warnings": ["params: arms differ"], "no_op": {"unsure": ["c: not compared"]}}


def results_of(search):
    return [r for arm in search.arms.values() for r in arm.ended.values()]


def lines_of(board):
    return [line for line in board._console.file.getvalue().splitlines() if line.startswith("note: ")]


def test_edges_are_said_while_it_runs_and_each_line_once(tmp_path):
    plan = sweep_of(search={"space": {"optim.lr": {"choice": [0.001, 0.01, 0.1]}}, "trials": 3})
    found = results_of(play(SweepDir(tmp_path / "study"), plan, lambda job: job["settings"]["optim.lr"]))
    board = Progress(plan)
    board._console = Console(file=io.StringIO(), width=300)
    board.note(notes(leaderboard(plan, [], {}, FOUND)))
    assert lines_of(board) == ["note: warning: params: arms differ", "note: unsure: c: not compared"]
    for _ in range(3):
        board._next = 0.0
        board.update(len(found), lambda: leaderboard(plan, found, {}, FOUND))
    assert len(lines_of(board)) == 4 and "a: its best optim.lr, 0.001, lies at the lower edge" in lines_of(board)[2]


def test_in_a_terminal_they_stand_below_the_table(tmp_path):
    plan = sweep_of(search={"space": {"optim.lr": {"choice": [0.001, 0.01, 0.1]}}, "trials": 3})
    found = results_of(play(SweepDir(tmp_path / "study"), plan, lambda job: job["settings"]["optim.lr"]))
    board = Progress(plan)
    console = Console(file=io.StringIO(), width=300, force_terminal=True)

    class Live:
        def update(self, group):
            console.print(group)

    board._live = Live()
    board.began(Job.make("a", 0, plan.arm("a").trial))
    board.update(len(found), lambda: leaderboard(plan, found, {}, FOUND))
    shown = console.file.getvalue()
    assert "warning: params: arms differ" in shown and "lies at the lower edge" in shown
