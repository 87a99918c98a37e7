"""The code that trials run, sent to nodes that lack it or have another one: by Ray's runtime environment, once per job.

Every node says which files of attnlab and of the user's own mixers it would import; if that differs anywhere from what
the launcher imports, or machines are still to come that cannot be asked, the launcher's go to all.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attnlab.config import space
from attnlab.config.resolved import Plan

ANSWER_S = 60.0
EXCLUDED = ["**/__pycache__/", "**/*.pyc"]


def needed(plan: Plan, nodes: Iterable[Mapping[str, Any]], more_come: bool) -> dict[str, Any] | None:
    """The runtime environment that sends the code; None if every node has it and no other will come."""
    wanted = packages(plan)
    hosts = lacking(nodes, wanted)
    if not (hosts or more_come):
        return None
    if hosts:
        what = " and ".join(wanted)
        print(f"sending {what} to the cluster: {', '.join(sorted(set(hosts)))} have another or none", flush=True)
    return {"py_modules": [str(path) for path in wanted.values()], "excludes": EXCLUDED}


def packages(plan: Plan) -> dict[str, Path]:
    """What workers import of ours: name -> package folder or module file, as this process imports it."""
    named = {"attnlab"}
    for arm in plan.names:
        reaching = {key: d for key, d in plan.arm(arm).space.items() if key.startswith("model")}
        for settings in space.corners(reaching):
            model = plan.arm(arm).with_settings(settings).model
            mixers = [model.mixer_at(layer).name for layer in range(model.n_layers)]
            named |= {name.partition(":")[0].partition(".")[0] for name in mixers if ":" in name}
    return {name: path for name in sorted(named) if (path := located(name)) is not None}


def located(name: str) -> Path | None:
    """The folder of a package, or a module's file; a user's may lie in the working directory, see `models.build`."""
    spec = importlib.util.find_spec(name)
    if spec is None and os.path.exists(f"{name}.py"):
        return Path(f"{name}.py").resolve()
    if spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin)
    return origin.parent if origin.name == "__init__.py" else origin


def lacking(nodes: Iterable[Mapping[str, Any]], wanted: Mapping[str, Path]) -> list[str]:
    """Hosts of the nodes, of `ray.nodes()`, that would import something else, or nothing."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    digest = _digester()
    ours = {name: digest(str(path)) for name, path in wanted.items()}
    task = ray.remote(num_cpus=0, max_retries=0)(_asker(digest))
    calls = {}
    for node in nodes:
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            calls[task.options(scheduling_strategy=there).remote(list(wanted), os.getcwd())] = node
    done, late = ray.wait(list(calls), num_returns=len(calls), timeout=ANSWER_S)
    found = [calls[call]["NodeManagerHostname"] for call in late]
    for call in done:
        try:
            same = ray.get(call) == ours
        except ray.exceptions.RayError:
            same = False
        if not same:
            found.append(calls[call]["NodeManagerHostname"])
    return found


# Both functions below are made inside of others so that they are sent whole: a node that lacks attnlab runs them.


def _digester() -> Any:
    def digest(path: str) -> str:
        """SHA-256 over a file, or over the names and contents of a folder's files."""
        import hashlib
        import pathlib

        root, total = pathlib.Path(path), hashlib.sha256()
        files = [root] if root.is_file() else sorted(f for f in root.rglob("*") if f.is_file())
        for file in files:
            if "__pycache__" not in file.parts:
                name = file.name if file == root else file.relative_to(root).as_posix()
                total.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
        return total.hexdigest()

    return digest


def _asker(digest: Any) -> Any:
    def ask(names: list[str], cwd: str) -> dict[str, str | None]:
        import importlib.util
        import os
        import pathlib
        import sys

        if os.path.isdir(cwd) and cwd not in sys.path:  # where a worker would stand
            sys.path.append(cwd)
        found: dict[str, str | None] = {}
        for name in names:
            spec = importlib.util.find_spec(name)
            origin = pathlib.Path(spec.origin) if spec and spec.origin else None
            if origin is None:
                found[name] = None
            else:
                found[name] = digest(str(origin.parent if origin.name == "__init__.py" else origin))
        return found

    return ask
