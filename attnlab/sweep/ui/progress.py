"""The sweep as it runs, in the terminal: one row per arm. Plain lines where the output is no terminal."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from attnlab.config.resolved import Plan
from attnlab.plan.extension import leaderboard
from attnlab.ranking.leaderboard import notes
from attnlab.records.results import Job
from attnlab.util.text import last_line, settings_text, value_text

PLAIN_EVERY_S = 20.0
LIVE_EVERY_S = 0.5
SHARE = 0.05  # of the driver's time that drawing may take


def span(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


def table(
    board: Mapping[str, Any], running: Mapping[str, int] | None = None, speeds: Mapping[str, float] | None = None
) -> Table:
    """A leaderboard (see `standings`) as a table; with what runs now where that is known."""
    low = "lower is better" if board["mode"] == "min" else "higher is better"
    out = Table(title=f"{board['sweep']}: {board['metric']} ({low})", title_justify="left", header_style="bold")
    out.add_column("arm", no_wrap=True)
    for name in ("done", "pruned", "diverged", "failed", *(("running",) if running is not None else ())):
        out.add_column(name, justify="right")
    out.add_column("best", justify="right")
    out.add_column("at", overflow="fold")
    if any(row["confirm"] for row in board["arms"].values()):
        out.add_column("seeds: mean (n)", justify="right")
    out.add_column("tokens/s", justify="right")
    for arm in board["ranking"]:
        row = board["arms"][arm]
        counts, best, confirm = row["counts"], row["best"], row["confirm"]
        cells = [str(counts[s]) for s in ("completed", "pruned", "diverged", "failed")]
        cells += [str(running.get(arm, 0))] if running is not None else []
        cells += [value_text(best and best["value"]), settings_text(best["settings"]) if best else "-"]
        if any(other["confirm"] for other in board["arms"].values()):
            cells.append(f"{confirm['mean']:.4f} ({confirm['n']})" if confirm else "-")
        speed = (speeds or {}).get(arm) or (row["tokens"] / row["seconds"] if row["seconds"] else 0)
        out.add_row(arm, *cells, f"{speed:,.0f}" if speed else "-")
    for name, value in board["baselines"].items():
        if board["metric"].removeprefix("val_") in name:
            out.add_row(
                Text(f"[{name}]", style="dim"), *[""] * (4 + (running is not None)), Text(f"{value:.4f}", style="dim")
            )
    return out


def say(lines: Iterable[str], console: Console | None = None) -> None:
    """Lines of `standings.notes`, in the terminal."""
    console = console or Console(highlight=False)
    for line in lines:
        console.print(Text(f"note: {line}", style="yellow"), soft_wrap=True)


class Board:
    """Shows a sweep's progress; `update` is cheap and may be called often."""

    def __init__(
        self,
        plan: Plan,
        total: int,
        total_steps: int,
        baselines: Mapping[str, float],
        slots: int | None = None,
        guards: Mapping[str, Any] | None = None,
    ):
        """slots: how many trials can train at once; of more that have begun, the later ones wait."""
        self._slots = slots
        self._plan, self._total, self._steps, self._baselines = plan, total, total_steps, baselines
        self._planned, self._guards = total, guards
        self._noted: set[str] = set()
        # in a notebook too plain lines: rich would make an output of its own of each
        self._console = Console(width=None if sys.stdout.isatty() else 110, highlight=False, force_jupyter=False)
        self._live = Live(console=self._console, refresh_per_second=2, transient=True) if sys.stdout.isatty() else None
        self._start, self._next = time.monotonic(), 0.0
        self._running: dict[str, dict[str, Any]] = {}
        self._done_before = 0.0
        self._per_trial = total_steps / max(1, total)
        self.waiting: Callable[[], str] = str  # what is not there yet, to be said
        self._first_report: float | None = None  # the estimate leaves out the start of ray and of the slots

    def __enter__(self) -> Board:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """One line that stays."""
        self._console.print(text, soft_wrap=True)

    def note(self, lines: Sequence[str]) -> None:
        """Lines of `standings.notes` that stay, each said once."""
        say([line for line in lines if line not in self._noted], self._console)
        self._noted.update(lines)

    def resumed(self, results: list[Any]) -> None:
        """What earlier sessions finished, so that the estimate counts only this one's work."""
        self._done_before = self._share(results)

    def extended(self, trials: int) -> None:
        """The search goes on: so many trials more than planned, in all."""
        self._total, self._steps = self._planned + trials, int((self._planned + trials) * self._per_trial)

    def began(self, job: Job) -> None:
        self._running[job.trial_id] = {"arm": job.arm, "step": 0, "max": job.trial.train.max_steps}

    def reported(self, job: Job, row: Mapping[str, Any]) -> None:
        self._running.setdefault(job.trial_id, {"arm": job.arm, "max": job.trial.train.max_steps})
        self._first_report = self._first_report or time.monotonic()
        self._running[job.trial_id].update(step=row.get("step", 0), tokens_per_s=row.get("tokens_per_s"))

    def ended(self, job: Job, result: Mapping[str, Any]) -> None:
        """Forget a trial that ended; without a terminal, say how it ended. Why one failed is said on either."""
        self._running.pop(job.trial_id, None)
        if not self._live:
            best = (result["best"] or {}).get(self._plan.metric)
            self.say(
                f"{span(time.monotonic() - self._start):>6}  {job.arm:<24} {job.trial_id:<16} {result['state']:<9} "
                f"step {result['steps']:<6} {self._plan.metric} {value_text(best)}  {settings_text(job.settings)}"
            )
        if result["state"] == "failed":
            self.note([f"{job.arm} {job.trial_id} failed: {last_line(result['error'])}"])

    def update(self, results_of: Callable[[], list[Any]]) -> None:
        """Draw the table anew (a terminal), or say one line now and then; cheap when it is not yet time."""
        now = time.monotonic()
        if now < self._next:
            return
        results = results_of()
        board = leaderboard(self._plan, results, self._baselines, self._guards)
        if not self._live:
            self.say(self._summary(results).plain)
            self.note(notes(board))
        else:
            running = Counter(r["arm"] for r in [*self._running.values()][: self._slots])
            speeds = {r["arm"]: r["tokens_per_s"] for r in self._running.values() if r.get("tokens_per_s")}
            below = [Text(f"note: {line}", style="yellow") for line in notes(board)]
            self._live.update(Group(table(board, running, speeds), *below, self._summary(results)))
        took = time.monotonic() - now  # grows with the trials that ended
        self._next = now + max(LIVE_EVERY_S if self._live else PLAIN_EVERY_S, took / SHARE)

    def _share(self, results: list[Any]) -> float:
        """Steps done, in steps of the plan: a pruned trial's remaining steps are done too."""
        return len(results) * self._per_trial + sum(r.get("step", 0) for r in self._running.values())

    def _summary(self, results: list[Any]) -> Text:
        now = time.monotonic()
        elapsed, working = now - self._start, now - (self._first_report or now)
        done = self._share(results) - self._done_before
        left = (self._steps - self._share(results)) * working / done if done > 0 and working > 5 else None
        running = len([*self._running][: self._slots])
        said = f"{len(results)} of {self._total} trials ended, {running} running, {span(elapsed)} elapsed"
        said += "".join(f", {text}" for text in [self.waiting()] if text)
        return Text(said + (f", about {span(max(0.0, left))} left" if left is not None else ""))
