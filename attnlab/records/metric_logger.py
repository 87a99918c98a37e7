"""What a trial writes into its folder while it trains: metrics.jsonl, results.json and TensorBoard events."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from attnlab.records.metrics import MetricsWriter
from attnlab.records.paths import TrialDir
from attnlab.records.results import Job, Results
from attnlab.util.files import naming_full_disk, write_json

NO_SCALARS = ("step", "tokens")


class MetricLogger:
    """One trial's records, open while it trains (a context manager). Only the lead, rank 0, writes them."""

    def __init__(self, trial: TrialDir, resumed_step: int, lead: bool):
        """Drop rows and events after `resumed_step`, which are made again. All methods raise DiskFull."""
        # imported here because it loads torch: records are read by commands that must answer within a second
        from torch.utils.tensorboard import SummaryWriter

        self._trial = trial
        self._metrics = MetricsWriter(trial, resumed_step) if lead else None
        purge = resumed_step + 1 if resumed_step else None
        with naming_full_disk(trial.path):
            self._events = SummaryWriter(str(trial.path), purge_step=purge) if lead else None
        self.rows: list[dict[str, Any]] = self._metrics.rows if self._metrics else []

    def __enter__(self) -> MetricLogger:
        return self

    def __exit__(self, *error: Any) -> None:
        with suppress(OSError):  # the last write has named a disk that is full
            if self._events:
                self._events.close()

    def write(self, row: dict[str, Any]) -> None:
        """Write one report: a line, and a scalar for each number, grouped for a branch."""
        if self._metrics is None or self._events is None:
            return
        group = "branch/" if "branch_steps" in row else ""
        written = self._metrics.write(row)
        with naming_full_disk(self._trial.path):
            for key, value in written.items():
                if key not in NO_SCALARS and value is not None:
                    self._events.add_scalar(group + key, value, row["step"])
            self._events.flush()

    def finish(self, job: Job, results: Results) -> None:
        """Write results.json, and the settings and best values for the HPARAMS tab."""
        if self._events is None:
            return
        settings = {"arm": job.arm, "seed": results["seed"], "state": results["state"], **job.settings}
        plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in settings.items()}
        best = {f"best/{k}": v for k, v in (results["best"] or {}).items() if k not in NO_SCALARS and v is not None}
        with naming_full_disk(self._trial.path):
            self._events.add_hparams(plain, best or {"best/none": 0.0}, run_name=".", global_step=results["steps"])
            self._events.close()
        write_json(self._trial.results_file, results)
