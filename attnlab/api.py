"""From Python: `run_experiment` trains one trial, `run_sweep` runs a sweep as launch.py does.

Both work in scripts and in notebooks. Neither needs an `if __name__ == "__main__"` around it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from attnlab.config import sweep_file
from attnlab.config.resolved import Plan
from attnlab.config.sweep import Sweep
from attnlab.config.trial import Trial
from attnlab.plan import memory
from attnlab.plan.direction import filled
from attnlab.plan.guards.run import run_guards
from attnlab.plan.load import load, read, resolve
from attnlab.plan.prepare import check_device, prepare_tasks
from attnlab.plan.provenance import UNKNOWN_FILES, Provenance
from attnlab.ranking.leaderboard import Leaderboard
from attnlab.records.mend import standing
from attnlab.records.mirror import mirror
from attnlab.records.paths import SweepDir, TrialDir
from attnlab.records.results import Job, Results
from attnlab.records.storage import local
from attnlab.sweep import engine
from attnlab.sweep.ui.progress import table
from attnlab.training import kernel_cache as tuned
from attnlab.training.loop import train
from attnlab.util import trust as trusted
from attnlab.util.errors import UserError
from attnlab.util.files import read_json, write_json
from attnlab.util.secret import masked
from attnlab.util.text import did_you_mean, say_once


@dataclass(frozen=True, repr=False)
class SweepResults:
    """A sweep that was run. Shown as its leaderboard, in a terminal and in a notebook."""

    plan: Plan  # the sweep as it was run, resolved
    folder: Path  # its results, `<results_dir>/<sweep's name>/`; `python -m analysis FOLDER` writes the report
    leaderboard: Leaderboard  # what leaderboard.json holds

    @classmethod
    def read(cls, folder: str | Path, trust: Sequence[str] = ()) -> SweepResults:
        """The results that launch.py or `run_sweep` left in a folder. Raises OSError or ValueError without any.

        Own mixers that the folder names are imported, when it comes to building them, only if `trust` names their
        modules (or a sweep file or a trial that you gave to this process did). As that is later, this process
        trusts them from now on.
        """
        trusted.name(trust)
        sweep_dir = SweepDir(Path(folder))
        return cls(read(sweep_dir.sweep_file), sweep_dir.path, read_json(sweep_dir.leaderboard_file))

    @property
    def sweep(self) -> Sweep:
        """The sweep's file, with what was solved for it."""
        return self.plan.sweep

    @property
    def arms(self) -> list[str]:
        """The arms, the best first."""
        return self.leaderboard["ranking"]

    @property
    def trials(self) -> list[Results]:
        """Every trial's results.json, those of pruned, diverged and failed ones too."""
        return [r for r in SweepDir(self.folder).results() if r["arm"] in self.leaderboard["arms"]]

    def best(self, arm: str | None = None) -> Results:
        """The best trial of an arm, by default the first. Without a search, of its runs.

        Raises ValueError: there is no such arm, or none of its trials gave a value.
        """
        arm = self._known(arm)
        best = self.leaderboard["arms"][arm]["best"]
        if best is None or (results := self.trial_dir(arm, best["trial_id"]).results()) is None:
            raise ValueError(f"{arm}: none of its trials gave a value")
        return results

    def confirmed(self, arm: str | None = None) -> list[Results]:
        """An arm's unstopped runs, one per seed of `confirm`, by default the first arm's."""
        arm = self._known(arm)
        return [r for r in self.trials if r["arm"] == arm and r["phase"] == "confirm"]

    def trial_dir(self, arm: str, trial_id: str) -> TrialDir:
        """A trial's folder: `.metrics()` is its learning curve, `.final` the model as transformers loads it."""
        return SweepDir(self.folder).trial(arm, trial_id)

    def _known(self, arm: str | None) -> str:
        if arm is not None and arm not in self.leaderboard["arms"]:
            raise ValueError(f"{arm}: no such arm{did_you_mean(arm, self.arms)}")
        return arm or self.arms[0]

    def _leaderboard_console(self) -> Console:
        console = Console(record=True, file=StringIO(), width=140, highlight=False, force_jupyter=False)
        console.print(table(self.leaderboard))
        console.print(Text(self.leaderboard.get("answer", "")))  # older folders have none
        return console

    def __repr__(self) -> str:
        return self._leaderboard_console().export_text().rstrip()

    def _repr_html_(self) -> str:
        code = '<pre style="line-height:1.2">{code}</pre>'
        return self._leaderboard_console().export_html(inline_styles=True, code_format=code)


