"""The on-disk contract between training, which writes it, and analysis and `--resume`, which read it.

    results/<sweep>/sweep.yaml preregistration.json leaderboard.json experiment_suite_results.json optuna.journal ray/
                    analysis/
    results/<sweep>/<arm>/<trial_id>/experiment_config.json metrics.jsonl results.json checkpoints/ events...

Files are written atomically (temporary name, fsync, rename), so a reader sees the old file or the new one.
The JSON is strict: a value that is not finite is written as null.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, NonNegativeFloat, NonNegativeInt, with_config
from typing_extensions import TypedDict  # pydantic asks for it below Python 3.12

from attnlab.config.trial import Config, Trial
from attnlab.util.errors import UserError

State = Literal["completed", "pruned", "diverged", "failed"]
STATES: tuple[State, ...] = ("completed", "pruned", "diverged", "failed")
# confirm: the arm's best setting again, unstopped, under another seed; noise: an arm as declared, over seeds
Phase = Literal["search", "confirm", "noise"]


class Hashes(Config):
    """What a trial was made of besides its settings, as it began. No part of its id."""

    corpus: str | None = None  # of the data's files; None: the task draws its examples
    tokenizer: str | None = None
    mixers: dict[str, str] = {}  # module of an own mixer -> SHA-256 of its file


class Job(Config):
    """`experiment_config.json`: one trial and what its records need besides it."""

    arm: str
    trial_id: str  # t<number>-<digest of the trial>
    number: int  # of the arm's trials, from 0
    phase: Phase = "search"
    settings: dict[str, Any] = {}  # as sampled, by dotted key
    metric: str = "val_loss"
    mode: Literal["min", "max"] = "min"
    branches: dict[int, int] = {}  # with asha.decay_rungs: step -> optimizer steps of the decay that branches off there
    hashes: Hashes | None = None  # None: recorded by a version without, or not to be had
    trial: Trial

    @classmethod
    def make(cls, arm: str, number: int, trial: Trial, **rest: Any) -> Job:
        """Make a job whose id is the arm's running number and the trial's digest."""
        return cls(arm=arm, number=number, trial_id=f"t{number:03d}-{trial.digest}", trial=trial, **rest)


@with_config(ConfigDict(strict=True))
class Results(TypedDict):
    """`results.json`: how one trial ended."""

    trial_id: str
    arm: str
    state: State
    phase: Phase
    settings: dict[str, Any]  # as sampled, by dotted key
    seed: NonNegativeInt
    recipe: int  # the trial's; 1 where an older file names none
    steps: NonNegativeInt  # optimizer steps run, those of decay branches included
    tokens: NonNegativeInt  # of these steps
    best: dict[str, Any] | None  # the report with the best metric
    last: dict[str, Any] | None  # the last report
    reports: str | None  # the digest of all (attnlab/records/metrics); None: recorded by a version without
    seconds: NonNegativeFloat  # wall time in training, over all attempts
    device_seconds: NonNegativeFloat  # the same times the number of workers
    n_params: NonNegativeInt | None
    n_params_non_embedding: NonNegativeInt | None
    flops_per_token: NonNegativeFloat | None  # training, of seq_len tokens, with the head
    state_bytes: NonNegativeInt | None  # that decoding keeps after seq_len tokens, fp32 (attnlab/models/cost)
    checkpoint: str | None  # relative to the trial's folder
    error: str | None  # the traceback of a failed trial
    environment: dict[str, Any]  # device, versions, host


def refuse_mixed_recipes(results: Iterable[Results], folder: Path) -> None:
    """Raise UserError if trials that would be ranked together are of two recipes."""
    trials = {str(result.get("recipe", 1)): result for result in results}
    if len(trials) > 1:
        named = [f"{r['arm']}/{r['trial_id']} is of recipe {recipe}" for recipe, r in sorted(trials.items())]
        raise UserError(f"{folder}: {', '.join(named)}; two recipes are never ranked against each other")
