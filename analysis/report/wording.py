"""The report's sentences: generated from the data, claiming no more than it shows."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from analysis.records.select import ArmSummary, Selection
from attnlab.ranking import search_coverage
from attnlab.util.text import NONE, count_text, listed, settings_text, spaced, value_text


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


def answer(sel: Selection) -> list[str]:
    """The answer so far: who leads, how sure that is, whether the arms learnt anything."""
    valued = [arm for arm in sel.arms if arm.score is not None]
    if not valued:
        return [f"No arm has a value of {sel.metric} yet, so there is no answer."]
    return [_lead(sel, valued), _certainty(sel, valued), *_against_baselines(sel, valued)]


def _lead(sel: Selection, valued: list[ArmSummary]) -> str:
    first = valued[0]
    how = "mean of its confirm runs" if sel.ranked_by == "confirm mean" else "best single run"
    equal = [arm for arm in valued if arm.score == first.score]
    so_far = " so far" if sel.in_progress else ""
    best = f"{sel.metric} {value_text(first.score)}"
    if len(valued) == 1:
        return f"Only {first.arm} has a value{so_far}: {best} ({how}); there is nothing to compare it with."
    if len(equal) > 1:
        return f"{names(equal)} share the best {best} ({how}){so_far}."
    second = valued[1]
    gap = value_text(abs(first.score - second.score))
    side = "below" if sel.plan.mode == "min" else "above"
    behind = f"{second.arm} ({value_text(second.score)})"
    return f"{first.arm} is best{so_far} with {best} ({how}), {gap} {side} the second, {behind}."


def _certainty(sel: Selection, valued: list[ArmSummary]) -> str:
    if sel.ranked_by != "confirm mean":
        partly = [arm for arm in sel.arms if arm.confirm]
        note = f" Confirm runs exist for {names(partly)} only, so they do not rank." if partly else ""
        if len(valued) == 1:
            return f"It is a single run, so no interval can be given.{note}"
        once = all(arm.best and arm.ended == 1 for arm in valued)
        runs = "Each arm was run once" if once else "Each value is a single run, picked as the best of its arm's trials"
        return f"{runs}, so no interval can be given: another seed could change the order.{note}"
    if len(valued) < 2:
        return f"It stands for {valued[0].confirm['n']} seed(s)."
    two = {valued[0].arm, valued[1].arm}
    pair = next(pair for pair in sel.pairs if {pair.a, pair.b} == two)
    gap, seeds = pair.difference, f"{valued[0].confirm['n']} and {valued[1].confirm['n']} seeds"
    if gap.low is None or pair.p is None:
        return f"With {seeds} of these two, no interval of the difference can be given ({pair.test})."
    low, high = sorted((value_text(end) for end in (gap.low, gap.high)), key=float)
    how = f"{pair.test}; Holm-corrected p {pair.p_holm:.2g}" if pair.p_holm is not None else pair.test
    if not pair.decided:
        more = f" About {pair.needed} seeds per arm would." if pair.needed else ""
        interval = f"with the 95 % interval of that difference at [{low}, {high}] ({how})"
        return f"Over {seeds}, {interval}, these runs do not separate the two.{more}"
    return f"Over {seeds} the 95 % interval of that difference is [{low}, {high}] ({how})."


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
        out.append(f"Without a value of {sel.metric}: {names(empty)}.")
    pruned = [arm for arm in sel.declared if arm.best and arm.best.state == "pruned"]
    if pruned and sel.ranked_by != "confirm mean":
        steps = ", ".join(f"{arm.arm} at step {count_text(arm.best.results['steps'])}" for arm in pruned)
        out.append(f"The best trial was pruned before its last step, so more steps may improve it: {steps}.")
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