def run_experiment(
    trial: Trial | Mapping[str, Any],
    results_dir: str | Path = "results",
    *,
    name: str = "experiment",
    device: str | None = None,
    kernel_cache: str | Path | None = None,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
) -> Results:
    """Train one trial in this process, without Ray.

    It resumes from its checkpoint, and is a no-op if it has ended.

    Args:
        trial: a `Trial`, or `{"model": ..., "task": ..., "optim": ..., "train": ...}`, dotted keys too.
        results_dir: the trial's folder becomes `<results_dir>/<name>/<trial_id>/`.
        device: `cpu`, `cuda`, ...; default: CUDA where there is any.
        kernel_cache: the folder of tuned kernels; default: $ATTNLAB_KERNEL_CACHE, or `.attnlab-kernels` next to
            `results_dir`. A process stays with its first.
        report: called with every row of metrics.jsonl, such as `print`.

    Returns:
        What `results.json` holds, a mapping with the keys of `attnlab.records.results.Results`.

    Raises:
        UserError (a ValueError): everything wrong with the trial or its data, one line each.
    """
    if (root := local(results_dir)) is None:
        given = masked(str(results_dir))
        raise UserError([f"results_dir {given}: one experiment is written to a folder; run_sweep takes a URI"])
    tree = trial.model_dump(mode="json", exclude_none=True) if isinstance(trial, Trial) else dict(trial)
    if isinstance(trial, Trial) and "recipe" not in trial.model_fields_set:
        del tree["recipe"]
    plan = resolve(sweep_file.normal({"name": name, "trial": tree, "arms": {name: {}}}))
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(plan, torch.device(device).type)
    job = Job.make(name, 0, plan.arm(name).trial)
    if "recipe" not in tree:  # what began under an earlier recipe goes on under it
        older = [job.trial.model_copy(update={"recipe": n}) for n in range(job.trial.recipe, 0, -1)]
        jobs = [Job.make(name, 0, trial) for trial in older]
        job = next((j for j in jobs if TrialDir(root / name / j.trial_id).config_file.exists()), job)
    folder = TrialDir(root / name / job.trial_id)
    kernels = tuned.directory(kernel_cache, results_dir)
    if begun := folder.config_file.exists():
        with suppress(ValueError):  # a damaged one is written anew
            job = job.model_copy(update={"hashes": folder.job().hashes})
        if job.hashes is None:
            say_once(f"{folder.path}: {UNKNOWN_FILES}")
        if changed := Provenance().changes([job]):
            raise UserError(f"{folder.path}: {'; '.join(changed)} since it began; put it back, or give another `name`")
    if standing(folder, job).results is None:  # finished work is a no-op
        memory.check(plan, memory.Room.here(float(torch.device(device).type == "cuda")))
        prepared = prepare_tasks(plan)
        run_guards(plan, prepared)
        if not begun:
            job = job.model_copy(update={"hashes": Provenance([(job.trial, prepared[name])]).of(job.trial)})
    write_json(folder.config_file, job.model_dump(mode="json"))
    return train(job, folder, report, device=device, cache=tuned.use(kernels, device))


def run_sweep(
    sweep: Plan | Sweep | Mapping[str, Any] | str | Path,
    results_dir: str | Path = "results",
    *,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    plain: bool = False,
    scale: str | None = None,
    address: str | None = None,
    resume: bool = False,
    kernel_cache: str | Path | None = None,
    trust: Sequence[str] = (),
) -> SweepResults:
    """Run a sweep to its end.

    Args:
        sweep: a sweep file's path, its tree, or what `load_sweep` gives, which is run as it is.
        results_dir: holds the sweep's folder, a path or a URI; on a cluster every node must see it.
        overrides: `a.b=c` texts, to a file.
        only: these arms alone; with `resume`, in addition to arms already begun.
        plain, scale: as launch.py's `--plain` and `--scale`, of a file or a tree.
        address: None: the Ray that this process is connected to (by `ray.init`), which is left up; without one, a Ray
            of this machine, which ends with the sweep. `auto` or an URL: a cluster that is up.
        resume: go on with what the folder holds.
        kernel_cache: as `run_experiment`'s; on a cluster every node must see it.
        trust: modules of own mixers that a `Plan` or a `Sweep` may import, for this call. Those in a file or a tree of
            yours may be imported by this process.

    Raises:
        UserError: as on the command line; nothing was written.
        SweepStopped: it cannot go on here, such as for a full disk. What ended stays, and `resume` goes on.
    """
    if overrides and not isinstance(sweep, (str, Path)):
        raise UserError(["overrides: they change a sweep file; change the tree, or give a path"])
    with trusted.naming(trust):
        resume_in = results_dir if resume else None
        if isinstance(sweep, (str, Path)):
            plan = load(sweep, overrides, plain=plain, scale=scale, resume_in=resume_in)
        elif isinstance(sweep, Mapping):
            tree = sweep_file.normal(dict(sweep))
            plan = resolve(sweep_file.plain(tree) if plain else tree, scale=scale, resume_in=resume_in)
        elif plain or scale:
            raise UserError(["plain, scale: of a sweep file or its tree; a Sweep is run as it is"])
        else:
            plan = sweep if isinstance(sweep, Plan) else filled(Plan.of(sweep))
        plan = plan.only(only) if only else plan
        for arm in plan.arms:  # of a Plan that was read from a folder
            for mixer in arm.trial.model.mixer:
                if ":" in mixer.name:
                    trusted.require(mixer.name, f"arms.{arm.name}.model.mixer")
        board = engine.run(plan, results_dir, address=address, resume=resume, kernel_cache=kernel_cache)
    return SweepResults(plan.rejoined(board["arms"]), mirror(results_dir, plan.name).folder.path, board)
