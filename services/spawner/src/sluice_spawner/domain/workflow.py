"""The workflow core: a graph of nodes whose edges carry conditions, as data.

It knows nothing of agents: a node is whatever ends with an outcome. Checks look at the whole graph once; readiness is
incremental: the end of a node looks at its own dependents only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sluice_spawner.domain.errors import SpawnLimitExceeded, SpawnRefused, listed

Condition = Literal["succeeded", "failed", "finished"]
Ending = Literal["succeeded", "failed", "skipped", "cancelled"]


def satisfied(condition: Condition, ending: Ending) -> bool:
    """Whether an edge lets its target run, now that its source ended so.

    `finished` means ended in whatever way, skipped too: a join behind two exclusive branches waits with it for both.
    """
    return condition == "finished" or condition == ending


@dataclass(frozen=True, slots=True)
class Node:
    """A node and the edges that lead to it: pairs of source and condition."""

    name: str
    incoming: tuple[tuple[str, Condition], ...] = ()


Edges = dict[str, tuple[tuple[str, Condition], ...]]
"""For each node, by its name, the edges that leave it: pairs of target and condition, in the plan's order."""


def check(nodes: Sequence[Node], *, max_fan_out: int, max_depth: int) -> None:
    """Checks a graph.

    Raises:
        SpawnRefused: With code `duplicate_task`, `unknown_dependency`, `dependency_cycle` or `unreachable_task`, and
            the names.
        SpawnLimitExceeded: More dependents of one node, or a longer path, than the limits admit.
    """
    outgoing = outgoing_edges(nodes)
    for name, edges in outgoing.items():
        targets = {target for target, _ in edges}
        if len(targets) > max_fan_out:
            raise SpawnLimitExceeded(
                f"{len(targets)} tasks depend on {name}; at most {max_fan_out} may: raise limits.max_fan_out or join "
                f"them in stages",
                field="plan.limits.max_fan_out",
                limit=f"max_fan_out: {max_fan_out} tasks",
            )
    order = _topological(nodes, outgoing)
    depth = _depth(nodes, order)
    if depth > max_depth:
        raise SpawnLimitExceeded(
            f"the longest path has {depth} tasks; at most {max_depth} may follow each other: raise limits.max_depth",
            field="plan.limits.max_depth",
            limit=f"max_depth: {max_depth} tasks",
        )
    _check_reachable(nodes, order)


def outgoing_edges(nodes: Sequence[Node]) -> Edges:
    """Turns the edges of a graph round. An edge that is named twice counts once.

    Raises:
        SpawnRefused: A name stands twice, or an edge begins at a name that is no node.
    """
    edges: dict[str, list[tuple[str, Condition]]] = {}
    for index, node in enumerate(nodes):
        if node.name in edges:
            raise SpawnRefused(
                f"task {node.name} is defined twice; give every task an id of its own",
                code="duplicate_task",
                field=f"plan.tasks.{index}.id",
            )
        edges[node.name] = []
    for index, node in enumerate(nodes):
        for source, condition in dict.fromkeys(node.incoming):
            if source not in edges:
                raise SpawnRefused(
                    f"task {node.name} depends on {source}, which the plan does not have; add it or remove the edge",
                    code="unknown_dependency",
                    field=f"plan.tasks.{index}.dependencies",
                )
            edges[source].append((node.name, condition))
    return {name: tuple(targets) for name, targets in edges.items()}


def _topological(nodes: Sequence[Node], outgoing: Edges) -> list[str]:
    waiting = {node.name: len(dict.fromkeys(node.incoming)) for node in nodes}
    order = [name for name, count in waiting.items() if count == 0]
    for name in order:  # grows while it is walked
        for target, _ in outgoing[name]:
            waiting[target] -= 1
            if waiting[target] == 0:
                order.append(target)
    if len(order) < len(nodes):
        cycle = _cycle({node.name: node for node in nodes if waiting[node.name] > 0})
        raise SpawnRefused(
            f"tasks depend on each other in a cycle: {listed(cycle, ' → ')}; remove one of these edges",
            code="dependency_cycle",
            field="plan.tasks",
        )
    return order


def _cycle(stuck: dict[str, Node]) -> list[str]:
    """Walks from one stuck node to a stuck source until a name comes again.

    Returns the cycle in the edges' direction, from the node of it that the plan names first.
    """
    path: list[str] = []
    seen: dict[str, int] = {}
    name = next(iter(stuck))
    while name not in seen:
        seen[name] = len(path)
        path.append(name)
        name = next(source for source, _ in stuck[name].incoming if source in stuck)
    cycle = path[seen[name] :][::-1]
    members = set(cycle)
    first = cycle.index(next(name for name in stuck if name in members))
    return [*cycle[first:], *cycle[: first + 1]]


def _depth(nodes: Sequence[Node], order: Sequence[str]) -> int:
    incoming = {node.name: node.incoming for node in nodes}
    depth: dict[str, int] = {}
    for name in order:
        depth[name] = 1 + max((depth[source] for source, _ in incoming[name]), default=0)
    return max(depth.values(), default=0)


def _check_reachable(nodes: Sequence[Node], order: Sequence[str]) -> None:
    """Refuses a node whose conditions contradict each other, along all the paths that lead to it.

    What must have succeeded, and what must have failed, for a node to run is a set each, kept as the bits of an
    integer. A bit in both is a contradiction.
    """
    incoming = {node.name: node.incoming for node in nodes}
    bits = {node.name: 1 << index for index, node in enumerate(nodes)}
    succeeded: dict[str, int] = {}
    failed: dict[str, int] = {}
    for name in order:
        must_succeed = must_fail = 0
        for source, condition in incoming[name]:
            if condition == "finished":
                continue
            must_succeed |= succeeded[source]
            must_fail |= failed[source]
            if condition == "succeeded":
                must_succeed |= bits[source]
            else:
                must_fail |= bits[source]
        both = must_succeed & must_fail
        if both:
            culprits = [node.name for node in nodes if bits[node.name] & both]
            raise SpawnRefused(
                f"task {name} can never run: it needs {listed(culprits)} both to succeed and to fail; change the "
                f"conditions of its dependencies, or wait with on: finished",
                code="unreachable_task",
                field="plan.tasks",
            )
        succeeded[name], failed[name] = must_succeed, must_fail
