"""The report's sentences: generated from the data, claiming no more than it shows."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from analysis.records.select import ArmSummary, Selection
from attnlab.ranking import search_coverage, verdicts
from attnlab.util.text import NONE, listed, settings_text, spaced, value_text


def confirm_text(confirm: Mapping[str, Any] | None) -> str:
    """`3.1234 ± 0.0100 (3)`; one run has no deviation."""
    if not confirm:
        return NONE
    spread = f" ± {value_text(confirm['std'])}" if confirm["std"] is not None else ""
    return f"{value_text(confirm['mean'])}{spread} ({confirm['n']})"


def counts_text(counts: Mapping[str, int]) -> str:
    """`5 completed, 1 pruned`; states without a trial are left out."""
    return ", ".join(f"{n} {state}" for state, n in counts.items() if n) or NONE


def better_text(mode: str) -> str:
    """Which direction is good."""
    return "lower is better" if mode == "min" else "higher is better"


def rank_text(arm: ArmSummary) -> str:
    """The rank where it is decided; `=` of an arm not shown worse than the best."""
    return str(arm.rank) if arm.rank else "=" if arm.not_worse else NONE


def names(arms: list[ArmSummary]) -> str:
    """The arms' names, listed."""
    return listed([arm.arm for arm in arms])


def layers(sel: Selection) -> dict[str, str]:
    """Each arm's mixers by layer, as declared; not of arms with one mixer."""
    out = {}
    for arm in sel.plan.names:
        with contextlib.suppress(ValueError):  # another version's sweep, whose trial does not parse
            out[arm] = sel.plan.arm(arm).trial.model.layers_by_mixer
    return {arm: text for arm, text in out.items() if text}


def how_text(sel: Selection, arm: ArmSummary) -> str:
    """What an arm's score is: `mean of 3 confirm runs`, `mean of 3 seeds`, `single run`."""
    n = (arm.confirm or {}).get("n", 1)
    if sel.ranked_by != "confirm mean":
        return "best single run" if arm.ended > 1 else "single run"
    if sel.plan.sweep.search is None:  # nothing was chosen, so nothing is confirmed
        return f"mean of {n} seeds" if n > 1 else "single run"
    return f"mean of {n} confirm runs" if n > 1 else "single confirm run"


def ranked_text(sel: Selection) -> str:
    """What orders the arms."""
    if sel.ranked_by != "confirm mean":
        return "the best single run of each arm's search" if sel.plan.sweep.search else "each arm's best single run"
    several = any(arm.confirm and arm.confirm["n"] > 1 for arm in sel.arms)
    if sel.plan.sweep.search is None:
        return "the mean over seeds" if several else "each arm's single run"
    return "the mean of the confirm runs" if several else "each arm's confirm run"


def answer(sel: Selection) -> list[str]:
    """The answer so far: what is decided, by which values, and whether the arms learnt anything."""
    valued = [arm for arm in sel.arms if arm.score is not None]
    if not valued:
        return [f"No arm has a value of {sel.metric} yet, so there is no answer."]
    so_far = "So far: " if sel.in_progress else ""
    return [so_far + verdicts.answer(*sel.decided), _values(sel, valued), *_against_baselines(sel, valued)]


def _values(sel: Selection, valued: list[ArmSummary]) -> str:
    """The best value and the next one, which are no verdict."""
    first, text = valued[0], value_text(valued[0].score)
    if len(valued) == 1:
        return f"Only {first.arm} has a value: {sel.metric} {text} ({how_text(sel, first)}).{_chosen(sel)}"
    side = "lowest" if sel.plan.mode == "min" else "highest"
    if len(equal := [arm for arm in valued if arm.score == first.score]) > 1:
        return f"{names(equal)} share the {side} {sel.metric}, {text} ({how_text(sel, first)}).{_chosen(sel)}"
    second = valued[1]
    gap = f"{value_text(abs(first.score - second.score))}{_interval(sel, {first.arm, second.arm})}"
    behind = f"{second.arm} has {value_text(second.score)}, {gap} {'more' if sel.plan.mode == 'min' else 'less'}"
    return f"The {side} {sel.metric} is that of {first.arm}, {text} ({how_text(sel, first)}); {behind}.{_chosen(sel)}"


