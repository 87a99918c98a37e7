"""Perplexity and bits per byte on any text file (`--text FILE`)."""

from __future__ import annotations

from typing import ClassVar

from analysis.benchmarks import _passages
from analysis.scoring.exam import Benchmark, Context, Exam
from analysis.scoring.targets import Target
from attnlab.util.errors import UserError


class Text(Benchmark):
    """The file's passages, in windows of the training length."""

    per_checkpoint: ClassVar[bool] = True

    def exams(self, context: Context, target: Target | None) -> list[Exam]:
        """The file's passages; none without `--text`. Raises UserError: the file cannot be read."""
        if context.text is None:
            return []
        try:
            text = context.text.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--text {context.text}: cannot be read as UTF-8 text ({error})") from None
        if not text.strip():
            raise UserError(f"--text {context.text}: the file is empty")
        window = (target and target.seq_len) or _passages.WINDOW
        return [_passages.exam("text", context.text.name, [text], window, context.limit)]


BENCHMARK = Text()
