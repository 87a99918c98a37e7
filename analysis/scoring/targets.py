"""Which checkpoints are examined. A checkpoint's digest stands for its content: equal digests, equal scores."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.records.select import Selection
from attnlab.records.paths import TrialDir
from attnlab.records.results import Job
from attnlab.util.errors import UserError
from attnlab.util.files import file_digest
from attnlab.util.text import did_you_mean

FILES = ("config.json", "model.safetensors", "tokenizer.json")  # what decides a score


@dataclass(frozen=True)
class Target:
    """One checkpoint to examine."""

    label: str  # the arm's name; for a checkpoint named by its path, that path
    trial_id: str | None
    path: Path
    job: Job | None  # the trial as run; None: not known

    @classmethod
    def of(cls, label: str, trial: TrialDir, path: Path | None = None) -> Target:
        """A trial's exported model, with the trial's own record where it can be read."""
        try:
            job = trial.job()
        except (OSError, ValueError):
            job = None
        return cls(label, trial.trial_id if job or path is None else None, path or trial.final, job)

    @property
    def seq_len(self) -> int | None:
        """The length it was trained at."""
        return self.job.trial.task.seq_len if self.job else None


def targets(
    sel: Selection | None, arms: Sequence[str] = (), trial: str | None = None, checkpoint: Path | None = None
) -> tuple[list[Target], list[str]]:
    """Each arm's best trial, a completed one, or what was named.

    Args:
        sel: the sweep; None only with `checkpoint`.
        arms: only these.
        trial: a trial's id, or the beginning of it that no other has; `ARM/ID` where two arms have the same.
        checkpoint: a folder as transformers loads it; alone, or in addition to those of `arms` or `trial`.

    Returns:
        the targets, and one line for each arm whose best trial could not be taken.

    Raises:
        UserError: no such arm or trial.
    """
    named: list[Target] = []
    if checkpoint is not None:
        parents = checkpoint.resolve().parents
        named.append(Target.of(str(checkpoint), TrialDir(parents[min(1, len(parents) - 1)]), checkpoint))
        if not (arms or trial):
            return named, []
    assert sel is not None
    names = [arm.arm for arm in sel.declared]
    if unknown := [arm for arm in arms if arm not in names]:
        raise UserError(f"--arm {unknown[0]}: the sweep has no such arm{did_you_mean(unknown[0], names)}")
    if trial is not None:
        return [_one_trial(sel, arms, trial), *named], []
    chosen, notes = [], []
    for arm in sel.declared:
        if arms and arm.arm not in arms:
            continue
        if arm.best is None:
            notes.append(f"{arm.arm}: no trial has completed, so there is no exported model to examine")
            continue
        chosen.append(Target.of(arm.arm, sel.data.folder.trial(arm.arm, arm.best.trial_id)))
    return [*chosen, *named], notes


def _one_trial(sel: Selection, arms: Sequence[str], wanted: str) -> Target:
    trials = [sel.data.folder.trial(t.arm, t.trial_id) for t in sel.data.trials if not arms or t.arm in arms]
    exact = [t for t in trials if wanted in (t.trial_id, f"{t.arm}/{t.trial_id}")]
    near = exact or [t for t in trials if t.trial_id.startswith(wanted) or f"{t.arm}/{t.trial_id}".startswith(wanted)]
    if len(near) != 1:
        ids = [f"{t.arm}/{t.trial_id}" for t in near or trials]
        what = f"{len(near)} trials begin so: {', '.join(ids[:4])}" if near else f"no such trial; one of {ids[:8]}"
        raise UserError(f"--trial {wanted}: {what}")
    return Target.of(near[0].arm, near[0])


def digest_of(path: Path) -> str:
    """20 hexadecimal digits of SHA-256 over FILES. Raises UserError: no or an incomplete checkpoint."""
    if not path.is_dir():
        raise UserError(f"{path}: no such checkpoint")
    if missing := [name for name in FILES[:2] if not (path / name).is_file()]:
        resumable = (path / "state.json").is_file()
        hint = ", but it is a folder to resume from; the exported model is in final/" if resumable else ""
        raise UserError(f"{path}: no whole checkpoint, it lacks {' and '.join(missing)}{hint}")
    total = hashlib.sha256()
    for name in FILES:
        if (file := path / name).is_file():
            total.update(f"{name} {file_digest(file)}\n".encode())
    return total.hexdigest()[:20]
