"""TensorBoard events in a trial's own folder: scalars as they come, hyperparameters with the final values."""

from __future__ import annotations

from typing import Any

from torch.utils.tensorboard import SummaryWriter

from attnlab.runs import Job, Results, TrialDir

SKIP = ("step", "tokens")


class Board:
    """Writes one trial's events."""

    def __init__(self, trial: TrialDir, resumed_step: int):
        """Events after `resumed_step` of an earlier attempt are purged: they are made again."""
        self._writer = SummaryWriter(str(trial.path), purge_step=resumed_step + 1 if resumed_step else None)

    def write(self, row: dict[str, Any]) -> None:
        """One report: every number of it as a scalar over the step."""
        for key, value in row.items():
            if key not in SKIP and value is not None:
                self._writer.add_scalar(key, value, row["step"])
        self._writer.flush()

    def close(self, job: Job, results: Results) -> None:
        """Hyperparameters (the sampled settings, the arm, the seed) beside the best values, for the HPARAMS tab."""
        settings = {"arm": job.arm, "seed": job.trial.train.seed, "state": results["state"], **job.settings}
        plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in settings.items()}
        best = results["best"] or {}
        metrics = {f"best/{k}": v for k, v in best.items() if k not in SKIP and isinstance(v, (int, float))}
        self._writer.add_hparams(plain, metrics or {"best/none": 0.0}, run_name=".", global_step=results["steps"])
        self._writer.close()
