"""Run a function once on every node of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

Node = Mapping[str, Any]  # a row of `ray.nodes()`


def ask_nodes(
    nodes: Iterable[Node], function: Callable[..., Any], arguments: Callable[[Node], tuple[Any, ...]], answer_s: float
) -> Iterator[tuple[Node, Any]]:
    """Yield every node with what `function(*arguments(node))` returned there, or its exception.

    A function defined in another one is sent whole, so that nodes without attnlab can run it.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(function)
    calls = {}
    for node in nodes:
        on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        calls[task.options(scheduling_strategy=on_node).remote(*arguments(node))] = node
    done, late = ray.wait(list(calls), num_returns=len(calls), timeout=answer_s) if calls else ([], [])
    for call in late:
        yield calls[call], TimeoutError(f"gave no answer within {answer_s:.0f} s")
    for call in done:
        try:
            answer = ray.get(call)
        except Exception as error:  # the node is gone, or the function raised it
            answer = error
        yield calls[call], answer
