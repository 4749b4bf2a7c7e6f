"""The control plane over a live connection: memory, eventfds, enabling, refusals, broken rings, reboots."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from subos_devices.testing import (
    Disconnected,
    DriverQueue,
    FrontEnd,
    GuestRam,
    NoAnswer,
    Refused,
    RingBroken,
    Supervised,
    supervise,
)
from subos_protocol.vhost_user import (
    U64,
    VRING_ADDR,
    VRING_NOFD_MASK,
    VRING_STATE,
    FrontendRequest,
    HeaderFlag,
    pack_config,
    pack_mem_table,
    vhost_user_mem_region,
    vhost_user_u64,
    vhost_vring_state,
)
from subos_protocol.virtio import DescFlag, Feature
from support.strangers import Reverser
from support.waiting import eventually


@pytest.fixture
def supervised() -> Iterator[Supervised]:
    with supervise() as supervised:
        yield supervised


@pytest.fixture
def vm(supervised: Supervised) -> Iterator[FrontEnd]:
    with FrontEnd.connect(supervised.add(Reverser)) as vm:
        yield vm


def works(queue: DriverQueue) -> bool:
    return queue.request([b"abc"], [3]) == [b"cba"]


def test_a_memory_table_is_replaced_while_rings_run(vm: FrontEnd) -> None:
    first, second = vm.queue(0), vm.queue(1)
    assert works(first)
    # The same memory through other descriptors, and one more region: as when memory is plugged into the VM.
    with GuestRam([(1 << 32, 1 << 20)]) as more:
        regions, fds = [*vm.ram.regions, *more.regions], [*vm.ram.fds, *more.fds]
        vm.tell(FrontendRequest.SET_MEM_TABLE, pack_mem_table(regions), fds)
        assert works(first)
        assert works(second)
        address = more.alloc(3)
        more.write(address, b"new")
        answer = vm.ram.alloc(3)
        first.write_descriptor(9, address, 3, DescFlag.NEXT, 10)
        first.write_descriptor(10, answer, 3, DescFlag.WRITE)
        first.publish(9)
        first.kick()
        eventually(lambda: vm.ram.read(answer, 3) == b"wen")


def test_memory_that_leaves_a_ring_outside_breaks_that_ring_only(vm: FrontEnd) -> None:
    with GuestRam([(0, 1 << 20), (1 << 32, 1 << 20)]) as ram:
        vm.set_memory(ram)
        low, high = DriverQueue(ram, 0, region=0), DriverQueue(ram, 1, region=1)
        vm.queues = {0: low, 1: high}
        vm.start(low)
        vm.start(high)
        vm.tell(FrontendRequest.SET_MEM_TABLE, pack_mem_table(ram.regions[:1]), ram.fds[:1])
        assert works(low)
        high.add([b"abc"], [3])
        high.kick()
        with pytest.raises(RingBroken):
            high.wait()


def test_a_new_call_eventfd_is_used_at_once(vm: FrontEnd) -> None:
    queue = vm.queue(0)
    assert works(queue)
    pending = queue.add([b"abc"], [3])
    queue.want_interrupt()
    vm.replace_call(queue)
    queue.kick()
    assert queue.wait(pending).buffers == [b"cba"]
    assert works(queue)


def test_a_driver_without_a_call_eventfd_is_served(vm: FrontEnd, supervised: Supervised) -> None:
    for queue in (vm.queue(0), vm.queue(1)):
        vm.poll_instead(queue)
        pending = queue.add([b"abc"], [3])
        queue.kick()
        eventually(lambda queue=queue, pending=pending: pending in queue.collect())  # type: ignore[misc]
        assert pending.buffers == [b"cba"]
    assert supervised.status()["restarts"] == 0


def test_a_disabled_ring_waits_and_is_looked_at_once_enabled(vm: FrontEnd) -> None:
    queue, other = vm.queue(0, enabled=False), vm.queue(1)
    first = queue.add([b"abc"], [3])
    queue.kick()
    assert works(other)  # a kick of the first, if it were heard, was heard before this one
    assert queue.used_index == 0
    vm.enable(queue)
    assert queue.wait(first).buffers == [b"cba"]
    vm.enable(queue, False)
    assert works(other)
    second = queue.add([b"def"], [3])  # and not even a kick
    assert works(other)
    assert queue.used_index == 1
    vm.enable(queue)
    assert queue.wait(second).buffers == [b"fed"]


def test_a_kick_from_before_the_ring_was_handed_over_is_not_lost(vm: FrontEnd) -> None:
    queue = vm.queue(0, start=False)
    pending = queue.add([b"abc"], [3])
    queue.kick(always=True)
    vm.start(queue)
    assert queue.wait(pending).buffers == [b"cba"]


def test_without_protocol_features_a_ring_starts_enabled(supervised: Supervised) -> None:
    path = supervised.add(Reverser)
    with FrontEnd(connected(path)) as vm:
        vm.set_features(Feature.VERSION_1)
        vm.set_memory()
        vm.features = int(Feature.VERSION_1)
        assert works(vm.queue(0))


def connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    return sock


@pytest.mark.parametrize("fault", ["jump", "head", "address", "loop"])
def test_a_broken_ring_ends_that_queue_only(vm: FrontEnd, supervised: Supervised, fault: str) -> None:
    broken, other = vm.queue(0), vm.queue(1)
    assert works(broken)
    match fault:
        case "jump":
            broken.set_available_index(broken.available_index + broken.size + 1)
        case "head":
            broken.publish(broken.size)
        case "address":
            broken.write_descriptor(3, 1 << 40, 8, DescFlag.WRITE)
            broken.publish(3)
        case "loop":
            broken.write_descriptor(3, broken.desc, 8, DescFlag.NEXT, 3)
            broken.publish(3)
    broken.kick(always=True)
    with pytest.raises(RingBroken):
        broken.wait()
    assert works(other)
    status = supervised.status()
    assert (status["faults"], status["restarts"]) == (1, 0)
    broken.kick(always=True)
    vm.stop(broken)
    broken.reset()
    vm.start(broken)
    assert works(broken)
    assert supervised.status()["faults"] == 1


def state(index: int, value: int) -> bytes:
    return VRING_STATE.pack(vhost_vring_state(index, value))


def u64(value: int) -> bytes:
    return U64.pack(vhost_user_u64(value))


def region(size: int) -> bytes:
    return pack_mem_table([vhost_user_mem_region(0, size, 0, 0)])


REFUSED: list[tuple[int, bytes, int]] = [
    (FrontendRequest.SET_FEATURES, u64(Feature.RING_PACKED), 0),
    (FrontendRequest.SET_FEATURES, b"short", 0),
    (FrontendRequest.SET_PROTOCOL_FEATURES, u64(1 << 15), 0),
    (FrontendRequest.SET_MEM_TABLE, region(4096), 0),
    (FrontendRequest.SET_MEM_TABLE, region(1 << 40), 1),
    (FrontendRequest.SET_MEM_TABLE, region(0), 1),
    (FrontendRequest.SET_MEM_TABLE, pack_mem_table([]), 0),
    (FrontendRequest.SET_MEM_TABLE, pack_mem_table([vhost_user_mem_region(0, 4096, 0, 0)] * 2), 2),
    (FrontendRequest.SET_MEM_TABLE, pack_mem_table([vhost_user_mem_region(n << 20, 4096, 0, 0) for n in range(9)]), 9),
    (FrontendRequest.SET_VRING_NUM, state(0, 64), 0),
    (FrontendRequest.SET_VRING_NUM, state(1, 65), 0),
    (FrontendRequest.SET_VRING_NUM, state(2, 64), 0),
    (FrontendRequest.SET_VRING_BASE, state(0, 1), 0),
    (FrontendRequest.SET_VRING_ADDR, VRING_ADDR.struct.pack(0, 0, 1 << 20, 2 << 20, 3 << 20, 0), 0),
    (FrontendRequest.SET_VRING_KICK, u64(0), 0),
    (FrontendRequest.SET_VRING_KICK, u64(VRING_NOFD_MASK), 0),
    (FrontendRequest.SET_VRING_KICK, u64(1), 1),
    (FrontendRequest.SET_VRING_CALL, u64(0), 0),
    (FrontendRequest.SET_VRING_CALL, u64(7), 1),
    (FrontendRequest.SET_VRING_ENABLE, state(9, 1), 0),
    (FrontendRequest.SET_CONFIG, pack_config(250, b"1234567"), 0),
    (FrontendRequest.SET_LOG_BASE, bytes(16), 1),
    (FrontendRequest.ADD_MEM_REG, bytes(40), 1),
    (999, b"", 0),
    (0, b"", 0),
]


@pytest.mark.parametrize(("request_number", "payload", "fds"), REFUSED)
def test_a_refused_message_changes_nothing(
    vm: FrontEnd, supervised: Supervised, request_number: int, payload: bytes, fds: int
) -> None:
    queue = vm.queue(0)
    assert works(queue)
    vm.send(request_number, payload, HeaderFlag.NEED_REPLY, vm.ram.fds * fds)
    reply = vm.receive()
    assert (reply.request, U64.unpack(reply.payload).value) == (request_number, 1)
    assert works(queue)
    vm.reboot()
    assert works(queue)
    assert supervised.status()["restarts"] == 0


def test_a_ring_outside_memory_is_refused_when_it_starts(vm: FrontEnd, supervised: Supervised) -> None:
    queue = vm.queue(0, start=False)
    queue.desc += 1 << 40
    with pytest.raises(Refused):
        vm.start(queue)
    queue.desc -= 1 << 40
    vm.start(queue)
    assert works(queue)


def test_configuration_that_is_not_there_is_an_empty_reply(supervised: Supervised) -> None:
    with FrontEnd.connect(supervised.add("rng")) as vm:
        with pytest.raises(Refused):
            vm.config(0, 8)
        assert vm.queue(0).request(writable=[8])


def test_messages_in_pieces_are_put_together(vm: FrontEnd) -> None:
    message = b"\x01\0\0\0" + b"\x01\0\0\0" + b"\0\0\0\0"
    for byte in message:
        vm.send_raw(bytes([byte]))
    assert vm.receive().request == FrontendRequest.GET_FEATURES
    vm.send_raw(message * 3)
    assert [vm.receive().request for _ in range(3)] == [1, 1, 1]


@pytest.mark.parametrize(
    "nonsense",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x01\0\0\0\x01\0\0\0\xff\xff\xff\xff", b"\x01\0\0\0\x02\0\0\0\0\0\0\0"],
    ids=["http", "payload of 4 GiB", "version 2"],
)
def test_what_is_not_vhost_user_ends_the_connection_and_nothing_else(
    vm: FrontEnd, supervised: Supervised, nonsense: bytes
) -> None:
    queue = vm.queue(0)
    assert works(queue)
    vm.send_raw(nonsense)
    with pytest.raises(Disconnected):
        vm.receive()
    vm.reconnect(supervised.folder / "device0.sock")
    assert works(queue)


def test_a_message_cut_off_by_the_end_is_dropped(vm: FrontEnd, supervised: Supervised) -> None:
    queue = vm.queue(0)
    vm.send(FrontendRequest.SET_MEM_TABLE, region(4096), fds=vm.ram.fds, size=200)
    vm.reconnect(supervised.folder / "device0.sock")
    assert works(queue)


def test_a_ring_that_is_stopped_is_left_alone(vm: FrontEnd) -> None:
    queue, other = vm.queue(0), vm.queue(1)
    assert works(queue)
    assert vm.stop(queue) == 1
    pending = queue.add([b"abc"], [3])
    queue.kick(always=True)
    assert works(other)
    with pytest.raises(NoAnswer):
        queue.wait(pending, timeout=0.1)
    vm.start(queue, base=1)
    assert queue.wait(pending).buffers == [b"cba"]


def test_reboots_with_requests_in_flight(vm: FrontEnd) -> None:
    queue = vm.queue(0)
    for _ in range(20):
        for number in range(50):
            queue.add([b"%d" % number], [8])
            queue.kick()
        vm.reboot()
        assert works(queue)
