"""The control plane's state machine: QEMU's own conversation, every request, every refusal, and any nonsense."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subos_devices.rng import RngDevice
from subos_devices.vhost_user.connection import Message
from subos_devices.vhost_user.device import DeviceSpec
from subos_devices.vhost_user.effects import CallChanged, Effect, MemoryChanged, RingEnabled, RingStarted, RingStopped
from subos_devices.vhost_user.errors import BadMemory, BadMessage, TransportError
from subos_devices.vhost_user.session import Session
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
    unpack_mem_table,
    vhost_user_mem_region,
    vhost_user_u64,
    vhost_vring_addr,
    vhost_vring_state,
)
from subos_protocol.virtio import Feature
from support.captured import conversation
from support.processes import descriptors
from support.strangers import Reverser

R = FrontendRequest
SIZE = 1 << 20
USER = 0x7000_0000_0000
FEATURES = int(Feature.VERSION_1 | Feature.VHOST_USER_F_PROTOCOL_FEATURES)


def memfd(size: int = SIZE) -> int:
    fd = os.memfd_create("guest-ram", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd


def eventfd() -> int:
    return os.eventfd(0, os.EFD_CLOEXEC)


def u64(value: int) -> bytes:
    return U64.pack(vhost_user_u64(value))


def state(index: int, value: int) -> bytes:
    return VRING_STATE.pack(vhost_vring_state(index, value))


def table(*regions: tuple[int, int]) -> bytes:
    return pack_mem_table([vhost_user_mem_region(base, size, USER + base, 0) for base, size in regions])


def address(index: int, at: int = USER) -> bytes:
    return VRING_ADDR.pack(vhost_vring_addr(index, 0, at, at + 0x3000, at + 0x2000, 0))


class Talk:
    """A session and what was said to it; gives up what the session does not take, as the supervisor does."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def say(self, request: int, payload: bytes = b"", *fds: int, flags: int = 1) -> tuple[Effect, ...]:
        message = Message(request, flags, payload, list(fds))
        try:
            return self.session.receive(message)
        finally:
            message.close()

    def ask(self, request: int, payload: bytes = b"", *, flags: int = 1) -> bytes | None:
        message = Message(request, flags, payload)
        failed = False
        try:
            self.session.receive(message)
        except TransportError:
            failed = True
        return self.session.answer(message, failed=failed)

    def set_up(self, index: int = 0, *, enabled: bool = True) -> tuple[Effect, ...]:
        """A ring, from nothing to served; the effects of its start."""
        self.say(R.SET_FEATURES, u64(FEATURES))
        if not self.session.memory:
            self.say(R.SET_MEM_TABLE, table((0, SIZE)), memfd())
        self.say(R.SET_VRING_NUM, state(index, 64))
        self.say(R.SET_VRING_BASE, state(index, 0))
        self.say(R.SET_VRING_ADDR, address(index))
        effects = self.say(R.SET_VRING_KICK, u64(index), eventfd())
        return effects + self.say(R.SET_VRING_ENABLE, state(index, int(enabled)))

    def snapshot(self) -> object:
        session = self.session
        rings = [(v.size, v.base, v.addr, v.kick, v.call, v.err, v.enabled, v.started) for v in session.vrings]
        return (session.features, session.protocol_features, session.memory, tuple(session.region_fds), rings)


@pytest.fixture
def talk() -> Iterator[Talk]:
    before = descriptors()
    talk = Talk(Session(Reverser(DeviceSpec("reverser", "reverser"))))
    yield talk
    talk.session.close()
    assert descriptors() == before


# --- what QEMU says


def test_answers_to_qemu_are_those_that_it_got() -> None:
    """The recorded conversation, byte for byte; a ring's base is its worker's to know."""
    session = Session(RngDevice(DeviceSpec("rng", "rng")))
    lines = conversation("vhost-user-rng.txt")
    for line, following in zip(lines, [*lines[1:], None], strict=True):
        if not line.from_qemu:
            continue
        header = HEADER.unpack(line.data)
        payload = line.data[HEADER.size :]
        fds = [memfd(unpack_mem_table(payload)[0].size) if header.request == R.SET_MEM_TABLE else eventfd()]
        message = Message(header.request, header.flags, payload, fds * line.descriptors)
        if not line.descriptors:
            os.close(fds[0])
        expected = following.data[HEADER.size :] if following and not following.from_qemu else None
        for effect in session.receive(message):
            if isinstance(effect, RingStopped) and expected:
                session.vrings[effect.index].base = VRING_STATE.unpack(expected).num
        assert not message.fds
        assert session.answer(message) == expected
    assert not session.vrings[0].started
    session.close()


# --- each request


