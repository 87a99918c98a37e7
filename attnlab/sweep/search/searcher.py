"""What runs next: one Optuna study per arm, arms admitted in turn with equal quotas, and the truth told to each study.

The state is the disk's: a study is reopened from the journal and every trial's end is read from its results.json, so a
sweep that was killed goes on where it was, under another version of ray if need be.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
from ray.tune.search import Searcher

from attnlab.config.resolved import Plan
from attnlab.plan.extension import Extension, extension
from attnlab.records.metrics import best_row, learning_curve, steps_run
from attnlab.records.mirror import Mirror
from attnlab.records.paths import SweepDir
from attnlab.records.results import Job, Results
from attnlab.sweep.search.arm import Arm
from attnlab.sweep.search.asha import ArmAsha
from attnlab.sweep.search.transient import Transient
from attnlab.util.files import write_json


class ArmSearch(Transient, Searcher):
    """Tune's searcher: asks the arm that has been given fewest trials so far; equal quotas by construction."""

    def __init__(self, plan: Plan, folder: SweepDir, mirror: Mirror | None = None):
        super().__init__(metric=plan.metric, mode=plan.mode)
        mend(folder.journal_file)
        backend = optuna.storages.journal.JournalFileBackend(str(folder.journal_file))
        storage = optuna.storages.JournalStorage(backend)
        self.arms = {name: Arm(name, plan, folder, storage) for name in plan.names}
        self._plan, self._folder, self._mirror = plan, folder, mirror or Mirror(folder)
        self._live: dict[str, Job] = {}
        self._extension: Extension | None = None  # not known yet
        self.most: int | None = None  # trials at once; None: as many as Tune asks for

    def replay(self, asha: ArmAsha) -> None:
        """Rebuild the brackets from what earlier sessions reported."""
        for arm in self.arms.values():
            for job in arm.jobs.values():
                asha.replay(job, self._folder.trial(arm.name, job.trial_id).metrics())

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True  # the sweep has said everything

    def suggest(self, trial_id: str) -> Any:
        """The next job as Tune's config; None: ask again later; FINISHED: there is none to come."""
        if self.most is not None and len(self._live) >= self.most:
            return None
        settled = self._settle()
        order = {name: i for i, name in enumerate(self.arms)}
        for arm in sorted(self.arms.values(), key=lambda a: (not a.begins, a.issued, order[a.name])):
            if (job := arm.next(settled)) is not None:
                self._live[trial_id] = job
                return {"job": job.model_dump(mode="json")}
        return (
            None if self._live else Searcher.FINISHED
        )  # what runs may yet call for more; if nothing does, nothing will

    def _settle(self) -> bool:
        """Whether it is known if the search is extended (see `extension`); if it is, every arm is told."""
        if self._extension is None:
            self._extension = extension(self._plan, [r for arm in self.arms.values() for r in arm.ended.values()])
            for name, arm in self.arms.items() if self._extension else ():
                arm.extend(self._extension.trials, self._extension.spaces[name])
        return self._extension is not None

    @property
    def extended(self) -> int:
        """Trials that the search's extension adds to the sweep's."""
        return self._extension.trials * len(self.arms) if self._extension else 0

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Told by Tune; what is told to the study is read from the trial's own records."""
        job = self._live.pop(trial_id)
        home = self._folder.trial(job.arm, job.trial_id)
        self._mirror.fetch(home)
        if (ended := home.results()) is None:
            ended = close_records(self._folder, job, result or {}, error)
            self._mirror.push(home.metrics_file, home.results_file)
        self.arms[job.arm].end(job, ended)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing to do: intermediate values are told with the end."""

    def save(self, checkpoint_path: str) -> None:
        """Tune's snapshot: empty, because nothing of ours reads it back."""

    def restore(self, checkpoint_path: str) -> None:
        raise RuntimeError("a sweep resumes from its own records: launch.py SWEEP --resume")


def mend(journal: Path) -> None:
    """Cut off the half line that a killed launcher or a full disk left: the next one would be written behind it."""
    if not journal.exists():
        return
    with journal.open("r+b") as file:
        data = file.read()
        file.truncate(data.rfind(b"\n") + 1)


def close_records(folder: SweepDir, job: Job, last: dict[str, Any], error: bool) -> Results:
    """A trial's results.json; where training could not write it (it failed, or its worker kept dying), it is written
    here from what the trial left."""
    home = folder.trial(job.arm, job.trial_id)
    if (results := home.results()) is not None:
        return results
    home.clear()
    rows = home.metrics()
    home.metrics_file.touch()
    steps, seconds = steps_run(rows), rows[-1]["seconds"] if rows else 0.0
    results = Results(
        trial_id=job.trial_id,
        arm=job.arm,
        state="failed",
        phase=job.phase,
        settings=job.settings,
        seed=job.trial.train.seed,
        steps=steps,
        tokens=steps * job.trial.tokens_per_step,
        best=best_row(rows, job.metric, job.mode),
        last=learning_curve(rows)[-1] if rows else None,
        seconds=seconds,
        device_seconds=seconds,
        n_params=None,
        n_params_non_embedding=None,
        recipe=job.trial.recipe,
        flops_per_token=None,
        state_bytes=None,
        checkpoint=None,
        error=last.get("error") or ("the relay of this trial died" if error else "the trial ended without results"),
        environment={},
    )
    write_json(home.results_file, results)
    return results
