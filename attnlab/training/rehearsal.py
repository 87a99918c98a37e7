"""What a rehearsal is: a trial cut down to a few steps, what is loaded again, and where it failed."""

from __future__ import annotations

import gc
import traceback
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from attnlab.config.trial import Trial
from attnlab.optim import make_optimizer
from attnlab.records.paths import TrialDir
from attnlab.records.results import Job
from attnlab.training import checkpoint
from attnlab.training.step import WARMUP, choose
from attnlab.util.text import one_line

STEPS = 2
LR = 1e-6  # so small that no model diverges, which would leave its export untried
PACKAGE = Path(__file__).parents[1]
STAGES = {  # the function of attnlab in which it failed, in words; the outermost counts
    "set_up": "as it is built",
    "step": "in a training step",
    "branch": "in a decay branch",
    "scores": "in its validation",
    "save": "as its checkpoint is written",
    "export": "as its model is exported",
    "_results": "as its results are put together",
    "write": "as its metrics are written",
    "finish": "as its results are written",
    "load_again": "as what it left is loaded again",
}


class RehearsalFailed(RuntimeError):
    """A trial would fail, at its start or at its end; on one line, where and of what."""


def shorten(job: Job, device: torch.device, world: int) -> Job:
    """Cut a job to `STEPS` steps, or as many as a captured step takes, with a validation and a checkpoint each.

    It is judged by its training loss: of one batch of validation some metrics are not known.
    """
    train = job.trial.train
    steps = WARMUP + STEPS if choose(train.step, device, world)[0] == "captured" else STEPS
    pace = {"max_steps": steps, "eval_every": steps - 1, "save_every": steps - 1, "seconds": None}
    trial = job.trial.model_copy(
        update={
            "train": train.model_copy(update=pace),
            "optim": job.trial.optim.model_copy(update={"lr": LR}),
        }
    )
    branches = {steps - 1: 1} if job.branches else {}
    return job.model_copy(update={"trial": trial, "branches": branches, "metric": "train_loss", "mode": "min"})


def load_again(trial: Trial, folder: TrialDir) -> None:
    """Load a trial's exported model, as transformers does, and its checkpoint. Raises what keeps them from it.

    It takes the host's memory for the weights and the optimizer's state, also where the trial runs on a GPU.
    """
    gc.collect()  # what trained, cycles and all
    model, found = AutoModelForCausalLM.from_pretrained(folder.final, output_loading_info=True)
    if lost := sorted(found["missing_keys"]) or sorted(found["unexpected_keys"]):
        raise ValueError(f"its export does not hold the model: {', '.join(lost[:3])}")
    cpu = torch.device("cpu")
    optimizer = make_optimizer(model, trial.optim, trial.train.max_steps, cpu, capturable=False)
    if checkpoint.load(folder, model, optimizer) is None:
        raise ValueError("its checkpoint cannot be read")


def failure(error: BaseException) -> str:
    """Where a rehearsal failed and of what, on one line."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame.name for frame in frames if Path(frame.filename).is_relative_to(PACKAGE)]
    stage = next((STAGES[name] for name in ours if name in STAGES), "in its rehearsal")
    theirs = [
        frame
        for frame in frames
        if "site-packages" not in frame.filename and not Path(frame.filename).is_relative_to(PACKAGE)
    ]
    line = f" ({theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""
    return f"it fails {stage}: {type(error).__name__}: {one_line(error)}{line}"