def test_what_is_offered(talk: Talk) -> None:
    offered = U64.unpack(talk.ask(R.GET_FEATURES) or b"").value
    assert offered == 1 << 32 | 1 << 30 | 1 << 29 | 1 << 28
    protocol = U64.unpack(talk.ask(R.GET_PROTOCOL_FEATURES) or b"").value
    assert protocol == ProtocolFeature.MQ | ProtocolFeature.REPLY_ACK | ProtocolFeature.CONFIG
    assert U64.unpack(talk.ask(R.GET_QUEUE_NUM) or b"").value == 2
    assert Session(RngDevice(DeviceSpec("rng", "rng"))).protocol_offered == 1 << 0 | 1 << 3


def test_features_are_kept(talk: Talk) -> None:
    assert talk.say(R.SET_FEATURES, u64(FEATURES | Feature.RING_EVENT_IDX)) == ()
    assert talk.session.event_idx
    talk.say(R.SET_FEATURES, u64(FEATURES))
    assert not talk.session.event_idx
    talk.say(R.SET_PROTOCOL_FEATURES, u64(ProtocolFeature.MQ))
    assert talk.session.protocol_features == ProtocolFeature.MQ


def test_memory(talk: Talk) -> None:
    assert talk.say(R.SET_MEM_TABLE, table((0, SIZE)), memfd()) == (MemoryChanged(),)
    first, [fd] = talk.session.memory, talk.session.region_fds
    assert talk.say(R.SET_MEM_TABLE, table((0, SIZE), (SIZE, SIZE)), memfd(), memfd()) == (MemoryChanged(),)
    assert talk.session.memory is not first
    assert len(talk.session.region_fds) == 2
    assert first
    assert fd not in talk.session.region_fds or os.fstat(fd)


def test_a_ring_from_start_to_stop(talk: Talk) -> None:
    assert talk.set_up(1) == (RingStarted(1), RingEnabled(1))
    vring = talk.session.vrings[1]
    assert (vring.size, vring.started, vring.enabled) == (64, True, True)
    assert talk.session.memory
    assert vring.addresses(talk.session.memory) == {"desc": 0, "avail": 0x2000, "used": 0x3000}
    assert talk.say(R.SET_VRING_CALL, u64(1), eventfd()) == (CallChanged(1),)
    assert talk.say(R.SET_VRING_ERR, u64(1), eventfd()) == ()
    assert talk.say(R.SET_VRING_ENABLE, state(1, 1)) == ()
    assert talk.say(R.SET_VRING_ENABLE, state(1, 0)) == (RingEnabled(1),)
    assert talk.say(R.GET_VRING_BASE, state(1, 0)) == (RingStopped(1),)
    vring.base = 77
    assert talk.ask(R.GET_VRING_BASE, state(1, 0)) == state(1, 77)
    assert not vring.started
    assert talk.say(R.SET_VRING_ENABLE, state(1, 1)) == ()


def test_a_ring_that_was_never_started_has_the_base_that_it_was_given(talk: Talk) -> None:
    talk.say(R.SET_VRING_BASE, state(0, 0x1_0005))
    assert talk.ask(R.GET_VRING_BASE, state(0, 0)) == state(0, 5)


def test_another_kick_starts_a_running_ring_anew(talk: Talk) -> None:
    talk.set_up(0)
    assert talk.say(R.SET_VRING_KICK, u64(0), eventfd()) == (RingStopped(0), RingStarted(0))


def test_a_call_or_err_may_be_taken_away(talk: Talk) -> None:
    talk.set_up(0)
    talk.say(R.SET_VRING_CALL, u64(0), eventfd())
    assert talk.say(R.SET_VRING_CALL, u64(VRING_NOFD_MASK)) == (CallChanged(0),)
    assert talk.session.vrings[0].call == -1
    talk.say(R.SET_VRING_ERR, u64(0), eventfd())
    talk.say(R.SET_VRING_ERR, u64(VRING_NOFD_MASK))
    assert talk.session.vrings[0].err == -1


def test_reset_owner_stops_everything(talk: Talk) -> None:
    talk.set_up(0)
    talk.set_up(1, enabled=False)
    assert talk.say(R.RESET_OWNER) == (RingStopped(0), RingStopped(1))
    assert talk.say(R.RESET_OWNER) == ()


def test_without_protocol_features_rings_are_enabled(talk: Talk) -> None:
    talk.set_up(0, enabled=False)
    assert talk.say(R.SET_FEATURES, u64(Feature.VERSION_1)) == (RingEnabled(0),)
    assert all(vring.enabled for vring in talk.session.vrings)


