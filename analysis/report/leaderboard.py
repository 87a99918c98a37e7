"""The leaderboard in the terminal and as CSV, with the page's columns."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.records.load import ALL_STATES
from analysis.records.select import ArmSummary, Selection
from analysis.report.tables import aligned, csv_text
from analysis.report.wording import better_text, confirm_text, counts_text, rank_text, ranked_text
from attnlab.util.text import NONE, count_text, large_text, seconds_text, settings_text, spaced, value_text


def states_shown(sel: Selection) -> tuple[str, ...]:
    """Every state's column; `unreadable` only where there is one."""
    return tuple(s for s in ALL_STATES if s != "unreadable" or any(arm.counts[s] for arm in sel.arms))


def to_csv(sel: Selection) -> str:
    """A row per arm, best first, then one per baseline; unknown cells are empty."""
    keys = sorted({key for arm in sel.arms if arm.best for key in arm.best.settings})
    head = ["kind", "rank", "name", "mixer", "metric", "best", "best_se", "step", "trial_id", "trial_state",
            "confirm_mean", "confirm_std", "confirm_n", "confirm_low", "confirm_high", "not_worse",
            *states_shown(sel), "n_params", "n_params_non_embedding",
            "tokens", "device_seconds", "tokens_per_s", *keys]  # fmt: skip
    baselines = [{"kind": "baseline", "name": name, "metric": sel.metric, "best": value}
                 for name, value in sel.baselines.items()]  # fmt: skip
    return csv_text(head, [*(_record(sel, arm) for arm in sel.arms), *baselines])


def _record(sel: Selection, arm: ArmSummary) -> dict[str, object]:
    confirm = arm.confirm or {}
    return {
        "kind": "arm", "rank": arm.rank, "name": arm.arm, "mixer": arm.mixer, "metric": sel.metric, "best": arm.value,
        "best_se": arm.value_se, "step": arm.step, "trial_id": arm.best and arm.best.trial_id,
        "trial_state": arm.best and arm.best.state, "confirm_mean": confirm.get("mean"),
        "confirm_std": confirm.get("std"), "confirm_n": confirm.get("n"),
        **dict(zip(("confirm_low", "confirm_high"), arm.interval or (None, None), strict=True)),
        "not_worse": arm.not_worse,
        **{state: arm.counts[state] for state in states_shown(sel)},
        "n_params": arm.n_params, "n_params_non_embedding": arm.n_params_non_embedding, "tokens": arm.tokens,
        "device_seconds": arm.device_seconds, "tokens_per_s": arm.tokens_per_s,
        **(arm.best.settings if arm.best else {}),
    }  # fmt: skip


def show(sel: Selection, console: Console) -> None:
    """Print the leaderboard: a table on a terminal, else aligned text that nothing cuts off."""
    title = f"{sel.plan.name}: {sel.metric} ({better_text(sel.plan.mode)}), by {ranked_text(sel)}"
    if any(rank_text(arm) == "=" for arm in sel.arms):
        title += " (=: not shown worse than the best)"
    if not console.is_terminal:
        print("\n".join([title, *aligned(_cells(sel, states_shown(sel)))]), file=console.file)
        return
    head, *rows = _cells(sel, ())
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD)
    for name in head:
        free = name in ("trials", "settings")  # what gives way where the terminal is narrow
        table.add_column(name, justify="left" if free or name == "arm" else "right", no_wrap=not free, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row), style="dim" if row[0] == "" else None)
    console.print(table)


def _cells(sel: Selection, states: tuple[str, ...]) -> list[list[str]]:
    """Heads and rows, with a column per state, or all counts in one."""
    confirmed = any(arm.confirm for arm in sel.arms)
    head = ["#", "arm", "best", *(["confirm (n)"] if confirmed else []), "step", *(states or ("trials",)), "params",
            "device-s", "tok/s", "settings"]  # fmt: skip
    rows = [
        [rank_text(arm), arm.arm, value_text(arm.value), *([confirm_text(arm.confirm)] if confirmed else []),
         count_text(arm.step), *([str(arm.counts[s]) for s in states] or [counts_text(arm.counts)]),
         large_text(arm.n_params), seconds_text(arm.device_seconds), count_text(arm.tokens_per_s),
         settings_text(arm.best.settings) if arm.best else NONE]
        for arm in sel.arms
    ]  # fmt: skip
    for name, value in sel.baselines.items():
        rows.append(["", f"[{spaced(name)}]", value_text(value), *[""] * (len(head) - 3)])
    return [head, *rows]
