"""The vhost-user control plane of one device, as a state machine that touches no socket and no ring.

    session = Session(device)
    effects = session.receive(message)   # the new state is in; what the outside world must now do
    …perform the effects…
    reply = session.answer(message)      # the reply's payload, or None

The state is the *snapshot* from which a worker can be started at any moment: features, memory regions with their
descriptors, and the rings. The session owns every descriptor that it keeps, and keeps the memory mapped: a table that
cannot be, or a ring outside it, is refused before anything has changed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from subos_protocol.errors import ProtocolError
from subos_protocol.vhost_user import (
    U64,
    VRING_ADDR,
    VRING_INDEX_MASK,
    VRING_NOFD_MASK,
    VRING_STATE,
    FrontendRequest,
    ProtocolFeature,
    pack_config,
    unpack_config,
    unpack_mem_table,
    vhost_user_u64,
    vhost_vring_addr,
    vhost_vring_state,
)
from subos_protocol.virtio import MAX_QUEUE_SIZE, Feature, avail_ring_size, used_ring_size

from .connection import Message
from .device import Device
from .effects import CallChanged, Effect, MemoryChanged, RingEnabled, RingStarted, RingStopped
from .errors import BadMemory, BadMessage
from .memory import GuestMemory

TRANSPORT_FEATURES = (
    Feature.VERSION_1 | Feature.VHOST_USER_F_PROTOCOL_FEATURES | Feature.RING_INDIRECT_DESC | Feature.RING_EVENT_IDX
)
"""Offered for every device. Not the packed ring: its state cannot be read back after a worker's death."""

MAX_CONFIG_WRITES = 16
"""So many of a front end's are remembered: a driver writes a word or two, again and again."""

ANSWERED = frozenset(
    {
        FrontendRequest.GET_FEATURES,
        FrontendRequest.GET_PROTOCOL_FEATURES,
        FrontendRequest.GET_QUEUE_NUM,
        FrontendRequest.GET_VRING_BASE,
        FrontendRequest.GET_CONFIG,
    }
)
"""Requests whose reply carries something else than an acknowledgement."""


@dataclass
class Vring:
    """One ring as the front end described it. `addr` holds the front end's addresses; -1 stands for no descriptor."""

    index: int
    size: int = 0
    base: int = 0
    addr: vhost_vring_addr | None = None
    kick: int = -1
    call: int = -1
    err: int = -1
    enabled: bool = False
    started: bool = False

    def close(self) -> None:
        for fd in (self.kick, self.call, self.err):
            if fd >= 0:
                os.close(fd)
        self.kick = self.call = self.err = -1

    def addresses(self, memory: GuestMemory) -> dict[str, int]:
        """Where the ring's three parts are, guest-physical. Raises BadMemory outside `memory`."""
        assert self.addr is not None, "a started ring has an address"
        return {
            "desc": memory.guest_address(self.addr.desc, 16 * self.size),
            "avail": memory.guest_address(self.addr.avail, avail_ring_size(self.size)),
            "used": memory.guest_address(self.addr.used, used_ring_size(self.size)),
        }


