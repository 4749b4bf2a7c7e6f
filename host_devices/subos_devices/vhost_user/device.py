"""The contract of a device model: implement `Device`, and QEMU can plug it into a guest.

A device lives twice. In the **supervisor** it answers for the control plane: identity, features and
configuration space; these methods must return at once. In its **worker**, a process of its own that can be
killed and respawned at any time, it moves data: `start` opens what it needs, `process` is called when the
driver has made buffers available. The two copies are built alike, from the same `DeviceSpec`, and share
nothing; the worker holds guest memory, the rings' eventfds and the spec's descriptors, and never speaks to QEMU. It is
jailed before its device is built: see "The sandbox of workers" in host_devices/README.md.

`subos_devices/rng.py` is a whole device in sixty lines.
"""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol

from subos_protocol.virtio import DeviceId

from .virtqueue import Virtqueue

STATISTICS_SIZE = 32 << 10  # bytes that a device may fill with what it counts

Option = str | int | bool | None


class DeviceSpec(NamedTuple):
    """All that building a device takes, in plain data so that it can cross to another process."""

    kind: str
    """Which class: a name in `subos_devices.registry`, or `package.module:Class`."""
    name: str
    """Unique in its VM."""
    options: Mapping[str, Option] = MappingProxyType({})
    fds: Mapping[str, int] = MappingProxyType({})
    """Descriptors that the parent opened or bound for the device (a listening driver socket, say)."""


class Worker(Protocol):
    """What a worker offers its device."""

    respawned: bool
    """True where an earlier worker of this device died: the driver has seen this device's past."""

    kept: Any
    """What `Device.keep` returned, once for this worker and the ones before it in its keeper; None without a keeper."""

    sees_host: bool
    """False where it is jailed in a root of its own: paths of the host mean nothing there."""

    statistics: memoryview
    """STATISTICS_SIZE bytes that outlive the worker, and that `Device.describe` reads in the supervisor."""

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Calls `callback` whenever `fd` is readable (level-triggered), until `unwatch`."""

    def unwatch(self, fd: int) -> None: ...

    def alarm(self, seconds: float, callback: Callable[[], None]) -> None:
        """Calls `callback` once, after `seconds`."""

    def kick(self, queue: Virtqueue) -> None:
        """Has `process` called with `queue` at once, as if its driver had kicked: for what happens in a callback."""

    def log(self, message: str) -> None:
        """One line for the person who runs the VM."""

    def ask(self, **question: object) -> tuple[dict[str, Any], list[int]]:
        """What `Device.answer` says in the supervisor: the way to what lies outside the jail. Waits. The descriptors
        are the caller's. Raises OSError: what the answer raised, or that nobody answers."""


class Device(ABC):
    """One virtio device. Subclasses set the class attributes and implement `process`."""

    device_id: ClassVar[DeviceId]
    num_queues: ClassVar[int] = 1
    features: int = 0
    """The device type's own feature bits (0 to 23); the transport's are added for it."""
    patience: ClassVar[float] = 1.0
    """Seconds that one request may take. QEMU waits so long for a ring that it takes back, with the VM standing
    still, before the worker is killed."""
    limit: ClassVar[float] = 5.0
    """Seconds after which a worker hangs that does nothing it should, and does not say that it lives. It is killed."""
    standing: ClassVar[frozenset[int]] = frozenset()
    """Queues whose buffers wait until this host has something for the driver: no answer is owed for them."""
    asks: ClassVar[bool] = False
    """True where its worker asks questions (`Worker.ask`, `answer`)."""
    answers_slowly: ClassVar[bool] = False
    """True where an answer may have to wait for a disk: it is then given on a thread."""
    keeps: ClassVar[bool] = False
    """True where its workers are made by a keeper: what `keep` returns outlives them, and so do the descriptors that
    `kept_descriptors` names, under the same numbers."""
    has_config: ClassVar[bool] = False
    """True where the configuration space is ours (`config`, `set_config`), not QEMU's."""

    def __init__(self, spec: DeviceSpec) -> None:
        """Checks `spec.options`, opens nothing. Runs in both processes. Raises UserError for a bad option."""
        self.spec = spec

    # --- control plane: in the supervisor, answers at once

    def config(self) -> bytes:
        """The configuration space, at most 256 bytes."""
        return b""

    def set_config(self, offset: int, data: bytes) -> None:
        """The driver wrote `data` at `offset` (both checked to lie within 256 bytes)."""

    def describe(self, statistics: memoryview) -> dict[str, Any]:
        """What `status` shows of the model's own, from what its worker has counted in `statistics`. A worker may be
        in a guest's hands: believe no number in there."""
        return {}

    def answer(self, question: Mapping[str, Any]) -> tuple[Mapping[str, object], Sequence[int]]:
        """What the worker gets to hear, and descriptors for it, which are closed here afterwards. It runs with all
        rights of the user: a worker may be in a guest's hands, so check everything that it says. Raises OSError."""
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    # --- data plane: in the worker

    @classmethod
    def prepare(cls, spec: DeviceSpec) -> None:
        """Loads what the device takes from files of its program's, while there are any: the jail is closed next, and
        only then is the device built. Raises UserError."""

    @classmethod
    def keep(cls, spec: DeviceSpec) -> object:
        """What outlives its workers, for `Worker.kept`: memory that a fork shares. Called once, in the keeper, in its
        jail; only where `keeps` says so. Raises OSError, UserError."""
        return None

    @classmethod
    def kept_descriptors(cls, kept: Any) -> Collection[int]:
        """Which descriptors of the workers before it the next one still needs, by what they noted in `kept`: all others
        but its own (spec.fds …) are closed before it is built, in its process. One that is not open is no error."""
        return ()

    def start(self, worker: Worker) -> None:
        """Opens files and sockets. Called once, before any queue."""

    @abstractmethod
    def process(self, queue: Virtqueue) -> None:
        """The driver kicked `queue`, or the queue was just started: serve what is available, without waiting."""

    def queue_started(self, queue: Virtqueue) -> None:
        """`queue` is ready and enabled; `process` follows."""

    def queue_stopped(self, queue: Virtqueue) -> None:
        """`queue` is the driver's again: drop every chain popped from it, and every view into guest memory."""

    def front_end_gone(self) -> None:
        """The VM has ended: what was kept for its guest, descriptors and locks among it, is to go. All queues are
        stopped; the next VM may begin. The worker may be told so more than once, and before there was any."""

    def close(self) -> None:
        """The worker ends in good order."""
