"""Send the code that trials run to nodes that lack it, by Ray's runtime environment.

The launcher's attnlab and user's mixers go to all nodes if one would import others, or if nodes are still to come.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attnlab.config import space
from attnlab.config.resolved import Plan
from attnlab.sweep.cluster.ask_nodes import Node, ask_nodes

ANSWER_S = 60.0
EXCLUDED = ["**/__pycache__/", "**/*.pyc"]


def runtime_env(plan: Plan, nodes: Iterable[Node], more_come: bool) -> dict[str, Any] | None:
    """The runtime environment that sends the code; None if every node has it."""
    paths = packages(plan)
    hosts = hosts_without(nodes, paths)
    if not (hosts or more_come):
        return None
    if hosts:
        print(f"sending {' and '.join(paths)} to the cluster: {', '.join(hosts)} have another or none", flush=True)
    return {"py_modules": [str(path) for path in paths.values()], "excludes": EXCLUDED}


def packages(plan: Plan) -> dict[str, Path]:
    """Paths of the packages and modules of attnlab and the user that workers import."""
    names = {"attnlab"}
    for arm in plan.arms:
        reaching = {key: d for key, d in arm.space.items() if key.startswith("model")}
        for settings in space.corners(reaching):
            model = arm.with_settings(settings).model
            mixers = [model.mixer_at(layer).name for layer in range(model.n_layers)]
            names |= {name.partition(":")[0].partition(".")[0] for name in mixers if ":" in name}
    return {name: path for name in sorted(names) if (path := find_package(name)) is not None}


def find_package(name: str) -> Path | None:
    """A package's folder or a module's file, which may be in the working directory."""
    spec = importlib.util.find_spec(name)
    if spec is None and os.path.exists(f"{name}.py"):
        return Path(f"{name}.py").resolve()
    if spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin)
    return origin.parent if origin.name == "__init__.py" else origin


def hosts_without(nodes: Iterable[Node], paths: Mapping[str, Path]) -> list[str]:
    """Hosts that would import other code than `paths`, or none."""
    digest_packages, names = _package_digester(), list(paths)
    expected = digest_packages(names, {name: str(path) for name, path in paths.items()})
    alive = [node for node in nodes if node["Alive"]]
    answers = ask_nodes(alive, digest_packages, lambda node: (names, {}, os.getcwd()), ANSWER_S)
    return sorted({node["NodeManagerHostname"] for node, answer in answers if answer != expected})


def _package_digester() -> Any:
    def digest_packages(names: list[str], paths: dict[str, str], cwd: str = "") -> dict[str, str | None]:
        """SHA-256 of each package, at its path or where this process finds it."""
        import hashlib
        import importlib.util
        import os
        import pathlib
        import sys

        def digest(root: pathlib.Path) -> str:
            total = hashlib.sha256()
            for file in [root] if root.is_file() else sorted(f for f in root.rglob("*") if f.is_file()):
                if "__pycache__" not in file.parts:
                    name = file.name if file == root else file.relative_to(root).as_posix()
                    total.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
            return total.hexdigest()

        if os.path.isdir(cwd) and cwd not in sys.path:  # where a worker would stand
            sys.path.append(cwd)
        digests: dict[str, str | None] = dict.fromkeys(names)
        for name in names:
            if name in paths:
                digests[name] = digest(pathlib.Path(paths[name]))
            elif (spec := importlib.util.find_spec(name)) and spec.origin:
                origin = pathlib.Path(spec.origin)
                digests[name] = digest(origin.parent if origin.name == "__init__.py" else origin)
        return digests

    return digest_packages
