"""lm-eval's tasks, prompts and metrics over our `LM`; data from the hub or a folder."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from analysis.scoring.exam import Answers, Benchmark, Context, Exam, Metric
from analysis.scoring.scorer import Advance, Scorer
from analysis.scoring.targets import Target
from attnlab.data.formats import SUFFIXES
from attnlab.util.errors import UserError
from attnlab.util.text import first_line


@dataclass(frozen=True)
class Harness(Benchmark):
    """A task of lm-eval's, or several that make one benchmark."""

    name: str  # ours, and the first folder looked for under `--data-dir`
    files: tuple[str, ...]  # the tasks' definitions, below lm-eval's `tasks/`
    hub: str  # the dataset's id
    metrics: Mapping[str, Metric]  # which of the tasks' metrics are reported, the main one first
    configs: tuple[str, ...] = ()  # the dataset's configurations, if any, one per file: folders below the dataset's own
    split: str = "validation"  # which the tasks ask

    def by_default(self, context: Context) -> bool:
        """Whether `--data-dir` has it; the network is only used when it is named."""
        if context.data_dir is None or find_spec("lm_eval") is None:
            return False
        return any((context.data_dir / name).is_dir() for name in self._folders())

    def exams(self, context: Context, target: Target | None) -> list[Exam]:
        """One exam, of all its tasks' items."""
        loaded = self.load(context)
        return [Exam(
            self.name, f"{self.hub} through lm-eval {version('lm-eval')}", loaded.version, loaded.ids, loaded.n_all,
            content=[[*request.args] for request in loaded.requests], metrics=self.metrics,
            requests=len(loaded.requests), ask=loaded.ask, texts=loaded.texts,
        )]  # fmt: skip

    def load(self, context: Context) -> Loaded:
        """The tasks with their requests. Raises UserError: lm-eval or the data is missing."""
        if find_spec("lm_eval") is None:
            raise UserError(f"{self.name}: needs lm-eval; pip install 'attnlab[eval]'")
        if context.data_dir is not None and not context.data_dir.is_dir():
            raise UserError(f"--data-dir {context.data_dir}: no such folder")
        tasks = []
        with quiet():
            for i, file in enumerate(self.files):
                task = self._task(file, self._folder(context.data_dir, self.configs[i] if self.configs else None))
                task.build_all_requests(limit=context.limit, rank=0, world_size=1)
                tasks.append(task)
        return Loaded(self.name, tuple(tasks), self.metrics)

    def _folders(self) -> tuple[str, ...]:
        return (self.name, self.hub.split("/")[1], self.hub)

    def _download(self, data_dir: Path) -> str:
        return f"hf download {self.hub} --repo-type dataset --local-dir {data_dir / self.name}"

    def _folder(self, data_dir: Path | None, config: str | None) -> Path | None:
        """The data's folder below `--data-dir`, by our name for it or the hub's."""
        if data_dir is None:
            return None
        folder = next((data_dir / name for name in self._folders() if (data_dir / name).is_dir()), None)
        if folder is not None and config and (folder / config).is_dir():
            folder = folder / config
        if folder is None or not any(folder.rglob(f"*{suffix}") for suffix in SUFFIXES):
            inside = f"{self.name}/{config}" if config else self.name
            raise UserError(
                f"{self.name}: {data_dir} has no folder {inside} with the dataset's files; leave --data-dir out to "
                f"have it downloaded, or do so yourself: {self._download(data_dir)}"
            )
        return folder

    def _task(self, file: str, folder: Path | None) -> Any:
        """lm-eval's task, with only the dataset's path changed."""
        import lm_eval.tasks

        original = Path(lm_eval.tasks.__file__).parent / file
        tree: dict[str, Any] = {"include": str(original)}
        if folder is not None:  # it need not hold the other splits, which no zero-shot prompt reads
            tree |= {"dataset_path": str(folder), "dataset_name": None}
            tree |= dict.fromkeys(("training_split", "validation_split", "test_split"))
            tree |= {"test_split" if self.split == "test" else "validation_split": self.split}
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / f"{self.name}.yaml"
            # the index wants the task's name in the file itself
            path.write_text(yaml.safe_dump(tree | {"task": _name_in(original)}), encoding="utf-8")
            manager = lm_eval.tasks.TaskManager(include_path=temporary, include_defaults=False)
            try:
                return next(iter(manager.load(str(path))["tasks"].values()))
            except Exception as error:  # whatever the hub, the network, datasets or a damaged file may raise
                reason = first_line(error)
                if folder is not None:
                    raise UserError(f"{self.name}: {folder} cannot be read as {self.hub}: {reason}") from None
                raise UserError(
                    f"{self.name}: the hub's {self.hub} cannot be had ({reason}); run once with network access to fill "
                    f"its cache, or give --data-dir DIR a copy: {self._download(Path('DIR'))}"
                ) from None


