"""From Python: `run_experiment` trains one trial here and now, `run_sweep` runs a whole sweep as launch.py does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attnlab.check import checked, precision_problems, try_own_mixers
from attnlab.config import Sweep, SweepError, Trial, load_sweep
from attnlab.runs import Job, Results, TrialDir, write_json


def run_experiment(
    trial: Trial | Mapping[str, Any],
    results_dir: str | Path = "results",
    *,
    name: str = "experiment",
    device: str | None = None,
    kernel_cache: str | Path | None = None,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
) -> Results:
    """Train one trial in this process, without Ray; resumes from its checkpoint; a no-op if it has ended.

    Args:
        trial: a `Trial`, or `{"model": ..., "task": ..., "optim": ..., "train": ...}`.
        results_dir: the trial's folder becomes `<results_dir>/<name>/<trial_id>/`.
        device: `cpu`, `cuda`, ...; default: CUDA where there is any.
        kernel_cache: where tuned kernels are kept; default: $ATTNLAB_KERNEL_CACHE, or `.attnlab-kernels` beside
            `results_dir`. A process keeps to its first.
        report: called with every row of metrics.jsonl.

    Returns:
        What `results.json` holds.

    Raises:
        SweepError (a ValueError): everything wrong with the trial, one line each.
    """
    import torch

    from attnlab.kernels import warm
    from attnlab.train import train

    tree = trial.model_dump(mode="json", exclude_none=True) if isinstance(trial, Trial) else dict(trial)
    sweep = checked({"name": name, "trial": tree, "arms": {name: {}}})
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if torch.device(device).type == "cuda" and (problems := precision_problems(sweep.trial_of(name), name)):
        raise SweepError(problems)
    job = Job.make(name, 0, sweep.trial_of(name))
    home = TrialDir(Path(results_dir) / name / job.trial_id)
    if home.results() is None:  # finished work is a no-op
        try_own_mixers(sweep)
    write_json(home.config_file, job.model_dump(mode="json"))
    cache = warm.use(warm.directory(kernel_cache, results_dir), device)
    return train(job, home, report, device=device, cache=cache)


def run_sweep(
    sweep: Sweep | Mapping[str, Any] | str | Path,
    results_dir: str | Path = "results",
    *,
    overrides: Sequence[str] = (),
    address: str | None = None,
    resume: bool = False,
    kernel_cache: str | Path | None = None,
) -> dict[str, Any]:
    """Run a sweep to its end.

    Args:
        sweep: a `Sweep`, a sweep file's tree, or its path (`overrides` go with a path).
        results_dir: holds the sweep's folder; on a cluster every node must see it.
        address: None: Ray on this machine; `auto` or an URL: a cluster that is up.
        resume: go on with what the folder holds.
        kernel_cache: as `run_experiment`'s; on a cluster every node must see it.

    Returns:
        What `leaderboard.json` holds.

    Raises:
        SweepError, EngineError: as on the command line; nothing was written.
    """
    from attnlab.sweep.engine import run
    from attnlab.sweepfile import normal

    if isinstance(sweep, (str, Path)):
        sweep = load_sweep(sweep, overrides)
    elif not isinstance(sweep, Sweep):
        sweep = checked(normal(dict(sweep)))
    return run(sweep, Path(results_dir), address=address, resume=resume, kernel_cache=kernel_cache)