def test_configuration(talk: Talk) -> None:
    assert talk.ask(R.GET_CONFIG, pack_config(0, bytes(8), 3)) == pack_config(0, b"reverser", 3)
    assert talk.ask(R.GET_CONFIG, pack_config(200, bytes(4))) == pack_config(200, bytes(4))
    talk.say(R.SET_CONFIG, pack_config(8, b"there"))
    reply = talk.ask(R.GET_CONFIG, pack_config(7, bytes(6))) or b""
    assert unpack_config(reply)[1] == b"rthere"
    assert talk.ask(R.GET_CONFIG, pack_config(0, b"")[:4]) == b""


def test_acknowledgements_are_given_where_they_were_negotiated_and_asked_for(talk: Talk) -> None:
    asked = int(HeaderFlag.VERSION | HeaderFlag.NEED_REPLY)
    assert talk.ask(R.SET_OWNER, flags=asked) is None
    talk.say(R.SET_PROTOCOL_FEATURES, u64(ProtocolFeature.REPLY_ACK))
    assert talk.ask(R.SET_OWNER) is None
    assert talk.ask(R.SET_OWNER, flags=asked) == u64(0)
    assert talk.ask(R.SET_VRING_NUM, state(0, 3), flags=asked) == u64(1)
    assert talk.ask(R.SET_LOG_BASE, flags=asked) == u64(1)
    assert talk.ask(1000, flags=asked) == u64(1)
    assert len(talk.ask(R.GET_FEATURES, flags=asked) or b"") == 8


# --- each refusal


REFUSALS: list[tuple[int, bytes, int, type[TransportError]]] = [
    (R.SET_FEATURES, u64(1 << 34), 0, BadMessage),
    (R.SET_FEATURES, b"1234567", 0, BadMessage),
    (R.SET_PROTOCOL_FEATURES, u64(1 << 5), 0, BadMessage),
    (R.SET_MEM_TABLE, table(), 0, BadMemory),
    (R.SET_MEM_TABLE, table((0, SIZE)), 0, BadMemory),
    (R.SET_MEM_TABLE, table((0, SIZE)), 2, BadMemory),
    (R.SET_MEM_TABLE, table((0, SIZE + 1)), 1, BadMemory),
    (R.SET_MEM_TABLE, table((0, 0)), 1, BadMemory),
    (R.SET_MEM_TABLE, table((0, SIZE), (SIZE - 1, SIZE)), 2, BadMemory),
    (R.SET_MEM_TABLE, pack_mem_table([vhost_user_mem_region(1 << 63, SIZE, 1 << 63, (1 << 64) - 1)]), 1, BadMemory),
    (R.SET_MEM_TABLE, pack_mem_table([vhost_user_mem_region((1 << 64) - 1, SIZE, 0, 0)]), 1, BadMemory),
    (R.SET_MEM_TABLE, table(*[(n * SIZE, SIZE) for n in range(9)]), 9, BadMessage),
    (R.SET_MEM_TABLE, table((0, SIZE))[:-1], 1, BadMessage),
    (R.SET_VRING_NUM, state(0, 128), 0, BadMessage),
    (R.SET_VRING_NUM, state(1, 0), 0, BadMessage),
    (R.SET_VRING_NUM, state(1, 3), 0, BadMessage),
    (R.SET_VRING_NUM, state(1, 1 << 16), 0, BadMessage),
    (R.SET_VRING_NUM, state(2, 64), 0, BadMessage),
    (R.SET_VRING_NUM, b"", 0, BadMessage),
    (R.SET_VRING_BASE, state(0, 0), 0, BadMessage),
    (R.SET_VRING_BASE, state(0xFFFF_FFFF, 0), 0, BadMessage),
    (R.SET_VRING_ADDR, address(0, USER + 0x1000), 0, BadMessage),
    (R.SET_VRING_ADDR, address(2), 0, BadMessage),
    (R.SET_VRING_ADDR, address(0)[:-1], 0, BadMessage),
    (R.GET_VRING_BASE, state(2, 0), 0, BadMessage),
    (R.GET_VRING_BASE, b"", 0, BadMessage),
    (R.SET_VRING_KICK, u64(0), 0, BadMessage),
    (R.SET_VRING_KICK, u64(VRING_NOFD_MASK), 0, BadMessage),
    (R.SET_VRING_KICK, u64(VRING_NOFD_MASK), 1, BadMessage),
    (R.SET_VRING_KICK, u64(1), 1, BadMessage),
    (R.SET_VRING_KICK, u64(2), 1, BadMessage),
    (R.SET_VRING_CALL, u64(0), 0, BadMessage),
    (R.SET_VRING_CALL, u64(2), 1, BadMessage),
    (R.SET_VRING_ERR, u64(0), 0, BadMessage),
    (R.SET_VRING_ENABLE, state(2, 1), 0, BadMessage),
    (R.SET_VRING_ENABLE, b"", 0, BadMessage),
    (R.GET_CONFIG, b"", 0, BadMessage),
    (R.GET_CONFIG, pack_config(250, bytes(7)), 0, BadMessage),
    (R.SET_CONFIG, pack_config(250, bytes(7)), 0, BadMessage),
    (R.SET_CONFIG, pack_config(0, b"crash"), 0, BadMessage),
    (R.SET_LOG_BASE, bytes(16), 1, BadMessage),
    (R.GET_INFLIGHT_FD, bytes(24), 0, BadMessage),
    (R.ADD_MEM_REG, bytes(40), 1, BadMessage),
    (R.SET_BACKEND_REQ_FD, b"", 1, BadMessage),
    (R.RESET_DEVICE, b"", 0, BadMessage),
    (0, b"", 3, BadMessage),
]


