"""What runs next: one Optuna study per arm, arms admitted in turn with equal quotas, and the truth told to each study.

The state is the disk's: a study is reopened from the journal and every trial's end is read from its results.json, so a
sweep that was killed goes on where it was, under another version of ray if need be.
"""

from __future__ import annotations

from collections import deque
from itertools import product
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from attnlab.config import SearchConfig, Sweep
from attnlab.runs import Job, Results, SweepDir, best_row, judged, steps_run, trunk, write_json
from attnlab.standings import best_result
from attnlab.sweep.scheduler import ArmAsha
from attnlab.sweep.tpe import WindowedTPE
from attnlab.sweep.transient import Transient

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Arm:
    """One arm's study, its quota and the jobs that are still to run."""

    def __init__(self, name: str, sweep: Sweep, folder: SweepDir, storage: optuna.storages.BaseStorage):
        self.name, self._sweep, self._folder = name, sweep, folder
        self.search = sweep.search
        self.study = optuna.create_study(
            storage=storage,
            study_name=name,
            direction="minimize" if sweep.mode == "min" else "maximize",
            load_if_exists=True,
        )
        self._distributions = {k: d.distribution() for k, d in self.search.dimensions.items()} if self.search else {}
        self.jobs = {t.trial_id: t.job() for t in folder.trials(name)}
        self.ended: dict[str, Results] = {i: r for i in self.jobs if (r := folder.trial(name, i).results())}
        self._adopt()
        self.unfinished = deque(job for job in self.jobs.values() if job.trial_id not in self.ended)
        self.issued = len(self.jobs) - len(self.unfinished)

    def next(self) -> Job | None:
        """The next job: unfinished ones of an earlier session first. None: nothing to run now."""
        if self.unfinished:
            job = self.unfinished.popleft()
        elif self.search and self.count("search") < self.search.trials_per_arm:
            job = self._ask(self.search)
        else:
            job = self._seed_run()
        if job is None:
            return None
        self.issued += 1
        self.jobs[job.trial_id] = job
        write_json(self._folder.trial(self.name, job.trial_id).config_file, job.model_dump(mode="json"))
        return job

    def count(self, phase: str) -> int:
        """Jobs of a phase begun so far, in this session or before."""
        return sum(job.phase == phase for job in self.jobs.values())

    def end(self, job: Job, results: Results) -> None:
        """Take note of a trial's end and tell the study."""
        self.ended[job.trial_id] = results
        if job.phase == "search":
            self._tell(job, results)

    @property
    def _quota(self) -> int:
        return self.search.trials_per_arm if self.search else 0

    def _ask(self, search: SearchConfig) -> Job:
        number = len(self.study.get_trials(deepcopy=False))
        self.study.sampler = sampler(search, number)
        if search.sampler == "grid":
            self.study.enqueue_trial(grid(search)[number])
        return self._job(self.study.ask(self._distributions))

    def _job(self, trial: optuna.trial.Trial | optuna.trial.FrozenTrial) -> Job:
        settings = dict(trial.params)
        made = self._sweep.trial_of(self.name, settings)
        branches = self.search.asha.branches(made) if self.search and self.search.asha else {}
        return self._make(trial.number, made, settings=settings, branches=branches)

    def _make(self, number: int, trial: Any, **rest: Any) -> Job:
        return Job.make(self.name, number, trial, metric=self._sweep.metric, mode=self._sweep.mode, **rest)

    def _seed_run(self) -> Job | None:
        """The arm's best setting (or, without a search, the arm as it is) under the next seed; None while the search
        goes on, when every seed has had its run, or if no trial gave a value.

        A search that was extended may have another best setting: it is confirmed anew.
        """
        seeds, settings = self._sweep.seeds, {}
        if self.search:
            searched = [r for r in self.ended.values() if r["phase"] == "search"]
            best = best_result(searched, self._sweep.metric, self._sweep.mode)
            if len(searched) < self._quota or best is None:
                return None
            settings = best["settings"]
        else:
            seeds = seeds or (self._sweep.trial_of(self.name).train.seed,)
        runs = [job for job in self.jobs.values() if job.phase == "confirm" and job.settings == settings]
        left = [seed for seed in seeds if seed not in {job.trial.train.seed for job in runs}]
        if not left:
            return None
        number = self._quota + self.count("confirm")
        trial = self._sweep.trial_of(self.name, settings, left[0])
        return self._make(number, trial, settings=settings, phase="confirm")

    def _adopt(self) -> None:
        """Bring journal and folders together after a crash: a study's open trial that has ended is told; one that was
        asked for but never written becomes a job again, under the same number."""
        known = {job.number: job for job in self.jobs.values() if job.phase == "search"}
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state is not TrialState.RUNNING:
                continue
            job = known.get(trial.number)
            if job is None:
                job = self._job(trial)
                self.jobs[job.trial_id] = job
            elif job.trial_id in self.ended:
                self._tell(job, self.ended[job.trial_id])

    def _tell(self, job: Job, results: Results) -> None:
        """COMPLETE with its value, PRUNED with what it reported on the way, FAIL for diverged and failed ones."""
        frozen = self.study.get_trials(deepcopy=False)[job.number]
        if frozen.state is not TrialState.RUNNING:
            return
        rows = self._folder.trial(self.name, job.trial_id).metrics()
        trial = optuna.trial.Trial(self.study, frozen._trial_id)
        for row in judged(job, rows):
            if row.get(job.metric) is not None:
                trial.report(row[job.metric], row["step"])
        trial.set_user_attr("trial_id", job.trial_id)
        best = best_row(rows, job.metric, job.mode)
        if results["state"] == "completed" and best:
            self.study.tell(trial, best[job.metric])
        else:
            self.study.tell(trial, state=TrialState.PRUNED if results["state"] == "pruned" else TrialState.FAIL)


