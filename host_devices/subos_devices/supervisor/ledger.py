"""What a supervisor's successor needs to go on with a device, kept by somebody who outlives it: its *holder*.

A supervisor may die between any two steps, so what it does for a device is noted in one packet before anybody else can
see it: a record (plain data) and the descriptors that are new since the last one. The holder has the newest record and
a copy of each descriptor that it names, and closes the others. So the device's connection, the guest's memory, its
rings' eventfds, and the sockets of the device's processes stay open when the supervisor dies: QEMU sees no end, and the
workers go on serving.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

Record = Mapping[str, Any]
"""What `DeviceServer.record` says, as JSON has it. The holder reads of it:

    connected   whether there is a front end
    restarts    how many workers have died
    pid         the worker's, 0 where there is none that is ready
    children    pids of those of the device's processes that are the zygote's children
    group       the group whose process serves it; empty for one of its own
"""

FORMAT = 1
"""Of records and what their descriptors' names mean, and of what zygote, keepers and workers hear and say: those that a
successor finds are the last version's. It goes on with what is of its own format only."""


class Ledger(Protocol):
    """The way to the holder."""

    def note(self, name: str, record: Record, fds: Mapping[str, int], renewed: Collection[str]) -> None:
        """Device `name` is as `record` says, with `fds` and no others, of which those of `renewed` are other ones than
        before under that name, as are those whose name the last note did not have. It is with the holder, whatever
        happens next, when this returns. The descriptors stay the caller's."""

    def forget(self, name: str) -> None:
        """There is no such device any more."""


class Nobody:
    """The ledger of a supervisor that nobody is to succeed."""

    def note(self, name: str, record: Record, fds: Mapping[str, int], renewed: Collection[str]) -> None:
        pass

    def forget(self, name: str) -> None:
        pass


class Held(NamedTuple):
    """What a holder has of one device: a record, and the descriptors that it names, by name."""

    record: Record
    fds: Mapping[str, int]


def children(held: Sequence[Held]) -> set[int]:
    """The zygote's children that a successor goes on with. Not the process of a group that is not noted to serve all of
    its devices: it may serve them none the less."""
    found, of_groups = set[int](), dict[str, set[int]]()
    for device in held:
        pids = {int(pid) for pid in device.record["children"]}
        if group := device.record["group"]:
            of_groups.setdefault(group, set()).update(pids or {0})
        else:
            found |= pids
    return found.union(*(pids for pids in of_groups.values() if 0 not in pids))