@pytest.mark.parametrize(("request_number", "payload", "fds", "error"), REFUSALS)
def test_a_refused_message_leaves_the_state_as_it_was(
    talk: Talk, request_number: int, payload: bytes, fds: int, error: type[TransportError]
) -> None:
    talk.set_up(0)
    talk.say(R.SET_VRING_CALL, u64(0), eventfd())
    before = talk.snapshot()
    with pytest.raises(error):
        talk.say(request_number, payload, *(memfd() for _ in range(fds)))
    assert talk.snapshot() == before


def test_a_ring_outside_memory_is_refused(talk: Talk) -> None:
    talk.set_up(0)
    talk.say(R.GET_VRING_BASE, state(0, 0))
    talk.say(R.SET_VRING_ADDR, address(0, USER + SIZE - 0x1000))
    before = talk.snapshot()
    with pytest.raises(BadMemory):
        talk.say(R.SET_VRING_KICK, u64(0), eventfd())
    assert talk.snapshot() == before


def test_no_configuration_space_is_said_by_an_empty_reply() -> None:
    talk = Talk(Session(RngDevice(DeviceSpec("rng", "rng"))))
    assert talk.ask(R.GET_CONFIG, pack_config(0, bytes(8))) == b""
    with pytest.raises(BadMessage):
        talk.say(R.SET_CONFIG, pack_config(0, b"x"))


# --- any nonsense


indices = st.sampled_from([0, 1, 2, 0xFF, 0xFFFF_FFFF])
values = st.sampled_from([0, 1, 2, 3, 64, 1 << 15, 1 << 16, SIZE, USER, USER + SIZE - 16, (1 << 64) - 1])
words = st.sampled_from([0, 1, 3, 64, 1 << 15, 1 << 16, 0xFFFF_FFFF])
payloads = st.one_of(
    st.binary(max_size=64),
    st.builds(u64, st.one_of(values, st.sampled_from([FEATURES, 0x100, 0x101, 9, 1 << 28]))),
    st.builds(state, indices, words),
    st.builds(VRING_ADDR.struct.pack, indices, words, values, values, values, values),
    st.builds(address, indices),
    st.lists(st.builds(vhost_user_mem_region, values, values, values, values), max_size=3).map(pack_mem_table),
    st.just(table((0, SIZE))),
    st.builds(pack_config, st.integers(0, 300), st.binary(max_size=20)),
)
messages = st.tuples(
    st.one_of(st.sampled_from(sorted(FrontendRequest)), st.integers(0, 1 << 32)),
    payloads,
    st.lists(st.sampled_from([memfd, eventfd, lambda: memfd(0), lambda: os.open("/", os.O_PATH)]), max_size=3),
    st.sampled_from([1, 9]),
)


@settings(max_examples=400)
@given(st.lists(messages, max_size=25), st.booleans())
def test_any_messages_are_served_or_refused_and_leak_nothing(
    conversation: list[tuple[int, bytes, list[object], int]], begun: bool
) -> None:
    before = descriptors()
    session = Session(Reverser(DeviceSpec("reverser", "reverser")))
    talk = Talk(session)
    if begun:
        talk.set_up(0)
    for request, payload, makers, flags in conversation:
        message = Message(request, flags, payload, [make() for make in makers])  # type: ignore[operator]
        state_before = talk.snapshot()
        failed = False
        try:
            for effect in session.receive(message):
                if isinstance(effect, RingStarted):
                    assert session.memory
                    session.vrings[effect.index].addresses(session.memory)
        except (BadMessage, BadMemory):
            assert talk.snapshot() == state_before
            failed = True
        message.close()
        reply = session.answer(message, failed=failed)
        assert reply is None or len(reply) <= 268
        for vring in session.vrings:
            assert not vring.started or (vring.kick >= 0 and vring.size and vring.addr)
    session.close()
    state_before = None  # it holds mapped memory, which holds a descriptor
    assert descriptors() == before
