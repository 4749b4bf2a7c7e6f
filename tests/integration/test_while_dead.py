"""What QEMU and the guest do while a device has no worker: it is answered, and the next worker goes on from there."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from subos_devices import runtime
from subos_devices.input.actions import move
from subos_devices.input.client import DriverConnection
from subos_devices.supervisor import restarts
from subos_devices.testing import FrontEnd, GuestRam, Supervised, supervise
from subos_devices.testing.fuse import FuseClient
from subos_devices.testing.ram import MIB
from subos_protocol.fuse_opcodes import FuseOpcode
from subos_protocol.input_codes import Abs, Ev
from subos_protocol.vsock import Op
from support.input_guest import Guest
from support.strangers import Reverser
from support.vsock_driver import Driver
from support.waiting import eventually

PAUSE = 1.0  # seconds without a worker
PORT = 5000


@pytest.fixture
def supervised(monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervised]:
    monkeypatch.setattr(restarts, "BACKOFF", (PAUSE,) * 10)
    with supervise() as supervised:
        yield supervised


def kill(supervised: Supervised) -> None:
    """Returns once the supervisor knows it; the next worker comes PAUSE later."""
    restarts = supervised.status()["restarts"]
    os.kill(supervised.status()["pid"], signal.SIGKILL)
    eventually(lambda: supervised.status()["restarts"] > restarts)


# --- the transport


@contextlib.contextmanager
def pending(supervised: Supervised, ram: GuestRam) -> Iterator[FrontEnd]:
    """A front end of a device that is dead, with one request that was answered and one that waits."""
    with FrontEnd.connect(supervised.add(Reverser), ram=ram, timeout=20) as vm:
        queue = vm.queue(0)
        assert queue.request([b"abc"], [3]) == [b"cba"]
        kill(supervised)
        queue.add([b"waits"], [5])
        queue.kick()
        yield vm


def reset(vm: FrontEnd) -> None:
    vm.reboot()


def stop_and_go_on(vm: FrontEnd) -> None:
    """As QEMU does it for `stop` and `cont`."""
    bases = {queue: vm.stop(queue) for queue in vm.queues.values()}
    for queue, base in bases.items():
        vm.start(queue, base=base)


def more_memory(vm: FrontEnd) -> None:
    vm.set_memory()


def new_interrupts(vm: FrontEnd) -> None:
    for queue in vm.queues.values():
        vm.replace_call(queue)


def off_and_on(vm: FrontEnd) -> None:
    for on in (False, True):
        for queue in vm.queues.values():
            vm.enable(queue, on)


EVENTS = (reset, stop_and_go_on, more_memory, new_interrupts, off_and_on)


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_while_there_is_no_worker(supervised: Supervised, event: Callable[[FrontEnd], None]) -> None:
    with GuestRam() as ram, pending(supervised, ram) as vm:
        event(vm)
        queue = vm.queues[0]
        if event is not reset:  # which has forgotten what waits
            assert queue.wait().buffers == [b"stiaw"]
        assert queue.request([b"def"], [3]) == [b"fed"]
        assert supervised.status()["restarts"] == 1


def test_everything_at_once_while_there_is_no_worker(supervised: Supervised) -> None:
    with GuestRam() as ram, pending(supervised, ram) as vm:
        for event in (stop_and_go_on, more_memory, off_and_on, new_interrupts, stop_and_go_on):
            event(vm)
        assert vm.queues[0].wait().buffers == [b"stiaw"]
        kill(supervised)
        for event in (reset, off_and_on, reset):
            event(vm)
        vm.write_config(8, b"kept")
        assert vm.config(8, 4) == b"kept"
        assert vm.queues[0].request([b"def"], [3]) == [b"fed"]


def test_memory_that_is_plugged_while_there_is_no_worker(supervised: Supervised) -> None:
    """The rings move to where there was no memory before."""
    with (
        GuestRam() as ram,
        GuestRam([(0, 16 * MIB), (64 * MIB, 16 * MIB)]) as larger,
        pending(supervised, ram) as vm,
    ):
        with contextlib.closing(vm.queues[0]) as before:
            vm.stop(before)
        vm.set_memory(larger)
        vm.ram = larger
        moved = vm.queue(0, region=1)
        assert moved.request([b"def"], [3]) == [b"fed"]


def test_a_device_that_is_taken_out_while_it_is_dead(supervised: Supervised) -> None:
    """The next front end may come before the next worker."""
    path = supervised.add(Reverser)
    for _ in range(2):
        with GuestRam() as ram, FrontEnd.connect(path, ram=ram, timeout=20) as vm:
            assert vm.queue(0).request([b"abc"], [3]) == [b"cba"]
            kill(supervised)
            vm.queues[0].add([b"waits"], [5])
            vm.queues[0].kick()
        eventually(lambda: not supervised.status()["connected"])
    with GuestRam() as ram, FrontEnd.connect(path, ram=ram, timeout=20) as vm:
        assert vm.queue(0).request([b"abc"], [3]) == [b"cba"]
        assert vm.queue(1).request([b"abc"], [3]) == [b"cba"]


def test_a_supervisor_that_ends_while_a_device_is_dead(supervised: Supervised) -> None:
    with FrontEnd.connect(supervised.add(Reverser)) as vm:
        assert vm.queue(0).request([b"abc"], [3]) == [b"cba"]
        kill(supervised)


# --- the models


@pytest.mark.parametrize("event", [reset, stop_and_go_on])
def test_a_mouse(supervised: Supervised, tmp_path: Path, event: Callable[[FrontEnd], None]) -> None:
    place = tmp_path / "driver"
    listener = runtime.listen(place, socket.SOCK_SEQPACKET)
    path = supervised.add("mouse", fds={"driver": listener.detach()})
    with FrontEnd.connect(path, timeout=20) as vm:
        guest = Guest(vm.queue(0, size=4, indirect=False))
        vm.queue(1, size=4)
        with DriverConnection(place) as driver:
            driver.send(move(1, 2))
            guest.listen(lambda: guest.is_at(1, 2))
        kill(supervised)
        event(vm)
        if event is reset:
            guest = Guest(vm.queues[0])
        with DriverConnection(place) as driver:
            driver.send(move(3, 4))
            guest.listen(lambda: guest.is_at(3, 4))
        if event is reset:  # a guest that is new is told only what is
            assert [e.value for e in guest.events if (e.type, e.code) == (Ev.EV_ABS, Abs.ABS_X)][-1] == 3


@pytest.mark.parametrize("event", [reset, stop_and_go_on])
def test_vsock(supervised: Supervised, tmp_path: Path, event: Callable[[FrontEnd], None]) -> None:
    place = tmp_path / "v"
    path = supervised.add("vsock", fds={"listener": runtime.listen(place).detach()}, uds_path=str(place))
    with (
        FrontEnd.connect(path, timeout=20) as vm,
        socket.socket(socket.AF_UNIX) as listener,
        contextlib.ExitStack() as accepted,
    ):
        listener.bind(f"{place}_{PORT}")
        listener.listen()
        guest = Driver(vm)
        guest.send(Op.REQUEST, 40000, PORT)
        guest.expect(Op.RESPONSE)
        accepted.enter_context(listener.accept()[0])
        kill(supervised)
        event(vm)
        if event is reset:
            guest.again()
        guest.send(Op.REQUEST, 40001, PORT, timeout=20)
        while (packet := guest.next()).op != Op.RESPONSE:
            assert (packet.op, packet.dst_port) == (Op.RST, 40000)  # a guest that is new drops it
        assert packet.dst_port == 40001
        accepted.enter_context(listener.accept()[0])


def test_a_share_whose_guest_is_reset(supervised: Supervised, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with FrontEnd.connect(supervised.add("fs", shared_dir=str(tmp_path)), timeout=20) as vm:
        vm.queue(0)
        client = FuseClient(vm.queue(1))
        client.init()
        client.request(FuseOpcode.FUSE_LOOKUP, 1, b"file\0", reply=160)
        kill(supervised)
        reset(vm)
        client.init()
        reply = client.request(FuseOpcode.FUSE_LOOKUP, 1, b"file\0", reply=160)
        assert int.from_bytes(reply[48:56], "little") == len(b"content")
