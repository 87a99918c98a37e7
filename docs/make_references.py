"""Write the references in docs/ from the code: mixers.md, tasks.md, sweep_file.md and command_line.md.

python docs/make_references.py [NAME ...]          # or `make references`; a NAME is a page's, without `.md`
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

sys.path.insert(0, str(Path(__file__).parents[1]))

import launch  # noqa: E402
from analysis import benchmarks  # noqa: E402
from analysis import command_line as analysis  # noqa: E402
from attnlab.config.sweep import Sweep  # noqa: E402
from attnlab.config.trial import TaskConfig, Trial  # noqa: E402
from attnlab.plan.direction import PACE  # noqa: E402
from attnlab.tasks import TASKS, metrics_of, settings_of, summaries  # noqa: E402
from attnlab.util.text import listed  # noqa: E402
from docs.markdown import WRITTEN, code, table  # noqa: E402


def mixers() -> str:
    """docs/mixers.md."""
    from docs import mixers_page  # here, as the other pages need neither torch nor FLA

    return mixers_page.page()


TASKS_HEAD = f"""# Tasks

{WRITTEN}

Except for `text`, every task is generated: rows are drawn from its settings and a seed, and so are the same on every
machine and for every number of workers.

```yaml
task: {{name: parity, seq_len: 40, eval_seq_lens: [64, 128, 256]}}
```