def sampler(search: SearchConfig, number: int) -> optuna.samplers.BaseSampler:
    """The sampler of an arm's trial `number`. It is made anew for each, seeded by (seed, number): a resumed study goes
    on as it would have, and until the model-based phase begins, arms with the same space get the same settings."""
    seed = (search.seed * 100_003 + number) % 2**32
    if search.sampler == "tpe":
        return WindowedTPE(seed=seed, constant_liar=True, n_startup_trials=min(10, max(3, search.trials // 3)))
    return optuna.samplers.RandomSampler(seed=seed)


def grid(search: SearchConfig) -> list[dict[str, Any]]:
    """Every combination of the choices, in the order written."""
    names = list(search.dimensions)
    return [
        dict(zip(names, values, strict=True)) for values in product(*(d.choices for d in search.dimensions.values()))
    ]


class ArmSearch(Transient, Searcher):
    """Tune's searcher: asks the arm that has been given fewest trials so far; equal quotas by construction."""

    def __init__(self, sweep: Sweep, folder: SweepDir):
        super().__init__(metric=sweep.metric, mode=sweep.mode)
        backend = optuna.storages.journal.JournalFileBackend(str(folder.journal_file))
        storage = optuna.storages.JournalStorage(backend)
        self.arms = {name: Arm(name, sweep, folder, storage) for name in sweep.arms}
        self._folder = folder
        self._live: dict[str, Job] = {}

    def replay(self, asha: ArmAsha) -> None:
        """Rebuild the brackets from what earlier sessions reported."""
        for arm in self.arms.values():
            for job in arm.jobs.values():
                asha.replay(job, self._folder.trial(arm.name, job.trial_id).metrics())

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True  # the sweep has said everything

    def suggest(self, trial_id: str) -> Any:
        """The next job as Tune's config; None: ask again later; FINISHED: there is none to come."""
        order = {name: i for i, name in enumerate(self.arms)}
        for arm in sorted(self.arms.values(), key=lambda a: (not a.unfinished, a.issued, order[a.name])):
            if (job := arm.next()) is not None:
                self._live[trial_id] = job
                return {"job": job.model_dump(mode="json")}
        return (
            None if self._live else Searcher.FINISHED
        )  # what runs may yet call for more; if nothing does, nothing will

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Told by Tune; what is told to the study is read from the trial's own records."""
        job = self._live.pop(trial_id)
        self.arms[job.arm].end(job, close_records(self._folder, job, result or {}, error))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing to do: intermediate values are told with the end."""

    def save(self, checkpoint_path: str) -> None:
        """Tune's snapshot: empty, because nothing of ours reads it back."""

    def restore(self, checkpoint_path: str) -> None:
        raise RuntimeError("a sweep resumes from its own records: launch.py SWEEP --resume")


def close_records(folder: SweepDir, job: Job, last: dict[str, Any], error: bool) -> Results:
    """A trial's results.json; where training could not write it (it failed, or its worker kept dying), it is written
    here from what the trial left."""
    home = folder.trial(job.arm, job.trial_id)
    if (results := home.results()) is not None:
        return results
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
        last=trunk(rows)[-1] if rows else None,
        seconds=seconds,
        device_seconds=seconds,
        n_params=None,
        n_params_non_embedding=None,
        checkpoint=None,
        error=last.get("error") or ("the relay of this trial died" if error else "the trial ended without results"),
        environment={},
    )
    write_json(home.results_file, results)
    return results