@dataclass(frozen=True)
class Loaded:
    """Tasks with their requests built; a document that repeats an earlier one counts once."""

    name: str
    tasks: tuple[Any, ...]
    metrics: Mapping[str, Metric]

    @cached_property
    def requests(self) -> list[Any]:
        """lm-eval's instances of all tasks, in order."""
        return [request for requests in self._distinct for request in requests]

    @cached_property
    def _distinct(self) -> list[list[Any]]:
        """Each task's instances, without those of repeated documents (LAMBADA has two)."""
        out = []
        for task in self.tasks:
            documents: dict[int, list[Any]] = {}
            for request in task.instances:
                documents.setdefault(request.doc_id, []).append(request)
            by_text = {repr([r.args for r in requests]): doc_id for doc_id, requests in reversed(documents.items())}
            first = set(by_text.values())  # the first document of each text
            out.append([request for request in task.instances if request.doc_id in first])
        return out

    @cached_property
    def ids(self) -> list[str]:
        """One per document: its number, after its task's name where there are several."""
        prefix = [f"{task.config.task}/" if len(self.tasks) > 1 else "" for task in self.tasks]
        return [
            f"{before}{number}"
            for before, requests in zip(prefix, self._distinct, strict=True)
            for number in dict.fromkeys(request.doc_id for request in requests)
        ]

    @property
    def texts(self) -> list[tuple[str, ...]]:
        """Of each document in `ids` its requests as texts."""
        by_document: dict[tuple[int, int], list[str]] = {}
        for i, requests in enumerate(self._distinct):
            for request in requests:
                by_document.setdefault((i, request.doc_id), []).append("".join(request.args))
        return [tuple(texts) for texts in by_document.values()]

    @property
    def n_all(self) -> int:
        """Documents of the split, without repeated ones as far as they were met."""
        met = sum(len({request.doc_id for request in task.instances}) for task in self.tasks)
        return sum(len(task.eval_docs) for task in self.tasks) - (met - len(self.ids))

    @property
    def version(self) -> str:
        """The tasks' own."""
        return str((self.tasks[0].config.metadata or {}).get("version"))

    def judge(self, scored: Sequence[tuple[float, bool]]) -> dict[str, list[Any]]:
        """Columns per item by each task's own `process_results`, and `loglikelihoods` of each item's requests."""
        columns: dict[str, list[Any]] = {name: [] for name in self.metrics} | {"loglikelihoods": [], "greedy": []}
        results = iter(scored)
        for task, requests in zip(self.tasks, self._distinct, strict=True):
            documents: dict[int, tuple[Any, list[tuple[float, bool]]]] = {}
            for request in requests:
                documents.setdefault(request.doc_id, (request.doc, []))[1].append(next(results))
            for document, answers in documents.values():
                judged = task.process_results(document, answers)
                for name in self.metrics:
                    columns[name].append(float(judged[name]))
                columns["loglikelihoods"].append([nats for nats, _ in answers])
                columns["greedy"].append([int(greedy) for _, greedy in answers])
        return columns

    def accuracy(self, scored: Sequence[tuple[float, bool]]) -> float:
        """The mean of the task's `acc` over answers to `requests`."""
        return fmean(self.judge(scored)["acc"])

    def ask(self, scorer: Scorer, advance: Advance) -> Answers:
        """Have a checkpoint answer every request, then apply the tasks' own metrics."""
        from analysis.scoring.lm_eval import LM  # here, because lm-eval need not be installed

        return Answers(self.judge(LM(scorer, advance).loglikelihood(self.requests)))


def _name_in(path: Path) -> str:
    """The `task:` of a definition, which may have tags that only lm-eval reads."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("task:")]
    return lines[0].partition(":")[2].strip()


@contextlib.contextmanager
def quiet() -> Any:
    """Without the bars, log lines and warnings of lm-eval and datasets."""
    import datasets

    before, bars = logging.root.manager.disable, datasets.are_progress_bars_disabled()
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        if not bars:
            datasets.enable_progress_bars()