Each gives `val_loss` and `val_accuracy`; for every length in `eval_seq_lens` also `val_loss_T256` and
`val_accuracy_T256`; by kind of target `val_accuracy_key3` (`fuzzy_recall`) and `val_accuracy_depth50` (`passkey`), at
other lengths `val_accuracy_depth50_T256`. `search.metric` takes any of them, and [knows which values are
better](#metrics). Validation rows never occur in training. Where a task has too few rows for that, its `describe()`
says `held_out: false`.

A task of your own is a file in `attnlab/tasks/` with a class `Task`; its constructor's signature is its schema. A
synthetic one subclasses `Generated` (`_generated.py`), says in `draw` what a random row is, and gets the rest.

"""


def tasks() -> str:
    """docs/tasks.md: each task's file's docstring and the settings that its constructor takes."""
    named = [[f"[`{name}`](#{name})", summary] for name, summary in summaries().items()]
    pages = [TASKS_HEAD + table(["task", "what is asked"], named), metrics()]
    for name, load in TASKS.items():
        module = sys.modules[load().__module__]
        title, _, rest = inspect.cleandoc(module.__doc__ or "").partition("\n\n")
        said = meanings(load())
        rows = [
            [f"`{key}`", kind_of(each.annotation), default(each.default), said.get(key, "")]
            for key, each in settings_of(name).items()
        ]
        pages += [f"## `{name}`", title, rest, table(["setting", "type", "default", "meaning"], rows).rstrip()]
    return "\n\n".join(page.rstrip() for page in pages) + "\n"


def metrics() -> str:
    """Every metric, which of its values are better, and the tasks that give it."""
    given: dict[tuple[str, str], list[str]] = {}
    for name, load in TASKS.items():
        better = load().better
        for metric in metrics_of(TaskConfig(name=name, seq_len=256)):
            known = [each for each in better if f"{metric}_".startswith(f"{each}_")]
            key = max(known, key=len) if known else metric
            row = given.setdefault((key, better.get(key, "the sweep says it, by `mode`")), [])
            row += [name] if name not in row else []
    words = {"min": "less", "max": "more"}
    most = {key: "all" if len(names) == len(TASKS) else listed(names) for key, names in given.items()}
    rows = [[f"`{metric}`", words.get(mode, mode), most[metric, mode]] for metric, mode in given]
    rows += [[f"`{metric}`", words[mode], "all, without a search"] for metric, mode in PACE.items()]
    return f"## Metrics\n\n{METRICS}\n\n{table(['metric', 'better', 'of'], rows)}"


METRICS = """Which values of a metric are better. What its name ends in, a length (`_T256`) or a kind of target, changes
nothing. A sweep gives `mode` only for a metric that is not here."""


def meanings(kind: type) -> dict[str, str]:
    """What the docstrings of a class and its bases say of each argument, its own first."""
    found: dict[str, str] = {}
    for each in kind.__mro__:
        _, _, args = inspect.cleandoc(each.__doc__ or "").partition("Args:\n")
        for names, text in re.findall(r"^    (\w+(?:, \w+)*): (.*(?:\n      .*)*)", args, re.M):
            found = {**dict.fromkeys(names.split(", "), " ".join(text.replace("None", "null").split())), **found}
    return found


SWEEP_HEAD = f"""# The sweep file

{WRITTEN}

Later overrides earlier:

1. the defaults below
2. the file's `trial:`
3. the arm's own settings, by dotted keys (`model.mixer: gla`) or nested ones
4. the settings that the search samples for one trial

`a.b=c` on the command line edits the file before anything is resolved: `trial.train.seed=1` changes what all arms
share, which an arm still overrides, and `arms.gla.train.seed=1` an arm.

**Text.** The file is UTF-8 and read by YAML 1.2: `1e-3` is a number, `no`, `1_000`, `12:30` and `2026-11-28` are texts,
`010` is ten. `<<: *base` merges a mapping into another. Numbers are finite and whole ones have 64 bits, seeds included.
A number beyond what any experiment reaches (a million trials, a width of ten million) is refused. `true` is no number.

A setting that a file gives twice with two values is refused (`model.mixer: gla` beside `model: {{mixer: retnet}}`). An
override on the command line may replace it.

**Names.** An arm's name is its folder's. It has at most 100 bytes and neither `/` nor `\\` nor control characters.
It does not begin with a dot, is not that of a file in the sweep's folder (`analysis`, `ray`, `leaderboard.json`, ...),
and differs from the other arms' in more than case. Anything else is shown as it is: `hybrid[gla]`, `lr=0.1`, `1e-3`.

**Direction.** Each metric knows whether less or more of it is better ([the table](tasks.md#metrics)), so `mode` is left
out. It is needed for a metric
of your own task that does not say (`better` in its class), and refused where it contradicts.

A recipe (`trial.recipe`) is a numbered version of how settings become numbers: generators of rows, initialisations,
splits. A change that would give a trial other numbers at equal settings gets the next recipe. README.md shows a whole
file.
"""


def sweep_file() -> str:
    """docs/sweep_file.md: every key of a sweep file, from the schemas."""
    return "\n".join([SWEEP_HEAD, *schema("", Sweep), *schema("trial", Trial)])


def schema(key: str, kind: type[BaseModel]) -> Iterator[str]:
    """One schema's docstring and table, and then those of the schemas in it."""
    rows, inner = [], []
    for name, info in kind.model_fields.items():
        path = f"{key}.{name}" if key else name
        inner += [part for nested in schemas_in(info.annotation) for part in schema(path, nested)]
        rows.append([f"`{path}`", constrained(info), default(info.default, info.is_required()), info.description or ""])
    yield f"## {f'`{key}`' if key else 'At the top'}\n"
    yield " ".join(inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].split()) + "\n"
    yield table(["key", "type", "default", "meaning"], rows)
    yield from inner


def schemas_in(annotation: Any) -> list[type[BaseModel]]:
    """The schemas that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for part in get_args(annotation) for kind in schemas_in(part)]


def constrained(info: FieldInfo) -> str:
    """A field's type and its limits."""
    limits = [
        f"{word} {value}"
        for word, key in LIMITS.items()
        for m in info.metadata
        if (value := getattr(m, key, None)) is not None and abs(value) < BEYOND
    ]
    return ", ".join([kind_of(info.annotation), *limits])


BEYOND = 10**6  # limits from here on no experiment reaches
LIMITS = {"above": "gt", "at least": "ge", "below": "lt", "at most": "le"}
TYPES = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null", Any: "any value"}


def kind_of(annotation: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in TYPES:
        return TYPES[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    if origin is Literal:
        return " or ".join(code(str(value)) for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(map(kind_of, inner))
    if origin in (tuple, list):
        return f"list of {kind_of(inner[0])}s"
    if origin is dict:
        return f"mapping to {kind_of(inner[1])}"
    if not hasattr(annotation, "__metadata__"):
        return code(str(annotation))
    limits = [limit for info in annotation.__metadata__ for limit in getattr(info, "metadata", [info])]
    above = any(getattr(limit, "gt", None) == 0 for limit in limits)
    return f"{kind_of(inner[0])} above 0" if above else kind_of(inner[0])


def default(value: Any, required: bool = False) -> str:
    """A default as YAML would say it."""
    if required or value is inspect.Parameter.empty:
        return "required"
    if isinstance(value, BaseModel):
        return ""
    if isinstance(value, tuple):
        return ", ".join(code(str(item)) for item in value)
    return code(json.dumps(value))


def command_line() -> str:
    """docs/command_line.md: the options of `launch.py` and of `python -m analysis`."""
    pages = [f"# The command line\n\n{WRITTEN}"]
    for title, main in (("launch.py", launch.main), ("python -m analysis", analysis.main)):
        module = sys.modules[main.__module__]
        rows = [
            [option(each), " ".join((each.help or "").replace("%%", "%").split())]
            for each in module.arguments()._actions
        ]
        pages += [f"## `{title}`", inspect.cleandoc(module.__doc__ or ""), table(["option", "meaning"], rows).rstrip()]
    listed = table(
        ["benchmark", "what is asked"], [[f"`{name}`", text] for name, text in benchmarks.summaries().items()]
    )
    return "\n\n".join([*pages, "## Benchmarks\n\nWhat `--benchmarks` takes.", listed])


def option(action: argparse.Action) -> str:
    """An option as it is written, such as `--only ARM ...`."""
    name = ", ".join(action.option_strings) or "..."
    value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
    return code(
        f"{name if action.option_strings else ''} {value}{' ...' if action.nargs in ('+', '*') else ''}".strip()
    )


PAGES: dict[str, Callable[[], str]] = {
    "mixers": mixers, "tasks": tasks, "sweep_file": sweep_file, "command_line": command_line,
}  # fmt: skip


def main() -> None:
    """Write the pages named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *PAGES], help="default: all")
    for name in parser.parse_args().names or PAGES:
        Path(__file__).with_name(f"{name}.md").write_text(PAGES[name](), encoding="utf-8")


if __name__ == "__main__":
    main()
