"""What differs between arms besides their declared difference, pair by pair.

Of two arms, a factor (`factors.FACTORS`) is

    named       if a setting of it that one of them gives differs: that is what is compared
    implied     if it follows from what is named in the only way it can: tokens from steps alone; a batch or steps that
                were given so that another length or batch reads as many tokens; what `match` or `budget` solved
    stated      if one of the two arms has it in `differs`
    undeclared  else: parameters beyond PARAMS_WITHIN, tokens beyond TOKENS_WITHIN, the vocabulary

An undeclared factor is warned of. So are two or more named ones that nothing separates: no chain of arms leads from
one arm to the other in steps of one named factor each. Where there is such a chain, as where all arms change one thing
of a common arm, its comparisons are clean, and the pair is only listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from attnlab.config.resolved import Arm, Plan
from attnlab.plan.guards.factors import FACTORS, corner_trial, differing, factor_of, flat_settings
from attnlab.plan.guards.fingerprint import fingerprint
from attnlab.tasks import Task

PARAMS_WITHIN = 0.03
TOKENS_WITHIN = 0.01  # a budget in tokens is a whole number of steps
DERIVED = {"params": "non-embedding parameters", "tokens": "training tokens", "tokenizer": "vocabulary"}
INSTEAD = {
    "params": "match: params makes them agree",
    "tokens": "train.max_steps or budget: {tokens: ...} makes them agree",
    "tokenizer": "one task.tokenizer for all makes them agree",
}


@dataclass(frozen=True)
class ArmFacts:
    """What is compared of one arm."""

    settings: Mapping[str, Any]  # by dotted key
    derived: Mapping[str, Any]  # params, tokens, tokenizer; None where it is not known
    per_step: int  # tokens
    states: frozenset[str]  # the factors in its `differs`
    task: str


@dataclass(frozen=True)
class ArmPair:
    """What differs between two arms, by factor."""

    a: str
    b: str
    keys: Mapping[str, list[str]]  # named factor -> its settings that differ
    differ: tuple[str, ...]  # every factor that differs
    undeclared: tuple[str, ...]

    def causes(self, stated: frozenset[str]) -> list[str]:
        """Named factors, less those stated. One of them is what the pair compares."""
        return [factor for factor in FACTORS if factor in self.keys and factor not in stated]


@dataclass
class Confounds:
    """What was found, as sentences and for leaderboard.json."""

    warnings: list[str]
    record: dict[str, Any]


def find(plan: Plan, tasks: Mapping[str, Task]) -> Confounds:
    """Compare every pair of arms. `tasks`: each arm's, prepared.

    Its record is {derived: {factor: {arm: value}}, of the factors that follow from others; pairs: [{differ: [factor],
    undeclared: [factor], settings: [dotted key], arms: [[a, b], ...]}]}, where pairs that differ in the same share one.
    """
    facts = {arm.name: _facts(arm, tasks[arm.name]) for arm in plan.arms}
    pairs = [_pair(plan, a, b, facts[a], facts[b]) for a, b in combinations(plan.names, 2)]
    warnings = [line for factor in DERIVED if (line := _undeclared(factor, pairs, facts))]
    warnings += [*_named_at_once(pairs, facts), *_per_token(plan, facts)]
    derived = {factor: {arm: f.derived[factor] for arm, f in facts.items()} for factor in DERIVED}
    return Confounds(warnings, {"derived": derived, "pairs": _listed(pairs)})


def _listed(pairs: Sequence[ArmPair]) -> list[dict[str, Any]]:
    groups: dict[Any, list[list[str]]] = {}
    for p in pairs:
        settings = tuple(key for factor in FACTORS for key in p.keys.get(factor, ()))
        groups.setdefault((p.differ, p.undeclared, settings), []).append([p.a, p.b])
    names = ("differ", "undeclared", "settings")
    return [{**{n: list(v) for n, v in zip(names, key, strict=True)}, "arms": arms} for key, arms in groups.items()]


def _facts(arm: Arm, task: Task) -> ArmFacts:
    trial = corner_trial(arm)
    hashes = fingerprint(trial, task)
    derived = {
        "params": hashes.n_params_non_embedding if hashes else None,
        "tokens": None if trial.train.seconds else trial.train.max_steps * trial.tokens_per_step,
        "tokenizer": str(task.describe().get("tokenizer_sha256") or task.vocab_size)[:12],
    }
    return ArmFacts(flat_settings(arm), derived, trial.tokens_per_step, frozenset(arm.differs), trial.task.name)


def _pair(plan: Plan, a: str, b: str, one: ArmFacts, other: ArmFacts) -> ArmPair:
    keys: dict[str, list[str]] = {}
    for key in differing(one.settings, other.settings):
        factor = factor_of(key, one.task if one.task == other.task else "")
        if factor and not _solved(plan, key):
            keys.setdefault(factor, []).append(key)
    derived = [factor for factor in DERIVED if _differs(factor, one.derived[factor], other.derived[factor])]
    if "seq_len" in keys and one.per_step == other.per_step:
        keys.pop("batch", None)  # given so that both read as many tokens per step,
    if "tokens" not in derived and {"batch", "seq_len"} & set(keys):
        keys.pop("steps", None)  # or in all
    implied = _implied(plan, keys, one.per_step == other.per_step)
    stated = one.states | other.states
    undeclared = [f for f in derived if f not in implied and f not in stated and f not in keys]
    return ArmPair(a, b, keys, tuple(f for f in FACTORS if f in {*keys, *derived}), tuple(undeclared))


def _solved(plan: Plan, key: str) -> bool:
    """Whether `match` or `budget` gave the setting its value."""
    by_match = key == "model.d_ff" and plan.sweep.match != "none"
    return by_match or (plan.sweep.budget is not None and key in ("train.max_steps", "train.seconds"))


def _implied(plan: Plan, keys: Mapping[str, Any], as_many_per_step: bool) -> set[str]:
    """Factors that follow from what is named, or from what the sweep makes equal."""
    out = {"params"} if plan.sweep.match in ("flops", "state") else set()
    other_budget = plan.sweep.budget and plan.sweep.budget.kind != "tokens"
    if ("steps" in keys and as_many_per_step) or "seconds" in keys or other_budget:
        out.add("tokens")
    return out | ({"tokenizer"} if "task" in keys else set())


def _differs(factor: str, one: Any, other: Any) -> bool:
    if one is None or other is None:
        return False
    if factor == "tokenizer":
        return bool(one != other)
    within = PARAMS_WITHIN if factor == "params" else TOKENS_WITHIN
    return bool(abs(one - other) > within * min(one, other))


def _undeclared(factor: str, pairs: Sequence[ArmPair], facts: Mapping[str, ArmFacts]) -> str | None:
    """One line on all pairs in which a factor differs undeclared: the arms by value."""
    concerned = dict.fromkeys(arm for p in pairs if factor in p.undeclared for arm in (p.a, p.b))
    if not concerned:
        return None
    values: dict[Any, list[str]] = {}
    for arm in sorted(concerned, key=lambda arm: str(facts[arm].derived[factor]).rjust(30)):
        values.setdefault(facts[arm].derived[factor], []).append(arm)
    each = "; ".join(f"{', '.join(arms)} {value:,}" if isinstance(value, int) else f"{', '.join(arms)} {value}"
                     for value, arms in values.items())  # fmt: skip
    beyond = {"params": f" by more than {PARAMS_WITHIN:.0%}"}.get(factor, "")
    return (
        f"{factor}: arms differ in {DERIVED[factor]}{beyond}, which none of them names ({each}); {INSTEAD[factor]}, "
        f"or `differs: [{factor}]` in an arm says that it is meant"
    )


def _named_at_once(pairs: Sequence[ArmPair], facts: Mapping[str, ArmFacts]) -> list[str]:
    """Groups of arms between which more than one named factor differs in every step."""
    clean = [p for p in pairs if len(p.causes(facts[p.a].states | facts[p.b].states)) <= 1]
    group = {arm: arm for arm in facts}
    for p in clean:
        old, new = group[p.a], group[p.b]
        group = {arm: new if mine == old else mine for arm, mine in group.items()}
    mixed: dict[tuple[str, ...], list[ArmPair]] = {}
    for p in pairs:
        if group[p.a] != group[p.b]:
            causes = p.causes(facts[p.a].states | facts[p.b].states)
            mixed.setdefault(tuple(causes), []).append(p)
    return [_mixed_text(list(causes), together) for causes, together in mixed.items()]


def _mixed_text(causes: list[str], pairs: Sequence[ArmPair]) -> str:
    keys = list(dict.fromkeys(key for p in pairs for cause in causes for key in p.keys[cause]))
    left = dict.fromkeys(p.a for p in pairs)
    who = "; ".join(f"{a} and {', '.join(p.b for p in pairs if p.a == a)}" for a in left)
    return (
        f"{who}: differ in {' and '.join(keys)} at once, so what made a difference cannot be told; add an arm that "
        f"changes one of them alone, or `differs: [{causes[-1]}]` in an arm says that it is meant"
    )


def _per_token(plan: Plan, facts: Mapping[str, ArmFacts]) -> list[str]:
    """A warning that losses per token do not compare over different tokens, declared or not."""
    vocabularies = {f.derived["tokenizer"] for f in facts.values()}
    text = all(f.task == "text" for f in facts.values())
    if len(vocabularies) == 1 or not text or not plan.metric.startswith("val_loss"):
        return []
    return [
        "tokenizer: val_loss is in nats per token, and the arms' tokens differ, so it does not rank them; "
        "use search.metric val_bpb"
    ]
