"""One arm's search: its Optuna study, quota and jobs."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import optuna
from optuna.distributions import check_distribution_compatibility
from optuna.trial import TrialState

from attnlab.config.resolved import Arm, Plan
from attnlab.config.samplers import SAMPLERS
from attnlab.config.space import Dimension, grid
from attnlab.config.sweep import SearchConfig
from attnlab.config.trial import Trial
from attnlab.ranking.candidates import best_settings, final_value
from attnlab.ranking.search_coverage import number_of
from attnlab.records.metrics import pruning_reports
from attnlab.records.paths import SweepDir
from attnlab.records.results import Hashes, Job, Results
from attnlab.sweep.search.backfill import backfill_study
from attnlab.sweep.search.cmaes import state_in
from attnlab.sweep.search.samplers import make_sampler
from attnlab.util.files import write_json

optuna.logging.set_verbosity(optuna.logging.WARNING)
REPEATS = 20  # how often a sampler is asked for settings that were not tried yet


class ArmStudy:
    """One arm's study, its quota and its jobs."""

    def __init__(
        self,
        arm: Arm,
        plan: Plan,
        folder: SweepDir,
        storage: optuna.storages.BaseStorage,
        hashes: Callable[[Trial], Hashes | None] = lambda trial: None,
    ):
        self.name, self._arm, self._plan, self._folder = arm.name, arm, plan, folder
        self._hashes = hashes
        self.search = plan.sweep.search
        goal = "minimize" if plan.mode == "min" else "maximize"
        self.study = optuna.create_study(storage=storage, study_name=arm.name, direction=goal, load_if_exists=True)
        self.quota = plan.quota(arm.name)
        self._space = arm.space
        self.jobs = {t.trial_id: t.job() for t in folder.trials(arm.name)}
        self.ended: dict[str, Results] = {i: r for i in self.jobs if (r := folder.trial(arm.name, i).results())}
        self._check_study()
        backfill_study(self.study, self.jobs.values(), self._space)
        self._adopt_open_trials()
        self.unfinished = deque(job for job in self.jobs.values() if job.trial_id not in self.ended)
        self.issued = sum(job.phase != "noise" and i in self.ended for i, job in self.jobs.items())

    def next(self, settled: bool) -> Job | None:
        """The next job to run now, if any. `settled`: it is known if the search is extended, so seeds may run."""
        if self.unfinished:  # of an earlier session
            job = self.unfinished.popleft()
        elif seeds := self.noise_seeds:
            job = self._make(seeds[0], self._arm.with_settings({}, seed=seeds[0]), phase="noise")
        elif self.search and sum(job.phase == "search" for job in self.jobs.values()) < self.quota:
            job = self._ask(self.search)
        else:
            job = self._seed_run() if settled else None
        if job is None:
            return None
        self.issued += job.phase != "noise"
        self.jobs[job.trial_id] = job
        write_json(self._folder.trial(self.name, job.trial_id).config_file, job.model_dump(mode="json"))
        return job

    @property
    def begins(self) -> bool:
        """Whether it has jobs that come before any search."""
        return bool(self.unfinished or self.noise_seeds)

    @property
    def noise_seeds(self) -> list[int]:
        """Seeds of `noise` that have no run yet, if this is its arm."""
        noise = self._plan.sweep.noise
        if noise is None or noise.arm != self.name:
            return []
        begun = {job.trial.train.seed for job in self.jobs.values() if job.phase == "noise"}
        return [seed for seed in noise.values if seed not in begun]

    def end(self, job: Job, results: Results) -> None:
        """Note a trial's end, also in the study."""
        self.ended[job.trial_id] = results
        if job.phase == "search":
            self._tell(job)

    @property
    def searched(self) -> list[Results]:
        """The search trials that have ended, by number."""
        return sorted((r for r in self.ended.values() if r["phase"] == "search"), key=number_of)

    def extend(self, trials: int, space: Mapping[str, Dimension]) -> None:
        """Extend the search by a number of trials, in another space."""
        self.quota, self._space = self.quota + trials, space

    def _ask(self, search: SearchConfig) -> Job:
        """A job with new settings; repeated ones get the value they have."""
        distributions = {key: d.distribution() for key, d in self._space.items()}
        finite = math.isfinite(math.prod(d.points for d in self._space.values()))
        tried = self._tried
        for attempt in count():
            number = len(self.study.get_trials(deepcopy=False))
            self.study.sampler = make_sampler(search, number)
            if attempt >= REPEATS and not finite:
                self.study.sampler = optuna.samplers.RandomSampler(seed=number)
            elif attempt >= REPEATS or SAMPLERS[search.sampler].exhaustive:
                fresh = (point for point in grid(self._space) if canonical(point) not in tried)
                self.study.enqueue_trial(next(fresh))
            trial = self.study.ask(distributions)
            if (same := tried.get(canonical(trial.params))) is None:
                return self._job(trial)
            self._tell_value(trial.number, same)

    @property
    def _tried(self) -> dict[str, Job]:
        """The search's jobs by their settings."""
        return {canonical(job.settings): job for job in self.jobs.values() if job.phase == "search"}

    def _job(self, trial: optuna.trial.Trial | optuna.trial.FrozenTrial) -> Job:
        settings = dict(trial.params)
        config = self._arm.with_settings(settings)
        branches = self.search.asha.branches(config) if self.search and self.search.asha else {}
        return self._make(trial.number, config, settings=settings, branches=branches)

    def _make(self, number: int, trial: Trial, **rest: Any) -> Job:
        facts = {"metric": self._plan.metric, "mode": self._plan.mode, "hashes": self._hashes(trial)}
        return Job.make(self.name, number, trial, **facts, **rest)

    def _seed_run(self) -> Job | None:
        """One of the best settings, or the arm as declared, under its next seed.

        None while the search goes on, when all have run, or if no trial gave a value.
        """
        seeds, chosen = self._plan.seeds, [{}]
        if self.search:
            if len(self.searched) < self.quota or not seeds:
                return None
            top = self._plan.sweep.confirm.top if self._plan.sweep.confirm else 1
            chosen = best_settings(self.searched, self._plan.metric, self._plan.mode, top)
        else:
            seeds = seeds or (self._arm.trial.train.seed,)
        runs = [(job.settings, job.trial.train.seed) for job in self.jobs.values() if job.phase == "confirm"]
        left = [(settings, seed) for seed in seeds for settings in chosen if (settings, seed) not in runs]
        if not left:
            return None
        settings, seed = left[0]
        taken = (job.number for job in self.jobs.values() if job.phase != "noise")
        number = max([self.quota - 1, *taken]) + 1
        return self._make(number, self._arm.with_settings(settings, seed), settings=settings, phase="confirm")

    def _adopt_open_trials(self) -> None:
        """Close or adopt the study's open trials. They get their value on disk, or a job of the same number."""
        jobs = {job.number: job for job in self.jobs.values() if job.phase == "search"}
        tried = self._tried
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state is not TrialState.RUNNING:
                self._adopt_lost(trial, jobs)
            elif job := jobs.get(trial.number):
                if job.trial_id in self.ended:
                    self._tell(job)
            elif same := tried.get(canonical(trial.params)):  # a repetition without a value yet
                self._tell_value(trial.number, same)
            else:
                job = self._job(trial)
                self.jobs[job.trial_id] = job

    def _adopt_lost(self, trial: optuna.trial.FrozenTrial, jobs: Mapping[int, Job]) -> None:
        """Take up again a job that ended and whose experiment_config.json is lost."""
        if trial.number in jobs or not trial.params:
            return
        job = self._job(trial)
        if self._folder.trial(self.name, job.trial_id).path.is_dir():
            self.jobs[job.trial_id] = job

    def _check_study(self) -> None:
        """Raise ValueError if the study contradicts the trials' records, which are the truth."""
        jobs = {job.number: job for job in self.jobs.values() if job.phase == "search"}
        if self.study.direction.name.lower() != ("minimize" if self._plan.mode == "min" else "maximize"):
            raise ValueError(f"study {self.name}: it has direction {self.study.direction.name}")
        for trial in self.study.get_trials(deepcopy=False):
            state_in(trial)
            for key, distribution in trial.distributions.items():
                if key in self._space:
                    check_distribution_compatibility(distribution, self._space[key].distribution())
            if (job := jobs.get(trial.number)) is None:
                continue
            if trial.params != job.settings:
                raise ValueError(f"study {self.name}: trial {trial.number} has other settings than {job.trial_id}")
            results = self.ended.get(job.trial_id)
            value = trial.value if trial.state is TrialState.COMPLETE else None
            if results and trial.state.is_finished() and (trial.state, value) not in _outcomes(results, job.metric):
                raise ValueError(f"study {self.name}: trial {trial.number} ended otherwise than {job.trial_id}")

    def _tell(self, job: Job) -> None:
        """Give the study the reports and the value of a job that ended."""
        frozen = self.study.get_trials(deepcopy=False)[job.number]
        if frozen.state is not TrialState.RUNNING:
            return
        trial = optuna.trial.Trial(self.study, frozen._trial_id)
        for row in pruning_reports(job, self._folder.trial(self.name, job.trial_id).metrics()):
            if row.get(job.metric) is not None:
                trial.report(row[job.metric], row["step"])
        trial.set_user_attr("trial_id", job.trial_id)
        pruned = self.ended[job.trial_id]["state"] == "pruned"
        self._tell_value(job.number, job, TrialState.PRUNED if pruned else TrialState.FAIL)

    def _tell_value(self, number: int, job: Job, otherwise: TrialState = TrialState.FAIL) -> None:
        """Give the study's trial `number` a completed job's value, or a state."""
        results = self.ended.get(job.trial_id)
        if results and (value := final_value(results, job.metric)) is not None:
            self.study.tell(number, value)
        else:
            self.study.tell(number, state=otherwise)


def _outcomes(results: Results, metric: str) -> list[tuple[TrialState, float | None]]:
    """What a study may have been told of a trial's end. Older versions told a completed one's best value."""
    last, best = final_value(results, metric), results["best"]
    if last is not None:
        return [(TrialState.COMPLETE, value) for value in (last, best and best[metric])]
    return [(TrialState.PRUNED if results["state"] == "pruned" else TrialState.FAIL, None)]


def canonical(settings: Mapping[str, Any]) -> str:
    """Settings as a text that is equal for equal ones."""
    return json.dumps(settings, sort_keys=True)
