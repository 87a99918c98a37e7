"""Which sequence mixer is better for your size, data and hardware, and how surely.

`import attnlab` imports neither torch nor ray, but hooks into two later imports. FLA's layers then also run on CPU
tensors (`attnlab.kernels.install`). transformers' Auto classes know the models that attnlab saves
(`attnlab.models.register`).
"""

from __future__ import annotations

import importlib
import sys
import warnings
from types import ModuleType
from typing import TYPE_CHECKING, Any

import wrapt

from attnlab.version import __version__

__all__ = ["Leaderboard", "Results", "SweepResults", "__version__", "build_model", "load_sweep"]
__all__ += ["run_experiment", "run_sweep"]

if TYPE_CHECKING:  # for editors, which complete what they can see
    from attnlab.api import SweepResults, run_experiment, run_sweep
    from attnlab.models import build_model
    from attnlab.plan.load import load as load_sweep
    from attnlab.ranking.leaderboard import Leaderboard
    from attnlab.records.results import Results

_LAZY = {  # entry point -> its module and name there
    **{name: ("attnlab.api", name) for name in ("SweepResults", "run_experiment", "run_sweep")},
    "build_model": ("attnlab.models", "build_model"),
    "load_sweep": ("attnlab.plan.load", "load"),
    "Leaderboard": ("attnlab.ranking.leaderboard", "Leaderboard"),
    "Results": ("attnlab.records.results", "Results"),
}


def __getattr__(name: str) -> Any:
    """The entry points, imported when first asked for (PEP 562)."""
    if name in _LAZY:
        module, attribute = _LAZY[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module 'attnlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])


def _with_fla(module: ModuleType) -> None:
    from attnlab.kernels import install  # torch

    install()
    _register()


def _with_transformers(module: ModuleType) -> None:
    # FLA itself imports these classes: while it does, it cannot be built upon; its own hook registers at its end.
    if "fla" not in sys.modules:
        _register()


def _register() -> None:
    from attnlab import models  # pydantic

    models.register()


# FLA says so at import on every machine without a GPU, where attnlab is what makes it run.
warnings.filterwarnings("ignore", message="Triton is not supported on current platform", category=UserWarning)
wrapt.register_post_import_hook(_with_fla, "fla")
wrapt.register_post_import_hook(_with_transformers, "transformers.models.auto.modeling_auto")
