"""What a cluster's autoscaler may start.

Ray 2.60 has node types in the cluster's state (`ray._private.state`) only if an operator put them there. Else they are
in the configuration that `ray up` gave the autoscaler, on the head.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from attnlab.sweep.cluster.ask_nodes import ask_nodes

ANSWER_S = 60.0
HEAD = "node:__internal_head__"


@dataclass(frozen=True)
class NodeType:
    """Machines of one kind that the autoscaler may start."""

    resources: Mapping[str, float]
    max_nodes: int


@dataclass(frozen=True)
class Autoscaler:
    """What a cluster's autoscaler may start."""

    active: bool = False  # without `node_types` it is not known what it may start
    node_types: tuple[NodeType, ...] = ()
    max_nodes: int = 0  # of all types

    def largest(self, nodes: Iterable[Mapping[str, Any]]) -> dict[str, float]:
        """All resources of the cluster at its largest, as Ray names them; `nodes`: `ray.nodes()`."""
        total: Counter[str] = Counter()
        for node in nodes:
            if node["Alive"] and (HEAD in node["Resources"] or not self.node_types):  # others are of types that scale
                total.update(node["Resources"])
        left = self.max_nodes
        for kind in sorted(self.node_types, key=_size, reverse=True):
            n = min(kind.max_nodes, left)
            left -= n
            total.update({key: n * value for key, value in kind.resources.items() if n})
        return dict(total)


def _size(kind: NodeType) -> tuple[float, float]:
    return kind.resources.get("GPU", 0), kind.resources.get("CPU", 0)


def find_autoscaler() -> Autoscaler:
    """The connected cluster's autoscaler; none if it cannot be found out."""
    import ray
    from ray._private import state

    if config := state.state.get_cluster_config():
        types = tuple(NodeType(dict(g.resources), g.max_count) for g in config.node_group_configs if g.max_count)
        return Autoscaler(True, types, sum(kind.max_nodes for kind in types))
    head = [node for node in ray.nodes() if node["Alive"] and HEAD in node["Resources"]][:1]
    address = ray.get_runtime_context().gcs_address
    for _, answer in ask_nodes(head, _config_reader(), lambda node: (address,), ANSWER_S):
        if isinstance(answer, dict):
            return from_config(answer) if answer else Autoscaler(active=True)
    return Autoscaler()


def from_config(config: Mapping[str, Any]) -> Autoscaler:
    """The autoscaler of a cluster file as `ray up` filled it in."""
    head, max_nodes, types = config.get("head_node_type"), config.get("max_workers", 2), []
    for name, kind in config.get("available_node_types", {}).items():
        resources = {key: float(value) for key, value in (kind.get("resources") or {}).items()}
        if name != head and (n := kind.get("max_workers", max_nodes)):
            types.append(NodeType(resources, n))
    return Autoscaler(True, tuple(types), max_nodes)


def _config_reader() -> Any:
    def read_config(gcs_address: str) -> dict[str, Any] | None:
        """On the head: the autoscaler's configuration, {} if unreadable, None without one."""
        import os

        import psutil
        import yaml

        port = gcs_address.rpartition(":")[2]
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            options = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
            same_cluster = options.get("--gcs-address", "").rpartition(":")[2] == port
            if same_cluster and "--autoscaling-config" in options:
                try:
                    with open(os.path.expanduser(options["--autoscaling-config"]), encoding="utf-8") as file:
                        return yaml.safe_load(file)
                except (OSError, ValueError, yaml.YAMLError):
                    return {}
        return {} if os.environ.get("RAY_USAGE_STATS_KUBERAY_IN_USE") else None

    return read_config
