"""Show a sweep as it runs: a table in a terminal, else plain lines."""

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
from attnlab.ranking.leaderboard import Leaderboard, notes
from attnlab.records.results import Job
from attnlab.util.text import reason, settings_text, value_text

PLAIN_EVERY_S = 20.0
LIVE_EVERY_S = 0.5
SHARE = 0.05  # of the driver's time that drawing may take


def duration_text(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


def table(
    board: Mapping[str, Any], running: Mapping[str, int] | None = None, speeds: Mapping[str, float] | None = None
) -> Table:
    """A leaderboard as a table. `running`: trials that run now, `speeds`: tokens/s, both by arm."""
    low = "lower is better" if board["mode"] == "min" else "higher is better"
    out = Table(title=f"{board['sweep']}: {board['metric']} ({low})", title_justify="left", header_style="bold")
    out.add_column("arm", no_wrap=True)
    for name in ("done", "pruned", "diverged", "failed", *(("running",) if running is not None else ())):
        out.add_column(name, justify="right")
    out.add_column("best", justify="right")
    out.add_column("at", overflow="fold")
    if confirmed := any(row["confirm"] for row in board["arms"].values()):
        out.add_column("seeds: mean (n)", justify="right")
    out.add_column("tokens/s", justify="right")
    for arm in board["ranking"]:
        row = board["arms"][arm]
        counts, best, confirm = row["counts"], row["best"], row["confirm"]
        cells = [str(counts[s]) for s in ("completed", "pruned", "diverged", "failed")]
        cells += [str(running.get(arm, 0))] if running is not None else []
        cells += [value_text(best and best["value"]), settings_text(best["settings"]) if best else "-"]
        if confirmed:
            cells.append(f"{confirm['mean']:.4f} ({confirm['n']})" if confirm else "-")
        speed = (speeds or {}).get(arm) or row.get("tokens_per_s")
        out.add_row(*map(Text, (arm, *cells, f"{speed:,.0f}" if speed else "-")))
    blank = [""] * (4 + (running is not None))
    for name, value in board["baselines"].items():
        if board["metric"].removeprefix("val_") in name:
            out.add_row(Text(f"[{name}]", style="dim"), *blank, Text(f"{value:.4f}", style="dim"))
    return out


def print_notes(lines: Iterable[str], console: Console | None = None) -> None:
    """Print the lines of `leaderboard.notes`."""
    console = console or Console(highlight=False)
    for line in lines:
        console.print(Text(f"note: {line}", style="yellow"), soft_wrap=True)


class Progress:
    """A sweep's progress in the terminal; `update` is cheap and may be called often."""

    def __init__(
        self, plan: Plan, slots: int | None = None, ended_before: int = 0, waiting: Callable[[], str] = lambda: ""
    ):
        """Begin to count time.

        Of trials begun, `slots` train and the later ones wait. The time left is estimated without the trials
        `ended_before`. `waiting` says what is still missing.
        """
        self._plan, self._slots, self._waiting = plan, slots, waiting
        self._total, self._steps = plan.total_trials, plan.total_steps
        self._steps_per_trial = self._steps / max(1, self._total)
        self._done_before = ended_before * self._steps_per_trial
        self._noted: set[str] = set()
        # plain lines in a notebook too, where rich would make an output of its own of each
        self._console = Console(width=None if sys.stdout.isatty() else 110, highlight=False, force_jupyter=False)
        self._live = Live(console=self._console, refresh_per_second=2, transient=True) if sys.stdout.isatty() else None
        self._start, self._next = time.monotonic(), 0.0
        self._running: dict[str, dict[str, Any]] = {}
        self._first_report: float | None = None  # the estimate leaves out the start of ray and of the slots

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._live:
            self._live.stop()

    def print(self, text: str) -> None:
        """Print one line that stays."""
        self._console.print(text, soft_wrap=True, markup=False)

    def note(self, lines: Sequence[str]) -> None:
        """Print the lines of `leaderboard.notes` that are new."""
        print_notes([line for line in lines if line not in self._noted], self._console)
        self._noted.update(lines)

    def extended(self, trials: int) -> None:
        """Count that many trials besides the planned ones."""
        self._total = self._plan.total_trials + trials
        self._steps = int(self._total * self._steps_per_trial)

    def began(self, job: Job) -> None:
        """Count a trial among those that run."""
        self._running[job.trial_id] = {"arm": job.arm}

    def reported(self, job: Job, row: Mapping[str, Any]) -> None:
        """Note a trial's step and speed."""
        self._running.setdefault(job.trial_id, {"arm": job.arm})
        self._first_report = self._first_report or time.monotonic()
        self._running[job.trial_id].update(step=row.get("step", 0), tokens_per_s=row.get("tokens_per_s"))

    def ended(self, job: Job, result: Mapping[str, Any]) -> None:
        """Forget a trial that ended; print how (without a terminal) and why it failed."""
        self._running.pop(job.trial_id, None)
        if not self._live:
            last = (result["last"] or {}).get(self._plan.metric)
            elapsed = duration_text(time.monotonic() - self._start)
            self.print(
                f"{elapsed:>6}  {job.arm:<24} {job.trial_id:<16} {result['state']:<9} "
                f"step {result['steps']:<6} {self._plan.metric} {value_text(last)}  {settings_text(job.settings)}"
            )
        if result["state"] == "failed":
            self.note([f"{job.arm} {job.trial_id} failed: {reason(result['error'])}"])

    def update(self, ended: int, leaderboard: Callable[[], Leaderboard]) -> None:
        """Draw the table anew or print a line, if it is time."""
        now = time.monotonic()
        if now < self._next:
            return
        board = leaderboard()
        if not self._live:
            self.print(self._summary(ended).plain)
            self.note(notes(board))
        else:
            running = Counter(r["arm"] for r in [*self._running.values()][: self._slots])
            speeds = {r["arm"]: r["tokens_per_s"] for r in self._running.values() if r.get("tokens_per_s")}
            below = [Text(board["answer"]), *(Text(f"note: {line}", style="yellow") for line in notes(board))]
            self._live.update(Group(table(board, running, speeds), *below, self._summary(ended)))
        took = time.monotonic() - now  # grows with the trials that ended
        self._next = now + max(LIVE_EVERY_S if self._live else PLAIN_EVERY_S, took / SHARE)

    def _summary(self, ended: int) -> Text:
        now = time.monotonic()
        # of the plan's steps, all of a pruned trial's included
        done = ended * self._steps_per_trial + sum(r.get("step", 0) for r in self._running.values())
        working, new = now - (self._first_report or now), done - self._done_before
        running, elapsed = len([*self._running][: self._slots]), duration_text(now - self._start)
        text = f"{ended} of {self._total} trials ended, {running} running, {elapsed} elapsed"
        text += f", {waiting}" if (waiting := self._waiting()) else ""
        if new > 0 and working > 5:
            text += f", about {duration_text(max(0.0, (self._steps - done) * working / new))} left"
        return Text(text)
