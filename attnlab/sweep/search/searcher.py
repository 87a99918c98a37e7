"""What runs next: arms in turn with equal quotas, each with an Optuna study.

All state is on disk, in the studies' journal and the trials' results.json, so a killed sweep goes on where it was.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

from ray.tune.search import Searcher

from attnlab.config.resolved import Plan
from attnlab.config.trial import Trial
from attnlab.plan.extension import Extension, extension
from attnlab.records.mend import set_aside
from attnlab.records.metrics import best_row, digest, learning_curve, steps_run
from attnlab.records.mirror import Mirror
from attnlab.records.paths import TrialDir
from attnlab.records.reading import Damaged
from attnlab.records.results import Hashes, Job, Results
from attnlab.sweep.search.asha import Reports
from attnlab.sweep.search.journal import open_studies
from attnlab.sweep.search.snapshot import EmptySnapshot
from attnlab.util.errors import StorageError
from attnlab.util.files import write_json


class ArmSearch(EmptySnapshot, Searcher):
    """Tune's searcher: asks the arm with the fewest trials. Until one reports, at most `at_first` run at once.

    `hashes` gives what a new trial records of its files.
    """

    def __init__(
        self,
        plan: Plan,
        mirror: Mirror,
        at_first: int | None = None,
        hashes: Callable[[Trial], Hashes | None] = lambda trial: None,
    ):
        super().__init__(metric=plan.metric, mode=plan.mode)
        self.arms = open_studies(plan, mirror, hashes)
        self._plan, self._folder, self._mirror, self._at_most = plan, mirror.folder, mirror, at_first
        self._live: dict[str, Job] = {}
        self._extension: Extension | None = None  # not known yet
        self.refused: OSError | StorageError | None = None  # what could not be written, which ends the sweep

    def reports(self) -> Iterator[Reports]:
        """Every job of an earlier session with its reports."""
        for arm in self.arms.values():
            for job in arm.jobs.values():
                yield job, self._folder.trial(arm.name, job.trial_id).metrics()

    def results(self) -> list[Results]:
        """Every trial that ended, in this session or before, by arm and number."""
        return [results for arm in self.arms.values() for _, results in sorted(arm.ended.items())]

    @property
    def ended(self) -> int:
        """How many trials have ended."""
        return sum(len(arm.ended) for arm in self.arms.values())

    def job_of(self, trial: Any) -> Job:
        """The job of one of Tune's trials."""
        return self.arms[trial.config["job"]["arm"]].jobs[trial.config["job"]["trial_id"]]

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Do nothing: metric and mode come from the plan."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next job as Tune's config; None: ask later; FINISHED: none will come."""
        if self._at_most is not None and len(self._live) >= self._at_most:
            return None
        settled = self._settle()
        for arm in sorted(self.arms.values(), key=lambda arm: (not arm.begins, arm.issued)):
            if (job := arm.next(settled)) is not None:
                self._live[trial_id] = job
                return {"job": job.model_dump(mode="json")}
        return None if self._live else Searcher.FINISHED  # what runs may yet call for more

    def _settle(self) -> bool:
        """Whether it is known if the search is extended; if so, extend every arm."""
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
        """End one of Tune's trials: its study gets what the trial's own records say.

        What cannot be written is kept for the sweep's end: Tune would log it whole and call again.
        """
        self._at_most = None
        if (job := self._live.get(trial_id)) is None:  # told before
            return
        try:
            self._end(job, result or {}, error)
        except (OSError, StorageError) as why:
            self.refused = self.refused or why
        else:
            del self._live[trial_id]

    def _end(self, job: Job, result: dict[str, Any], error: bool) -> None:
        folder = self._folder.trial(job.arm, job.trial_id)
        self._mirror.fetch(folder)
        folder.config_file.stat()  # else the sweep's folder is gone, and writing into it would make it anew
        try:
            results = folder.results()
        except Damaged as damage:
            print(f"attnlab: {damage}; set aside as {set_aside(folder.results_file).name}", file=sys.stderr, flush=True)
            results = None
        if results is None:
            results = close_records(folder, job, result, error)
            self._mirror.push(folder.metrics_file, folder.results_file)
        self.arms[job.arm].end(job, results)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Draw ahead from the first report on; the study gets reports at a trial's end."""
        self._at_most = None

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: Tune's snapshot is never read back."""

    def restore(self, checkpoint_path: str) -> None:
        """Refuse."""
        raise RuntimeError("a sweep resumes from its own records: launch.py SWEEP --resume")


def close_records(folder: TrialDir, job: Job, last: dict[str, Any], error: bool) -> Results:
    """Write the results.json that a trial's worker could not, from the trial's reports."""
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
        reports=digest(rows),
        seconds=seconds,
        device_seconds=seconds,
        **dict.fromkeys(("n_params", "n_params_non_embedding", "flops_per_token", "state_bytes", "checkpoint")),
        recipe=job.trial.recipe,
        error=last.get("error") or ("the relay of this trial died" if error else "the trial ended without results"),
        environment={},
    )
    write_json(folder.results_file, results)
    return results
