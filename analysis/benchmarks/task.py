"""The trial's own task at 1, 2, 4 and 8 times its training length: recall, and what is left of it beyond.

Any task of `attnlab.tasks` is asked, with its settings as trained and only `seq_len` changed. A length that is not
possible (its settings forbid it, its corpus is shorter) is left out.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import numpy as np

from analysis.scoring.exam import Answers, Benchmark, Context, Exam, Metric
from analysis.scoring.scorer import Advance, Scorer
from analysis.scoring.targets import Target
from attnlab.config.trial import TaskConfig
from attnlab.tasks import IGNORE, TASKS, Batch, build_task, check_task
from attnlab.util.errors import UserError
from attnlab.util.text import first_line

FACTORS = (1, 2, 4, 8)
EXAMPLES = 256  # per length, at most; fewer where `EVAL_TOKENS` are reached
EVAL_TOKENS = 1 << 19
LENGTHS = "eval_seq_lens"  # a task's setting of lengths to validate at, which is no matter here


class TaskLengths(Benchmark):
    """One exam per length."""

    needs_text: ClassVar[bool] = False
    per_checkpoint: ClassVar[bool] = True

    def exams(self, context: Context, target: Target | None) -> list[Exam]:
        """One exam per length; none for unknown trials. Raises UserError: it cannot be had."""
        if target is None or target.job is None:
            return []
        task = target.job.trial.task
        if task.name not in TASKS:
            raise UserError(f"task: {task.name} is none of {', '.join(TASKS)}")
        return [exam for factor in FACTORS if (exam := _exam(task, factor, context.limit))]


def _exam(trained: TaskConfig, factor: int, limit: int | None) -> Exam | None:
    settings = {key: value for key, value in trained.model_dump().items() if key != LENGTHS}
    config = TaskConfig.model_validate({**settings, "seq_len": factor * trained.seq_len})
    most = max(1, min(EXAMPLES, EVAL_TOKENS // config.seq_len))
    try:
        if factor > 1 and check_task(config):
            return None
        task = build_task(config, batch_size=1, seed=0)
        everything = task.eval_examples(most)
    except (ValueError, OSError) as error:
        if factor > 1:
            return None
        raise UserError(f"task: {trained.name} cannot be had ({first_line(error)})") from None
    _, first = np.unique(np.hstack(everything), axis=0, return_index=True)  # each example counts once
    everything = Batch(*(array[np.sort(first)] for array in everything))
    batch = Batch(*(array[:limit] for array in everything))
    n = len(batch.inputs)
    known = task.baselines()
    accuracy = Metric("ratio", column="hits", chance=known.get("chance_accuracy"))
    chance = known.get("chance_loss", known.get("uniform_loss"))
    loss = Metric("ratio", higher_is_better=False, column="nats", chance=chance)
    recall = "val_accuracy" in task.metrics
    return Exam(
        name=f"{trained.name}_x{factor}",
        source=f"attnlab's task {trained.name} at {config.seq_len} tokens, {factor} x the training length",
        version="1", ids=[str(i) for i in range(n)], n_all=len(everything.inputs),
        content=[config.model_dump(), batch.inputs.tolist(), batch.targets.tolist()],
        metrics={"accuracy": accuracy, "loss": loss} if recall else {"loss": loss, "accuracy": accuracy},
        requests=n, ask=partial(_ask, batch),
    )  # fmt: skip


def _ask(batch: Batch, scorer: Scorer, advance: Advance) -> Answers:
    nats, hits = scorer.aligned(batch.inputs, batch.targets, IGNORE, advance)
    return Answers({"hits": hits, "nats": nats, "targets": np.sum(batch.targets != IGNORE, 1).tolist()})


BENCHMARK = TaskLengths()