@dataclass
class Session:
    """The state of one device's connection, from the front end's first message to its last."""

    device: Device
    features: int = 0
    protocol_features: int = 0
    memory: GuestMemory | None = None
    region_fds: list[int] = field(default_factory=list)
    vrings: list[Vring] = field(default_factory=list)
    config_writes: dict[int, bytes] = field(default_factory=dict)
    """What was last written to the device's configuration space, by offset."""
    renewed: set[str] = field(default_factory=set)
    """Names of `descriptors` that are others than when somebody last looked, and emptied this."""

    def __post_init__(self) -> None:
        self.vrings = self.vrings or [Vring(index) for index in range(self.device.num_queues)]
        request = FrontendRequest
        self._handlers: dict[int, Callable[[Message], tuple[Effect, ...]]] = {
            request.GET_FEATURES: self._nothing,
            request.SET_FEATURES: self._set_features,
            request.SET_OWNER: self._nothing,
            request.RESET_OWNER: self._reset,
            request.GET_PROTOCOL_FEATURES: self._nothing,
            request.SET_PROTOCOL_FEATURES: self._set_protocol_features,
            request.GET_QUEUE_NUM: self._nothing,
            request.SET_MEM_TABLE: self._set_mem_table,
            request.SET_VRING_NUM: self._set_vring_num,
            request.SET_VRING_ADDR: self._set_vring_addr,
            request.SET_VRING_BASE: self._set_vring_base,
            request.GET_VRING_BASE: self._get_vring_base,
            request.SET_VRING_KICK: self._set_vring_kick,
            request.SET_VRING_CALL: self._set_vring_call,
            request.SET_VRING_ERR: self._set_vring_err,
            request.SET_VRING_ENABLE: self._set_vring_enable,
            request.GET_CONFIG: self._get_config,
            request.SET_CONFIG: self._set_config,
        }

    @property
    def offered(self) -> int:
        """Virtio feature bits on offer."""
        return TRANSPORT_FEATURES | self.device.features

    @property
    def protocol_offered(self) -> int:
        config = ProtocolFeature.CONFIG if self.device.has_config else 0
        return ProtocolFeature.MQ | ProtocolFeature.REPLY_ACK | config

    @property
    def descriptors(self) -> dict[str, int]:
        """All that are open, by names that stay."""
        found = {f"region{number}": fd for number, fd in enumerate(self.region_fds)}
        for vring in self.vrings:
            kinds = {"kick": vring.kick, "call": vring.call, "err": vring.err}
            found |= {f"{kind}{vring.index}": fd for kind, fd in kinds.items() if fd >= 0}
        return found

    @property
    def event_idx(self) -> bool:
        return bool(self.features & Feature.RING_EVENT_IDX)

    def receive(self, message: Message) -> tuple[Effect, ...]:
        """Takes one message in. Raises BadMessage or BadMemory, with the state as it was, for one that must be
        refused."""
        handler = self._handlers.get(message.request)
        if handler is None:
            raise BadMessage(f"request {_name(message.request)} is not served: its feature was not offered")
        try:
            return handler(message)
        except ProtocolError as error:
            raise BadMessage(f"{_name(message.request)}: {error}") from error

    def answer(self, message: Message, *, failed: bool = False) -> bytes | None:
        """The reply's payload once the effects are performed (or `failed`), None where none is due."""
        request = message.request
        if request in ANSWERED:
            if request == FrontendRequest.GET_CONFIG:
                # An empty payload is how a back end says that there is no such configuration space.
                return b"" if failed else self._config_reply(message)
            if request == FrontendRequest.GET_VRING_BASE:
                index = VRING_STATE.unpack(message.payload).vring_index if len(message.payload) >= 8 else 0
                base = self.vrings[index].base if index < len(self.vrings) else 0
                return VRING_STATE.pack(vhost_vring_state(index, base))
            value = {
                FrontendRequest.GET_FEATURES: self.offered,
                FrontendRequest.GET_PROTOCOL_FEATURES: self.protocol_offered,
                FrontendRequest.GET_QUEUE_NUM: self.device.num_queues,
            }[FrontendRequest(request)]
            return U64.pack(vhost_user_u64(value))
        if message.needs_reply and self.protocol_features & ProtocolFeature.REPLY_ACK:
            return U64.pack(vhost_user_u64(int(failed)))
        return None

    def ring_index(self, vring: Vring, part: str) -> int:
        """`avail.idx` or `used.idx`, by `part`. Raises BadMemory where the ring lies outside guest memory.

        It is read by a system call: a front end that cut the memory's file short would end us with SIGBUS.
        """
        if self.memory is None:
            raise BadMemory("there is no guest memory")
        address = vring.addresses(self.memory)[part] + 2
        for region, fd in zip(self.memory.regions, self.region_fds, strict=True):
            offset = address - region.guest_addr
            if 0 <= offset <= region.size - 2:
                try:
                    data = os.pread(fd, 2, region.mmap_offset + offset)
                except OSError as error:
                    raise BadMemory(f"guest memory cannot be read: {error.strerror}") from error
                if len(data) == 2:
                    return int.from_bytes(data, sys.byteorder)
        raise BadMemory(f"the {part} ring {vring.index} is in memory that is no longer there")

    def close(self) -> None:
        """The front end is gone: gives up every descriptor."""
        for vring in self.vrings:
            vring.close()
            vring.started = False
        for fd in self.region_fds:
            os.close(fd)
        self.memory, self.region_fds = None, []

    # --- one method a request

    def _nothing(self, _message: Message) -> tuple[Effect, ...]:
        return ()

    def _set_features(self, message: Message) -> tuple[Effect, ...]:
        features = U64.unpack(message.payload).value
        if features & ~self.offered:
            raise BadMessage(f"features {features & ~self.offered:#x} were not offered")
        self.features = features
        if features & Feature.VHOST_USER_F_PROTOCOL_FEATURES:
            return ()
        # Without the feature there is no SET_VRING_ENABLE, and rings start enabled.
        changed = [vring for vring in self.vrings if not vring.enabled]
        for vring in changed:
            vring.enabled = True
        return tuple(RingEnabled(vring.index) for vring in changed if vring.started)

    def _set_protocol_features(self, message: Message) -> tuple[Effect, ...]:
        features = U64.unpack(message.payload).value
        if features & ~self.protocol_offered:
            raise BadMessage(f"protocol features {features & ~self.protocol_offered:#x} were not offered")
        self.protocol_features = features
        return ()

    def _reset(self, _message: Message) -> tuple[Effect, ...]:
        stopped = tuple(RingStopped(vring.index) for vring in self.vrings if vring.started)
        for vring in self.vrings:
            vring.started = vring.enabled = False
        return stopped

    def _set_mem_table(self, message: Message) -> tuple[Effect, ...]:
        regions = unpack_mem_table(message.payload)
        self.memory = GuestMemory(regions, message.fds)
        for fd in self.region_fds:
            os.close(fd)
        self.region_fds = [message.take_fd() for _ in regions]
        self.renewed |= {f"region{number}" for number in range(len(regions))}
        return (MemoryChanged(),)

    def _set_vring_num(self, message: Message) -> tuple[Effect, ...]:
        state = VRING_STATE.unpack(message.payload)
        vring = self._stopped_vring(state.vring_index, "SET_VRING_NUM")
        if not 0 < state.num <= MAX_QUEUE_SIZE or state.num & (state.num - 1):
            raise BadMessage(f"SET_VRING_NUM: {state.num} is no queue size")
        vring.size = state.num
        return ()

    def _set_vring_addr(self, message: Message) -> tuple[Effect, ...]:
        addr = VRING_ADDR.unpack(message.payload)
        vring = self._vring(addr.vring_index)
        if vring.started and vring.addr != addr:
            raise BadMessage("SET_VRING_ADDR on a running ring")
        vring.addr = addr
        return ()

    def _set_vring_base(self, message: Message) -> tuple[Effect, ...]:
        state = VRING_STATE.unpack(message.payload)
        self._stopped_vring(state.vring_index, "SET_VRING_BASE").base = state.num & 0xFFFF
        return ()

    def _get_vring_base(self, message: Message) -> tuple[Effect, ...]:
        vring = self._vring(VRING_STATE.unpack(message.payload).vring_index)
        was_started, vring.started = vring.started, False
        return (RingStopped(vring.index),) if was_started else ()

    def _set_vring_kick(self, message: Message) -> tuple[Effect, ...]:
        value = U64.unpack(message.payload).value
        vring = self._vring(value & VRING_INDEX_MASK)
        if value & VRING_NOFD_MASK:
            raise BadMessage("SET_VRING_KICK without an eventfd: polled rings are not served")
        if not (vring.size and vring.addr and self.memory):
            raise BadMessage(f"SET_VRING_KICK: ring {vring.index} has no size, no address or no memory yet")
        vring.addresses(self.memory)  # refused where the ring lies outside
        fd = message.take_fd()
        effects: tuple[Effect, ...] = (RingStopped(vring.index),) if vring.started else ()
        if vring.kick >= 0:
            os.close(vring.kick)
        vring.kick, vring.started = fd, True
        self.renewed.add(f"kick{vring.index}")
        return (*effects, RingStarted(vring.index))

    def _set_vring_call(self, message: Message) -> tuple[Effect, ...]:
        vring, fd = self._vring_fd(message)
        if vring.call >= 0:
            os.close(vring.call)
        vring.call = fd
        self.renewed.add(f"call{vring.index}")
        return (CallChanged(vring.index),) if vring.started else ()

    def _set_vring_err(self, message: Message) -> tuple[Effect, ...]:
        vring, fd = self._vring_fd(message)
        if vring.err >= 0:
            os.close(vring.err)
        vring.err = fd
        self.renewed.add(f"err{vring.index}")
        return ()

    def _set_vring_enable(self, message: Message) -> tuple[Effect, ...]:
        state = VRING_STATE.unpack(message.payload)
        vring = self._vring(state.vring_index)
        changed, vring.enabled = vring.enabled != bool(state.num), bool(state.num)
        return (RingEnabled(vring.index),) if changed and vring.started else ()

    def _get_config(self, message: Message) -> tuple[Effect, ...]:
        if not self.device.has_config:
            raise BadMessage("GET_CONFIG: the configuration space is the front end's")
        self._config_reply(message)
        return ()

    def _set_config(self, message: Message) -> tuple[Effect, ...]:
        if not self.device.has_config:
            raise BadMessage("SET_CONFIG: the configuration space is the front end's")
        head, data = unpack_config(message.payload)
        try:
            self.device.set_config(head.offset, data)
        except Exception as error:
            raise BadMessage(f"SET_CONFIG: the device failed: {error!r}") from error
        self.config_writes.pop(head.offset, None)  # so that the last one comes last
        self.config_writes[head.offset] = data
        if len(self.config_writes) > MAX_CONFIG_WRITES:
            del self.config_writes[next(iter(self.config_writes))]
        return ()

    # --- helpers

    def _config_reply(self, message: Message) -> bytes:
        head, _ = unpack_config(message.payload)
        try:
            data = self.device.config()[head.offset : head.offset + head.size]
        except Exception as error:  # somebody's device: QEMU waits for an answer, with its big lock held
            raise BadMessage(f"GET_CONFIG: the device failed: {error!r}") from error
        return pack_config(head.offset, data.ljust(head.size, b"\0"), head.flags)

    def _vring(self, index: int) -> Vring:
        if index >= len(self.vrings):
            raise BadMessage(f"ring {index} of a device that has {len(self.vrings)}")
        return self.vrings[index]

    def _stopped_vring(self, index: int, request: str) -> Vring:
        vring = self._vring(index)
        if vring.started:
            raise BadMessage(f"{request} on a running ring")
        return vring

    def _vring_fd(self, message: Message) -> tuple[Vring, int]:
        value = U64.unpack(message.payload).value
        vring = self._vring(value & VRING_INDEX_MASK)
        return vring, -1 if value & VRING_NOFD_MASK else message.take_fd()


def _name(request: int) -> str:
    try:
        return FrontendRequest(request).name
    except ValueError:
        return str(request)
