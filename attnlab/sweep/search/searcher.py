"""What runs next: arms in turn with equal quotas, each with an Optuna study.

The state is the disk's: a study is reopened from the journal and every trial's end is read from its results.json. So a
sweep that was killed goes on where it was, under another version of ray if need be.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from ray.tune.search import Searcher

from attnlab.config.resolved import Plan
from attnlab.plan.extension import Extension, extension
from attnlab.records.metrics import best_row, learning_curve, steps_run
from attnlab.records.mirror import Mirror
from attnlab.records.paths import TrialDir
from attnlab.records.results import Job, Results
from attnlab.sweep.search.arm import ArmStudy
from attnlab.sweep.search.asha import Reports
from attnlab.sweep.search.snapshot import EmptySnapshot
from attnlab.util.files import write_json


class ArmSearch(EmptySnapshot, Searcher):
    """Tune's searcher: asks the arm that has been given fewest trials so far.

    at_first: the most trials at once until slots train, which drawing ahead would slow down.
    """

    def __init__(self, plan: Plan, mirror: Mirror, at_first: int | None = None):
        super().__init__(metric=plan.metric, mode=plan.mode)
        folder = mirror.folder
        repair_journal(folder.journal_file)
        backend = optuna.storages.journal.JournalFileBackend(str(folder.journal_file))
        storage = optuna.storages.JournalStorage(backend)
        self.arms = {arm.name: ArmStudy(arm, plan, folder, storage) for arm in plan.arms}
        self._plan, self._folder, self._mirror, self._at_most = plan, folder, mirror, at_first
        self._live: dict[str, Job] = {}
        self._extension: Extension | None = None  # not known yet

    def reports(self) -> Iterator[Reports]:
        """Every job of an earlier session with what it reported."""
        for arm in self.arms.values():
            for job in arm.jobs.values():
                yield job, self._folder.trial(arm.name, job.trial_id).metrics()

    def results(self) -> list[Results]:
        """Every trial that has ended, in this session and before, by arm and number."""
        return [results for arm in self.arms.values() for _, results in sorted(arm.ended.items())]

    @property
    def ended(self) -> int:
        """How many trials have ended."""
        return sum(len(arm.ended) for arm in self.arms.values())

    def job_of(self, trial: Any) -> Job:
        """The job of one of Tune's trials."""
        return self.arms[trial.config["job"]["arm"]].jobs[trial.config["job"]["trial_id"]]

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Change nothing: the plan says everything."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next job as Tune's config; None: ask later; FINISHED: none will come."""
        if self._at_most is not None and len(self._live) >= self._at_most:
            return None
        settled = self._settle()
        for arm in sorted(self.arms.values(), key=lambda arm: (not arm.begins, arm.issued)):  # of equals the first
            if (job := arm.next(settled)) is not None:
                self._live[trial_id] = job
                return {"job": job.model_dump(mode="json")}
        return None if self._live else Searcher.FINISHED  # what runs may yet call for more

    def _settle(self) -> bool:
        """Whether it is known if the search is extended, which every arm then is."""
        if self._extension is None:
            self._extension = extension(self._plan, self.results())
            for name, arm in self.arms.items() if self._extension else ():
                arm.extend(self._extension.trials, self._extension.spaces[name])
        return self._extension is not None

    @property
    def extended(self) -> int:
        """Trials that the search's extension adds to the sweep's."""
        return self._extension.trials * len(self.arms) if self._extension else 0

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """End one of Tune's trials: its study gets what the trial's own records say."""
        self._at_most = None
        job = self._live.pop(trial_id)
        folder = self._folder.trial(job.arm, job.trial_id)
        self._mirror.fetch(folder)
        if (results := folder.results()) is None:
            results = close_records(folder, job, result or {}, error)
            self._mirror.push(folder.metrics_file, folder.results_file)
        self.arms[job.arm].end(job, results)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Draw ahead from the first report on; the study gets intermediate values with the end."""
        self._at_most = None

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: Tune's snapshot is never read back."""

    def restore(self, checkpoint_path: str) -> None:
        """Refuse."""
        raise RuntimeError("a sweep resumes from its own records: launch.py SWEEP --resume")


def repair_journal(journal: Path) -> None:
    """Cut off the half line that a killed launcher or a full disk left."""
    if not journal.exists():
        return
    with journal.open("r+b") as file:
        data = file.read()
        file.truncate(data.rfind(b"\n") + 1)


def close_records(folder: TrialDir, job: Job, last: dict[str, Any], error: bool) -> Results:
    """Write the results.json that a trial's worker could not, from what the trial left."""
    folder.clear()
    rows = folder.metrics()
    folder.metrics_file.touch()
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
    write_json(folder.results_file, results)
    return results
