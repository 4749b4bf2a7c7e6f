"""The front end that plays QEMU: a simulated VM that drives any vhost-user back end over its socket.

    with FrontEnd.connect("/run/rng.sock") as vm:
        queue = vm.queue(0, size=64)
        [data] = queue.request(writable=[32])

The order of messages is QEMU 10.0's own. Every message asks for an acknowledgement where that was negotiated, so that
an error is raised (`Refused`) where it was made.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence

from subos_protocol.vhost_user import (
    HEADER,
    U64,
    VRING_ADDR,
    VRING_NOFD_MASK,
    VRING_STATE,
    FrontendRequest,
    HeaderFlag,
    ProtocolFeature,
    pack_config,
    pack_mem_table,
    unpack_config,
    vhost_user_u64,
    vhost_vring_state,
)
from subos_protocol.virtio import Feature

from ..vhost_user.connection import Message, MessageStream
from ..vhost_user.errors import BadMessage
from .driver_queue import DriverQueue
from .errors import DeviceFault, Disconnected, NoAnswer, Refused
from .ram import GuestRam

Where = str | os.PathLike[str] | socket.socket
ALL = (1 << 64) - 1


class FrontEnd:
    """A VM with one device: `sock` is its vhost-user connection. `connect` also sets the device up.

    `features` and `protocol_features` are masks of what to accept of the back end's offer; `timeout` is in seconds,
    for each answer. The memory `ram` stays the caller's if the caller gave it.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        ram: GuestRam | None = None,
        features: int = ALL,
        protocol_features: int = ALL,
        timeout: float = 10.0,
    ) -> None:
        self._own_ram = ram is None
        self.ram = GuestRam() if ram is None else ram
        self.timeout = timeout
        self.features = 0
        """Virtio feature bits agreed upon."""
        self.protocol_features = 0
        self.max_queues = 1
        self.queues: dict[int, DriverQueue] = {}
        self._wanted, self._wanted_protocol = features, protocol_features
        self._stream = self._open(sock)

    @classmethod
    def connect(
        cls,
        where: Where,
        *,
        ram: GuestRam | None = None,
        features: int = ALL,
        protocol_features: int = ALL,
        timeout: float = 10.0,
    ) -> FrontEnd:
        """Connects to a path (or takes a connected socket), negotiates, and hands over the memory."""
        sock = _connected(where)
        vm = cls(sock, ram=ram, features=features, protocol_features=protocol_features, timeout=timeout)
        try:
            vm.negotiate()
            vm.set_memory()
        except BaseException:
            vm.close()
            raise
        return vm

    # --- messages

    def ask(self, request: int, payload: bytes = b"") -> bytes:
        """The payload of a request's own reply. Raises NoAnswer, Disconnected, DeviceFault for another's reply."""
        self._send(request, payload)
        return self._reply(request)

    def tell(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """A request without a reply of its own. Raises Refused where the acknowledgement says so."""
        acknowledged = bool(self.protocol_features & ProtocolFeature.REPLY_ACK)
        self._send(request, payload, HeaderFlag.NEED_REPLY if acknowledged else 0, fds)
        if acknowledged and U64.unpack(self._reply(request)).value:
            raise Refused(f"{FrontendRequest(request).name} was refused")

    def send_raw(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Any bytes, with any descriptors beside them."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else []
        self._stream.socket.sendmsg([data], ancillary)

    def send(
        self, request: int, payload: bytes = b"", flags: int = 0, fds: Sequence[int] = (), *, size: int = -1
    ) -> None:
        """One message, its header claiming `size` bytes of payload whatever there is; nothing is awaited."""
        header = HEADER.struct.pack(request, HeaderFlag.VERSION | flags, len(payload) if size < 0 else size)
        self.send_raw(header + payload, fds)

    def receive(self) -> Message:
        """The next message of the back end. Raises NoAnswer or Disconnected."""
        try:
            message = self._stream.receive()
        except TimeoutError:
            message = None
        except EOFError as error:
            raise Disconnected("the back end closed the connection") from error
        except BadMessage as error:
            raise DeviceFault(error.message) from error
        if message is None:
            raise NoAnswer(f"no answer in {self.timeout} s")
        return message

    # --- set-up

    def negotiate(self) -> None:
        """Features, protocol features, the number of queues, the owner: what QEMU does when a device is made."""
        request = FrontendRequest
        offered = self._get(request.GET_FEATURES)
        self.features = offered & self._wanted
        if offered & Feature.VHOST_USER_F_PROTOCOL_FEATURES:
            self.features |= Feature.VHOST_USER_F_PROTOCOL_FEATURES
            agreed = self._get(request.GET_PROTOCOL_FEATURES) & self._wanted_protocol
            self.protocol_features = 0  # an acknowledgement is due only after this one
            self.tell(request.SET_PROTOCOL_FEATURES, U64.pack(vhost_user_u64(agreed)))
            self.protocol_features = agreed
        if self.protocol_features & ProtocolFeature.MQ:
            self.max_queues = self._get(request.GET_QUEUE_NUM)
        self.tell(request.SET_OWNER)
        self.set_features(self.features)

    def set_features(self, features: int) -> None:
        self.tell(FrontendRequest.SET_FEATURES, U64.pack(vhost_user_u64(features)))

    def set_memory(self, ram: GuestRam | None = None) -> None:
        """Hands over the memory table, of `ram` if it is given: rings must then be laid out there, too."""
        ram = self.ram if ram is None else ram
        self.tell(FrontendRequest.SET_MEM_TABLE, pack_mem_table(ram.regions), ram.fds)

    def queue(
        self,
        index: int = 0,
        size: int = 128,
        *,
        indirect: bool = True,
        region: int = 0,
        start: bool = True,
        enabled: bool = True,
    ) -> DriverQueue:
        """Lays queue `index` out in memory and hands it over. `indirect` puts each request into an indirect table."""
        queue = DriverQueue(
            self.ram,
            index,
            size,
            indirect=indirect and bool(self.features & Feature.RING_INDIRECT_DESC),
            event_idx=bool(self.features & Feature.RING_EVENT_IDX),
            region=region,
            timeout=self.timeout,
        )
        self.queues[index] = queue
        if start:
            self.start(queue, enabled=enabled)
        return queue

    def start(self, queue: DriverQueue, *, base: int = 0, enabled: bool = True) -> None:
        """Hands a queue over. `base` is the next available index that the device takes."""
        request, index = FrontendRequest, queue.index
        self.tell(request.SET_VRING_NUM, _state(index, queue.size))
        self.tell(request.SET_VRING_BASE, _state(index, base))
        self.tell(request.SET_VRING_ADDR, VRING_ADDR.pack(queue.address))
        self.tell(request.SET_VRING_ERR, _u64(index), [queue.err_fd])
        self.tell(request.SET_VRING_KICK, _u64(index), [queue.kick_fd])
        self.tell(request.SET_VRING_CALL, _u64(index), [queue.call_fd])
        queue.running = True
        if self.features & Feature.VHOST_USER_F_PROTOCOL_FEATURES:
            self.enable(queue, enabled)

    def enable(self, queue: DriverQueue, on: bool = True) -> None:
        self.tell(FrontendRequest.SET_VRING_ENABLE, _state(queue.index, int(on)))

    def stop(self, queue: DriverQueue) -> int:
        """Takes a queue back; its base, from which `start` goes on. Nothing touches its memory afterwards."""
        if self.features & Feature.VHOST_USER_F_PROTOCOL_FEATURES:
            self.enable(queue, False)
        reply = self.ask(FrontendRequest.GET_VRING_BASE, _state(queue.index, 0))
        queue.running = False
        return VRING_STATE.unpack(reply).num

    def replace_call(self, queue: DriverQueue) -> None:
        """A new call eventfd for a running queue. What the device signalled to the old one meanwhile is lost, so it
        must signal the new one at once."""
        queue.replace_call()
        self.tell(FrontendRequest.SET_VRING_CALL, _u64(queue.index), [queue.call_fd])

    def poll_instead(self, queue: DriverQueue) -> None:
        """No call eventfd at all: the driver looks by itself."""
        self.tell(FrontendRequest.SET_VRING_CALL, _u64(queue.index | VRING_NOFD_MASK))

    def reboot(self) -> None:
        """The guest resets the device, and its driver sets it up anew: the same connection, everything repeated."""
        queues = [queue for queue in self.queues.values() if queue.running]
        for queue in queues:
            self.stop(queue)
            queue.reset()
        self.set_features(self.features)
        self.set_memory()
        for queue in queues:
            self.start(queue)

    def reconnect(self, where: Where) -> None:
        """Goes to a back end anew, with memory and rings as they are: what was not answered is asked again."""
        self._stream.close()
        self._stream = self._open(_connected(where))
        self.negotiate()
        self.set_memory()
        for queue in self.queues.values():
            if queue.running:
                self.start(queue, base=queue.used_index)

    # --- configuration space

    def config(self, offset: int = 0, size: int = 256) -> bytes:
        """`size` bytes of the device's configuration space. Raises Refused where the device has none."""
        reply = self.ask(FrontendRequest.GET_CONFIG, pack_config(offset, bytes(size)))
        if not reply:
            raise Refused("the device has no such configuration space")
        return unpack_config(reply)[1]

    def write_config(self, offset: int, data: bytes) -> None:
        self.tell(FrontendRequest.SET_CONFIG, pack_config(offset, data))

    # --- the end

    def close(self) -> None:
        """Leaves, as a QEMU that was killed: nothing is taken back first."""
        self._stream.close()
        for queue in self.queues.values():
            queue.close()
        self.queues.clear()
        if self._own_ram:
            self.ram.close()

    def __enter__(self) -> FrontEnd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- helpers

    def _open(self, sock: socket.socket) -> MessageStream:
        sock.settimeout(self.timeout)
        return MessageStream(sock)

    def _send(self, request: int, payload: bytes, flags: int = 0, fds: Sequence[int] = ()) -> None:
        try:
            self._stream.send(request, payload, flags, fds)
        except ConnectionError as error:
            raise Disconnected("the back end closed the connection") from error

    def _reply(self, request: int) -> bytes:
        reply = self.receive()
        reply.close()
        if reply.request != request or not reply.flags & HeaderFlag.REPLY:
            raise DeviceFault(f"request {request} was answered by {reply.request}, flags {reply.flags:#x}")
        return reply.payload

    def _get(self, request: int) -> int:
        return U64.unpack(self.ask(request)).value


def _connected(where: Where) -> socket.socket:
    if isinstance(where, socket.socket):
        return where
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(os.fspath(where))
    except BaseException:
        sock.close()
        raise
    return sock


def _u64(value: int) -> bytes:
    return U64.pack(vhost_user_u64(value))


def _state(index: int, value: int) -> bytes:
    return VRING_STATE.pack(vhost_vring_state(index, value))
