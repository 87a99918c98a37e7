"""Questions of our own: a prompt, a right answer and wrong ones, judged twice.

`acc`: whether the right answer, after the prompt, is likelier than each of the others (sums of log-likelihoods).
`exact_match`: whether greedy decoding writes the right answer, after normalisation (`normal`). Of what it writes, the
first line counts, cut to as many words as the answer has; an empty answer is wrong.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources

from analysis.scoring.exam import Answers, Benchmark, Context, Exam, Metric
from analysis.scoring.scorer import Advance, Scorer
from analysis.scoring.targets import Target
from attnlab.util.errors import UserError

CANDIDATES = 4
MARGIN_TOKENS = 4  # that greedy decoding may write before and after the answer: a space, a comma
EXACT_MATCH = Metric("proportion", chance=0.0)
ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True)
class Question:
    """One item; each candidate is scored by itself after the prompt and a space."""

    id: str
    prompt: str
    answer: str
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class Choice(Benchmark):
    """A benchmark of questions."""

    name: str  # the file's
    version: str  # raised with any change of the questions or of how they are drawn
    source: str  # for the report
    draw: Callable[[], list[Question]]  # makes the questions, the same ones each time

    def exams(self, context: Context, target: Target | None) -> list[Exam]:
        """One exam of all questions, or of the first `limit`. Raises UserError: see `check`."""
        everything = self.draw()
        if problems := check(everything):
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise UserError(f"{self.name}: {problems[0]}{more}")
        questions = everything[: context.limit]
        return [Exam(
            self.name, self.source, self.version, ids=[q.id for q in questions], n_all=len(everything),
            content=[[q.prompt, q.answer, *q.wrong] for q in questions],
            metrics={"acc": Metric("proportion", chance=1 / CANDIDATES), "exact_match": EXACT_MATCH},
            requests=len(questions) * (CANDIDATES + 1), ask=partial(answer, questions),
            texts=[(f"{q.prompt} {q.answer}",) for q in questions],
        )]  # fmt: skip


def answer(questions: Sequence[Question], scorer: Scorer, advance: Advance) -> Answers:
    """Have a checkpoint answer."""
    requests = [(q.prompt, f" {text}") for q in questions for text in (q.answer, *q.wrong)]
    scored = scorer.loglikelihoods(requests, advance)
    rows = [[one.loglikelihood for one in scored[i : i + CANDIDATES]] for i in range(0, len(scored), CANDIDATES)]
    lengths = [len(rest) for _, rest in scorer.encode_pairs([(q.prompt, f" {q.answer}") for q in questions])]
    written = scorer.greedy([q.prompt for q in questions], [length + MARGIN_TOKENS for length in lengths], advance)
    right = [int(row[0] > max(row[1:])) for row in rows]  # the right one comes first; a tie is no answer
    exact = [int(matches(text, q.answer)) for text, q in zip(written, questions, strict=True)]
    return Answers({"acc": right, "exact_match": exact, "loglikelihoods": rows, "written": written})


def matches(written: str, wanted: str) -> bool:
    """Whether the first line of `written` begins with the answer, both normalised."""
    lines = written.strip().splitlines()
    got, right = normal(lines[0]).split() if lines else [], normal(wanted).split()
    return bool(right) and got[: len(right)] == right


def normal(text: str) -> str:
    """Lower case, without punctuation and articles, single spaces (SQuAD's, arXiv 1606.05250)."""
    bare = "".join(char for char in text.lower() if char not in string.punctuation)
    return " ".join(ARTICLES.sub(" ", bare).split())


def from_file(name: str, prompt: str) -> list[Question]:
    """The questions of `data/<name>.txt`, shuffled; `prompt` has `{}` for the question.

    A line each, `question | answer | wrong | wrong | wrong`; `#` begins a comment.
    """
    return mixed(name, [Question(q, prompt.format(q), right, tuple(wrong)) for q, right, *wrong in rows_of(name)])


def rows_of(name: str) -> list[list[str]]:
    """The lines of `data/<name>.txt`, split at `|`, without comments."""
    text = (resources.files("analysis.benchmarks") / "data" / f"{name}.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def mixed(seed: str, questions: list[Question]) -> list[Question]:
    """Shuffle them, so that the first ones, which a limit takes, are like the rest."""
    random.Random(seed).shuffle(questions)
    return questions


def check(questions: Sequence[Question]) -> list[str]:
    """What is wrong with them: repeated items, equal candidates, a wrong number of them."""
    problems, seen = [], set[str]()
    for q in questions:
        candidates = {normal(text) for text in (q.answer, *q.wrong)}
        if len(candidates) != CANDIDATES or len(q.wrong) != CANDIDATES - 1 or "" in candidates:
            problems.append(f"{q.id}: not {CANDIDATES} distinct candidates")
        if q.id in seen or q.prompt in seen:
            problems.append(f"{q.id}: asked twice")
        seen |= {q.id, q.prompt}
    return problems