def _interval(sel: Selection, two: set[str]) -> str:
    """The interval of two arms' difference, from its smaller end on; nothing where it is not known."""
    pair = next((pair for pair in sel.decided[0]["pairs"] if set(pair["arms"]) == two), None)
    if sel.ranked_by != "confirm mean" or pair is None or pair["low"] is None or pair["high"] is None:
        return ""
    low, high = pair["low"], pair["high"]
    low, high = (low, high) if pair["difference"] >= 0 else (-high, -low)
    return f" [{value_text(low)}, {value_text(high)}]"


def _chosen(sel: Selection) -> str:
    """Why single runs decide nothing; nothing where there are more."""
    if sel.ranked_by == "confirm mean":
        return ""
    partly = [arm for arm in sel.arms if arm.confirm]
    note = f" Confirm runs exist for {names(partly)} only, so they do not rank." if partly else ""
    picked = any(arm.ended > 1 for arm in sel.arms)
    runs = "Each value is the best single run of its arm's trials" if picked else "Each arm was run once"
    return f" {runs}: another seed could change the order.{note}"


def _against_baselines(sel: Selection, valued: list[ArmSummary]) -> list[str]:
    sign = 1 if sel.plan.mode == "min" else -1
    beaten, out = [], []
    for name, value in sel.baselines.items():
        label = f"{spaced(name)} ({value_text(value)})"
        if short := [arm for arm in valued if sign * (arm.score - value) >= 0]:
            out.append(f"Not better than the baseline {label}: {names(short)}.")
        else:
            beaten.append(label)
    if beaten:
        who = f"All {len(valued)} arms" if len(valued) == len(sel.arms) > 1 else listed([arm.arm for arm in valued])
        verb, kind = "are" if len(valued) > 1 else "is", "baseline" if len(beaten) == 1 else "baselines"
        out.insert(0, f"{who} {verb} better than the {kind} {listed(beaten)}.")
    return out


def caveats(sel: Selection) -> list[str]:
    """What a reader must know before trusting the comparison."""
    out = []
    if sel.in_progress:
        ended = f"{sel.ended} of {sel.planned} trials have ended"
        out.append(f"The sweep is not finished: {ended}, {len(sel.data.trials)} were begun.")
    if len({arm.ended for arm in sel.arms}) > 1:
        each = ", ".join(f"{arm.arm} {arm.ended}" for arm in sel.declared)
        out.append(f"Arms have unequal numbers of ended trials ({each}); more trials give a better best.")
    devices = {arm.arm: {str(t.results["environment"].get("device", NONE)) for t in arm.trials if t.results}
               for arm in sel.declared}  # fmt: skip
    if len(set().union(*devices.values())) > 1:
        out.append("Trials ran on different devices, so seconds and tokens per second do not compare between them.")
    if empty := [arm for arm in sel.declared if arm.score is None]:
        out.append(f"Without a value of {sel.metric}, which only completed trials have: {names(empty)}.")
    confirm = sel.plan.sweep.confirm
    if confirm and confirm.top > 1 and sel.ranked_by == "confirm mean":
        top = f"the best mean of up to {confirm.top} confirmed settings"
        out.append(f"Each arm stands for {top}, which flatters all of them a little.")
    for arm in sel.declared:
        if arm.confirm and arm.best and arm.best.phase == "search" and arm.confirm["settings"] != arm.best.settings:
            stands = settings_text(arm.confirm["settings"])
            out.append(f"{arm.arm} is confirmed with {stands}, not with its best search trial's, {arm.best.trial_id}.")
        if arm.ties:
            tied = f"{arm.ties + 1} trials with exactly its best value"
            out.append(f"{arm.arm} has {tied}; the earliest one, {arm.best.trial_id}, is shown.")
    if twice := [arm for arm in sel.declared if _confirms_itself(sel, arm)]:
        out.append(f"The run that was selected is among those that confirm it, which flatters: {names(twice)}.")
    return out


def _confirms_itself(sel: Selection, arm: ArmSummary) -> bool:
    """Whether a confirm run has the search's own seed, as in folders of before."""
    own = sel.plan.arm(arm.arm).trial.train.seed
    return any(
        t.phase == "confirm" and t.results["seed"] == own for t in arm.trials if t.results and sel.plan.sweep.search
    )


def edges(sel: Selection) -> list[str]:
    """Best settings at the end of the range searched last."""
    return [line for arm in sel.arms for line in search_coverage.edges(arm.arm, arm.certificate)]
