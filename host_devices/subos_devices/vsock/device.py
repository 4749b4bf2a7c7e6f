"""virtio-vsock: streams between programs of the guest and programs of this host (VIRTIO 1.3 §5.10).

Queue 0 is the guest's receive queue, queue 1 its transmit queue; the event queue stays in QEMU.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from subos_protocol.virtio import DeviceId
from subos_protocol.vsock import RXQ, TXQ, VIRTIO_VSOCK_CONFIG, VMADDR_CID_HOST, virtio_vsock_config

from ..errors import UserError
from ..vhost_user.device import Device, DeviceSpec, Worker
from ..vhost_user.virtqueue import Virtqueue
from .host import check_path, connect
from .known import Known, describe
from .muxer import Muxer

GUEST_CID = 3  # the first that is not reserved. A vhost-user device's are its VM's own: every VM may have the same
DESCRIPTORS = 64  # that are not for connections

OPTIONS = {
    "uds_path": "the socket for clients of the host; a guest's connection to port N goes to PATH_N (required)",
    "guest_cid": f"the guest's address (default: {GUEST_CID})",
}


class VsockDevice(Device):
    """Streams only. `spec.fds["listener"]` is the listening socket at `uds_path`."""

    device_id = DeviceId.VSOCK
    num_queues = 2
    standing = frozenset({0})  # what the driver receives into
    has_config = True
    asks = True  # a jailed worker connects to nothing

    def __init__(self, spec: DeviceSpec) -> None:
        super().__init__(spec)
        unknown = set(spec.options) - set(OPTIONS)
        if unknown:
            raise UserError(f"{spec.name}: there is no option {min(unknown)!r}", f"vsock has {', '.join(OPTIONS)}")
        path = spec.options.get("uds_path")
        if not isinstance(path, str) or not path:
            raise UserError(f"{spec.name} has no path for its socket", "give it one: --uds-path vm.vsock")
        check_path(path)
        self.path = path
        self.cid = self._cid()

    def _cid(self) -> int:
        given = self.spec.options.get("guest_cid")
        try:
            cid = GUEST_CID if given is None else int(given)
        except ValueError:
            cid = 0
        if not VMADDR_CID_HOST < cid < 0xFFFF_FFFF:
            raise UserError(
                f"{self.spec.name}: a guest cannot have the address {given}",
                f"from {VMADDR_CID_HOST + 1} to {0xFFFF_FFFE}; every VM may have the same",
            )
        return cid

    # --- control plane

    def config(self) -> bytes:
        return VIRTIO_VSOCK_CONFIG.pack(virtio_vsock_config(self.cid))

    def describe(self, statistics: memoryview) -> dict[str, Any]:
        return {"vsock": describe(statistics)}

    def answer(self, question: Mapping[str, Any]) -> tuple[Mapping[str, object], Sequence[int]]:
        """{"port": n}: a connection to that port of the host."""
        port = question.get("port")
        if not isinstance(port, int) or not 0 <= port < 1 << 32:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return {}, [connect(self.path, port).detach()]

    # --- data plane

    def start(self, worker: Worker) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        limit = max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - DESCRIPTORS)
        if "listener" not in self.spec.fds:
            raise UserError(f"{self.spec.name} has no socket for clients", "whoever starts it opens and passes it")
        known = Known(worker.statistics)

        def connect_host(port: int) -> socket.socket:
            _, [fd] = worker.ask(port=port)
            return socket.socket(fileno=fd)

        self._muxer = Muxer(self.spec.fds["listener"], connect_host, self.cid, limit, worker, known)

    def queue_started(self, queue: Virtqueue) -> None:
        if queue.index == RXQ:
            self._muxer.rx_started(queue)
        else:
            self._muxer.tx_started(queue)

    def process(self, queue: Virtqueue) -> None:
        if queue.index == TXQ:
            self._muxer.take(queue)
        else:
            self._muxer.fill(queue)

    def queue_stopped(self, queue: Virtqueue) -> None:
        self._muxer.stopped(queue)

    def front_end_gone(self) -> None:
        self._muxer.front_end_gone()

    def close(self) -> None:
        self._muxer.close()
