"""Whether a trial's corpus, tokenizer and own mixers are those it began with.

Its settings only name them, and what a name stands for may change between a run and its resumption.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from attnlab import tasks
from attnlab.config.trial import Trial
from attnlab.models import signature
from attnlab.records.results import Hashes, Job
from attnlab.tasks import Task
from attnlab.util.files import file_digest

UNKNOWN_FILES = "recorded without hashes of corpus, tokenizer and mixers, and taken as they are"


class Provenance:
    """Hashes of what trials are made of, each file's once. `prepared`: tasks whose data are open."""

    def __init__(self, prepared: Iterable[tuple[Trial, Task]] = ()):
        self._tasks: dict[str, Mapping[str, str]] = {}
        self._modules: dict[str, str | None] = {}
        self._divisions: dict[str, str] = {}
        for trial, task in prepared:
            self._tasks.setdefault(trial.task.model_dump_json(), task.hashes())

    def of(self, trial: Trial) -> Hashes | None:
        """A trial's hashes; None if its data cannot be read here."""
        key = trial.task.model_dump_json()
        try:
            if key not in self._tasks:
                self._tasks[key] = _task(trial).hashes()
        except (ValueError, OSError):  # whoever trains it says so
            return None
        names = sorted({mixer.name.partition(":")[0] for mixer in trial.model.mixer if ":" in mixer.name})
        found = {name: digest for name in names if (digest := self._module(name))}
        return Hashes(**self._tasks[key], mixers=found)

    def _module(self, name: str) -> str | None:
        """The SHA-256 of a module's file, which is not imported; None if there is none."""
        if name not in self._modules:
            self._modules[name] = None
            with suppress(ValueError, OSError):
                self._modules[name] = file_digest(Path(signature.locate(name)))
        return self._modules[name]

    def changes(self, jobs: Iterable[Job]) -> list[str]:
        """What is no longer what recorded trials began with, in words, each once.

        Trials without hashes pass, unless their version divided the data in another way.
        """
        out = []
        for job in jobs:
            if job.hashes is None:
                out += self._regrouped(job.trial)
                continue
            if (now := self.of(job.trial)) is None:
                continue
            if job.hashes.corpus != now.corpus:
                out.append(f"the files of task.dataset {getattr(job.trial.task, 'dataset', 'austen')} have changed")
            if job.hashes.tokenizer != now.tokenizer:
                out.append(f"the tokenizer {getattr(job.trial.task, 'tokenizer', 'bpe')} has changed")
            known = job.hashes.mixers
            out += [
                f"the file of the mixer's module {name} has changed"
                for name in known
                if known[name] != now.mixers.get(name)
            ]
        return list(dict.fromkeys(out))

    def _regrouped(self, trial: Trial) -> list[str]:
        """Why the data of a trial without hashes are other ones now, although no file has changed."""
        key = trial.task.model_dump_json()
        if key not in self._divisions:
            self._divisions[key] = ""
            with suppress(ValueError, OSError):  # whoever trains it says so
                self._divisions[key] = _task(trial).regrouped()
        return [f"{line} has changed" for line in [self._divisions[key]] if line]


def _task(trial: Trial) -> Task:
    return tasks.build_task(trial.task, batch_size=trial.train.batch_size, seed=trial.train.seed)
