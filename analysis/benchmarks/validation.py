"""Perplexity and bits per byte on the whole validation split of the trial's own corpus, through its own tokenizer."""

from __future__ import annotations

from typing import ClassVar

from analysis.benchmarks import _passages
from analysis.scoring.exam import Benchmark, Context, Exam
from analysis.scoring.targets import Target
from attnlab.data.sources import open_dataset
from attnlab.data.splits import Split
from attnlab.tasks import build_task
from attnlab.util.errors import UserError
from attnlab.util.files import cache_root
from attnlab.util.text import first_line


class Validation(Benchmark):
    """The split's passages, in windows of the training length."""

    per_checkpoint: ClassVar[bool] = True

    def exams(self, context: Context, target: Target | None) -> list[Exam]:
        """The split, for a trial of the task `text`. Raises UserError: no corpus."""
        if target is None or target.job is None or target.job.trial.task.name != "text":
            return []
        task = target.job.trial.task
        try:
            source = open_dataset(build_task(task, batch_size=1, seed=0).dataset, cache_root())  # type: ignore[attr-defined]
            documents = Split(source).validation()
        except (ValueError, OSError) as error:
            raise UserError(f"validation: the corpus cannot be had ({first_line(error)})") from None
        described = f"{source.name}, validation split"
        return [_passages.exam("validation", described, documents, task.seq_len, context.limit)]


BENCHMARK = Validation()
