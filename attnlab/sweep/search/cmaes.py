"""Optuna's CMA-ES, whose state in a study is read as data.

Optuna keeps it in the journal as a pickle, and a journal may have come with a stranger's results.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import optuna
from optuna.trial import FrozenTrial

PREFIX = "cma:optimizer"  # of the attributes that hold the pickle's parts (optuna 4, `CmaEsSampler`)
ALLOWED = {
    ("cmaes._cma", "CMA"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *((f"numpy.{core}.multiarray", name) for core in ("_core", "core") for name in ("_reconstruct", "scalar")),
}


class CheckedCmaEs(optuna.samplers.CmaEsSampler):
    """CMA-ES that goes on from a state of numbers alone. Anything else in its place counts as none."""

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        """As CMA-ES: the newest state that can be used; None without one."""
        for trial in reversed(completed_trials):
            try:
                if (state := state_in(trial)) is not None:
                    return state
            except ValueError:  # the journal is checked when it is opened: this came while the sweep ran
                continue
        return None


def state_in(trial: FrozenTrial) -> Any:
    """The optimizer that a study's trial holds, None without one. Raises ValueError if it is anything else."""
    parts = {key: text for key, text in trial.system_attrs.items() if key.startswith(PREFIX)}
    if not parts:
        return None
    try:
        raw = bytes.fromhex("".join(parts[f"{PREFIX}:{i}"] for i in range(len(parts))))
        state = _Numbers(io.BytesIO(raw)).load()
    except Exception as error:  # whatever damaged bytes lead a pickle to
        raise ValueError(f"trial {trial.number}: no state of CMA-ES ({error})") from None
    if type(state).__name__ != "CMA":
        raise ValueError(f"trial {trial.number}: no state of CMA-ES ({type(state).__name__})")
    return state


class _Numbers(pickle.Unpickler):
    """Loads a CMA-ES and the arrays in it, and imports nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """The class of a name in the pickle."""
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)
