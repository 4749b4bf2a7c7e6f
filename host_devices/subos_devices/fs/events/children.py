"""Which node the guest has by which name: the inverse of what nodes.py knows, made for the directories that need it."""

from __future__ import annotations

from collections import OrderedDict

from ..nodes import NodeTable
from .changes import Place

_MOST = 64  # directories of which the names are kept


class Children:
    """Found by one look through the column of parents (at memory's speed), and kept while they hold."""

    def __init__(self, nodes: NodeTable) -> None:
        self._nodes = nodes
        self._known: OrderedDict[int, tuple[int, dict[bytes, int]]] = OrderedDict()
        """By directory: how often anything had got a name by then, and its names."""

    def find(self, place: Place) -> tuple[int, int]:
        """The node that the guest last saw at the place, with its generation; or (0, 0)."""
        nodes, (parent, name) = self._nodes, place
        known = self._known.get(parent)
        nodeid = known[1].get(name, 0) if known else 0
        if not self._holds(nodeid, place) and (known is None or known[0] != nodes.namings):
            nodeid = self._look(parent).get(name, 0)
        return (nodeid, int(nodes.generations[nodeid])) if self._holds(nodeid, place) else (0, 0)

    def _holds(self, nodeid: int, place: Place) -> bool:
        nodes, (parent, name) = self._nodes, place
        return nodeid > 1 and nodes.known(nodeid) and nodes.parents[nodeid] == parent and nodes.names[nodeid] == name

    def _look(self, parent: int) -> dict[bytes, int]:
        names = {self._nodes.names[nodeid]: nodeid for nodeid in self._nodes.children(parent)}
        self._known[parent] = self._nodes.namings, names
        self._known.move_to_end(parent)
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
        return names

    def clear(self) -> None:
        self._known.clear()
