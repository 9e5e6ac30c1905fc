"""Ways through a graph of named nodes: what can be reached, and where one goes round for ever."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Node = TypeVar("Node")


def reached(start: Node, graph: Mapping[Node, Sequence[Node]]) -> set[Node]:
    """Every node that some way from `start` leads to, with `start` itself."""
    todo = [start]
    seen: set[Node] = set()
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo += graph.get(node, ())
    return seen


def rings(graph: Mapping[str, Sequence[str]], *, most: int) -> Iterator[list[str]]:
    """Up to `most` cycles, each along its ways and from the node that `graph` names first.

    A cycle that is left when one way of each cycle told before is taken out is told too, so two that share a node are
    two. There is none exactly when every walk ends.
    """
    left = {node: dict.fromkeys(targets) for node, targets in graph.items()}
    place = {node: at for at, node in enumerate(graph)}
    for _ in range(most):
        ring = _ring(left)
        if not ring:
            return
        first = ring.index(min(ring, key=place.__getitem__))
        ring = ring[first:] + ring[:first]
        del left[ring[-1]][ring[0]]
        yield ring


def _ring(graph: dict[str, dict[str, None]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        ring: list[str] = error.args[1]
        return ring[:0:-1]  # graphlib tells it against the ways, with one node at both ends
    return []
