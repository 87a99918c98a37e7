"""What a cluster could come to hold: its autoscaler's node types, asked on the head, where its configuration lies.

Ray 2.60 keeps that nowhere else: the state of the cluster lists node types only when an operator put them there
(`ray._private.state`), and `ray up` hands the autoscaler a file that says what each type has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

ANSWER_S = 60.0
HEAD = "node:__internal_head__"


@dataclass(frozen=True)
class NodeType:
    """Machines that the autoscaler may start."""

    resources: Mapping[str, float]
    most: int


@dataclass(frozen=True)
class Coming:
    """What may come: `types` are known; without them, and `autoscaled`, something may and it is not known what."""

    autoscaled: bool = False
    types: tuple[NodeType, ...] = ()
    most: int = 0  # machines of all types

    def most_at_once(self, up: Iterable[Mapping[str, Any]]) -> dict[str, float]:
        """All resources of the cluster at its largest, as Ray names them.

        Args:
            up: `ray.nodes()`.
        """
        # a head and machines that are there anyway are of no type that scales, so what is up counts if it is no such
        total: Counter[str] = Counter()
        for node in up:
            have = node["Resources"]
            if node["Alive"] and (HEAD in have or not self.types):
                total.update({key: value for key, value in have.items()})
        left = self.most
        for kind in sorted(self.types, key=_size, reverse=True):
            n = min(kind.most, left)
            left -= n
            total.update({key: n * value for key, value in kind.resources.items() if n})
        return dict(total)


def _size(kind: NodeType) -> tuple[float, float]:
    return kind.resources.get("GPU", 0), kind.resources.get("CPU", 0)


def coming() -> Coming:
    """Of the cluster that this process is connected to; nothing comes where it cannot be found out."""
    import ray
    from ray._private import state
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if told := state.state.get_cluster_config():
        kinds = [NodeType(dict(g.resources), g.max_count) for g in told.node_group_configs if g.max_count]
        return Coming(True, tuple(kinds), sum(kind.most for kind in kinds))
    head = next((n["NodeID"] for n in ray.nodes() if n["Alive"] and HEAD in n["Resources"]), None)
    if head is None:
        return Coming()
    there = NodeAffinitySchedulingStrategy(head, soft=False)
    asked = ray.remote(num_cpus=0, max_retries=0)(_asker()).options(scheduling_strategy=there)
    try:
        found = ray.get(asked.remote(ray.get_runtime_context().gcs_address), timeout=ANSWER_S)
    except RayError:
        return Coming()
    if found is None:
        return Coming()
    return of_config(found) if found else Coming(autoscaled=True)


def of_config(config: Mapping[str, Any]) -> Coming:
    """Of a cluster file as `ray up` filled it in."""
    head, kinds = config.get("head_node_type"), []
    most = config.get("max_workers", 2)
    for name, kind in config.get("available_node_types", {}).items():
        resources = {key: float(value) for key, value in (kind.get("resources") or {}).items()}
        if name != head and (n := kind.get("max_workers", most)):
            kinds.append(NodeType(resources, n))
    return Coming(True, tuple(kinds), most)


def _asker() -> Any:
    """The function that runs on the head, made here so that it is sent whole: the head need not have attnlab."""

    def ask(gcs_address: str) -> dict[str, Any] | None:
        """The autoscaler's configuration, {} if it cannot be read, None if there is no autoscaler."""
        import os

        import psutil
        import yaml

        port = gcs_address.rpartition(":")[2]
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            named = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
            ours = named.get("--gcs-address", "").rpartition(":")[2] == port
            if ours and "--autoscaling-config" in named:
                try:
                    with open(os.path.expanduser(named["--autoscaling-config"])) as file:
                        return yaml.safe_load(file)
                except (OSError, ValueError, yaml.YAMLError):
                    return {}
        return {} if os.environ.get("RAY_USAGE_STATS_KUBERAY_IN_USE") else None

    return ask
