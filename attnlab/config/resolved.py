"""A resolved sweep: arms merged and validated, search spaces parsed, so that others only read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from attnlab.config import claims
from attnlab.config.merge import merge, nest
from attnlab.config.space import Dimension, parse
from attnlab.config.sweep import RankConfig, Sweep, trial_part
from attnlab.config.trial import Mode, Trial
from attnlab.util.errors import UserError
from attnlab.util.text import did_you_mean


@dataclass(frozen=True)
class Arm:
    """One arm of a plan."""

    name: str
    declared: Mapping[str, Any]  # the sweep's `trial:` with the arm's own settings over it, as the file gives them
    space: Mapping[str, Dimension]  # what is searched for it, by dotted key; empty without a search
    differs: tuple[str, ...] = ()  # the factors in which it is meant to differ from other arms

    @classmethod
    def of(cls, sweep: Sweep, name: str) -> Arm:
        """Resolve one arm of a sweep."""
        given = sweep.arms[name]
        forms = {**sweep.search.space, **((given.get("search") or {}).get("space") or {})} if sweep.search else {}
        space = {key: parse(form) for key, form in forms.items()}
        return cls(name, merge(sweep.trial, trial_part(given)), space, tuple(given.get("differs") or ()))

    @cached_property
    def trial(self) -> Trial:
        """The arm's trial as declared. Raises ValueError if a folder's sweep.yaml holds one that is not valid."""
        return self.with_settings({})

    def tree(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The declared tree with sampled settings (dotted keys) over it, not validated."""
        tree = dict(self.declared)
        for key, value in settings.items():
            tree = merge(tree, nest(key, value))
        return tree

    def with_settings(self, settings: Mapping[str, Any], seed: int | None = None) -> Trial:
        """The arm's trial with sampled settings and, if given, another training seed. Raises ValueError."""
        return Trial.model_validate(self.tree({**settings, **({} if seed is None else {"train.seed": seed})}))


@dataclass(frozen=True)
class Plan:
    """A whole sweep, resolved: its file's schema and its arms in the file's order."""

    sweep: Sweep
    arms: tuple[Arm, ...]
    _whole: Plan | None = field(default=None, compare=False, repr=False)  # of `only`: the plan with all of its arms
    notes: tuple[str, ...] = field(default=(), compare=False, repr=False)  # what resolving it changed, for the user

    @classmethod
    def of(cls, sweep: Sweep) -> Plan:
        """Resolve a sweep's arms."""
        return cls(sweep, tuple(Arm.of(sweep, name) for name in sweep.arms))

    def arm(self, name: str) -> Arm:
        """The arm of this name. Raises KeyError."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise KeyError(name)

    @property
    def name(self) -> str:
        """The sweep's name, and its folder's."""
        return self.sweep.name

    @property
    def names(self) -> tuple[str, ...]:
        """The arms' names, in the file's order."""
        return tuple(arm.name for arm in self.arms)

    @property
    def metric(self) -> str:
        """The metric arms are compared by."""
        return (self.sweep.search or self.sweep.rank or RankConfig()).metric

    @property
    def mode(self) -> Mode:
        """Whether smaller (`min`) or larger (`max`) values of the metric are better."""
        given = self.sweep.search or self.sweep.rank or RankConfig()
        assert given.mode or given.metric == RankConfig().metric, "attnlab.plan.direction fills it in"
        return given.mode or "min"

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the unstopped runs: those of `confirm`, else none."""
        return self.sweep.confirm.seeds if self.sweep.confirm else ()

    def quota(self, name: str) -> int:
        """Trials of an arm's search, without an extension. 0 without a search."""
        return self.sweep.search.trials_of(self.arm(name).space) if self.sweep.search else 0

    def trials_of(self, name: str) -> int:
        """Trials an arm gets: its search's, and one per seed of its unstopped runs."""
        quota, confirm = self.quota(name), self.sweep.confirm
        if not quota:
            return max(1, len(self.seeds))
        return quota + (len(self.seeds) * min(confirm.top, quota) if confirm else 0)

    @property
    def trials_per_arm(self) -> int:
        """The most trials that an arm gets. Fewer only where its space has fewer points."""
        return max(self.trials_of(name) for name in self.names)

    @property
    def total_trials(self) -> int:
        """Trials of the whole sweep, those of `noise` included, without an extension of the search."""
        return sum(map(self.trials_of, self.names)) + (self.sweep.noise.seeds if self.sweep.noise else 0)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole sweep, decay branches included, if nothing were stopped early."""
        return sum(map(self._steps_of, self.arms))

    @property
    def total_tokens(self) -> int:
        """Training tokens of the whole sweep if nothing were stopped early."""
        return sum(self._steps_of(arm) * arm.trial.tokens_per_step for arm in self.arms)

    def _steps_of(self, arm: Arm) -> int:
        asha, noise = self.sweep.search.asha if self.sweep.search else None, self.sweep.noise
        branches = sum(asha.branches(arm.trial).values()) * self.quota(arm.name) if asha else 0
        noise_runs = noise.seeds if noise and noise.arm == arm.name else 0
        return arm.trial.train.max_steps * (self.trials_of(arm.name) + noise_runs) + branches

    def only(self, names: Sequence[str]) -> Plan:
        """The plan with some of its arms, and of `noise`, baseline and claims what names no other. Raises UserError."""
        if unknown := [name for name in names if name not in self.names]:
            raise UserError([f"--only {name}: no such arm{did_you_mean(name, self.names)}" for name in unknown])
        noise = self.sweep.noise if self.sweep.noise and self.sweep.noise.arm in names else None
        trees = {name: tree for name, tree in self.sweep.arms.items() if name in names}
        baseline = self.sweep.baseline if self.sweep.baseline in names else None
        kept = {"noise": noise, "baseline": baseline, "claims": claims.naming(self.sweep.claims, names)}
        sweep = self.sweep.model_copy(update={"arms": trees, **kept})
        return Plan(sweep, tuple(arm for arm in self.arms if arm.name in names), self.whole, self.notes)

    @property
    def whole(self) -> Plan:
        """The plan with the arms that `only` left out."""
        return self._whole or self

    def rejoined(self, names: Iterable[str]) -> Plan:
        """The plan with those of `names` back that `only` left out. A sweep trained in parts is one sweep."""
        added = set(names) - set(self.names)
        if self._whole is None or added.isdisjoint(self._whole.names):
            return self
        return self._whole.only([name for name in self._whole.names if name in added or name in self.names])
