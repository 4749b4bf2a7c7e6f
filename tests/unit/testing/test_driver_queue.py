"""What the simulated driver notices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from subos_devices.testing import DeviceFault, DriverQueue, GuestRam, LostInterrupt, NoAnswer, Pending, RingFull
from subos_devices.vhost_user.memory import GuestMemory
from subos_devices.vhost_user.virtqueue import Virtqueue


class Both:
    """A driver's queue, and the device's side in the same process."""

    def __init__(self, ram: GuestRam) -> None:
        self.driver = DriverQueue(ram, 0, 4, timeout=0)
        memory, ring = GuestMemory(ram.regions, ram.fds), self.driver
        self.device = Virtqueue(0, 4, memory, ring.desc, ring.avail, ring.used, call=ring.call_fd)


@pytest.fixture
def both() -> Iterator[Both]:
    with GuestRam() as ram:
        both = Both(ram)
        yield both
        both.driver.close()


class Late(DriverQueue):
    """Its device gives `late` back just after the driver has asked for an interrupt, and does not interrupt."""

    device: Virtqueue
    late: Pending

    def want_interrupt(self, wanted: bool = True) -> bool:
        missed = super().want_interrupt(wanted)
        self.device.push(self.late.head, 0)
        return missed


def test_it_notices_an_interrupt_that_is_missing() -> None:
    with GuestRam() as ram:
        driver = Late(ram, 0, 4, timeout=0)
        driver.device = Virtqueue(
            0, 4, GuestMemory(ram.regions, ram.fds), driver.desc, driver.avail, driver.used, call=driver.call_fd
        )
        driver.late = driver.add([b"x"])
        with pytest.raises(LostInterrupt):
            driver.wait()
        driver.close()


def test_it_notices_that_there_is_no_answer(both: Both) -> None:
    both.driver.add([b"x"])
    with pytest.raises(NoAnswer, match="1 requests"):
        both.driver.wait()


def test_it_notices_chains_that_were_not_the_devices(both: Both) -> None:
    both.device.push(3, 0)
    with pytest.raises(DeviceFault, match="gave back 3"):
        both.driver.collect()


def test_it_notices_more_bytes_than_there_was_room_for(both: Both) -> None:
    pending = both.driver.add(writable=[4])
    both.device.push(pending.head, 5)
    with pytest.raises(DeviceFault, match="5 bytes written where 4 had room"):
        both.driver.collect()


def test_a_full_ring(both: Both) -> None:
    for _ in range(4):
        both.driver.add([b"x"])
    with pytest.raises(RingFull):
        both.driver.add([b"x"])
    with pytest.raises(ValueError, match="at least one buffer"):
        both.driver.add()


def test_memory_has_an_end() -> None:
    with GuestRam([(0x1000, 0x1000), (0x9000, 0x1000)]) as ram:
        assert ram.alloc(0x800) == 0x1000
        address = ram.alloc(0x800)
        with pytest.raises(MemoryError):
            ram.alloc(16)
        assert ram.alloc(16, region=1) == 0x9000
        ram.free(address, 0x800)
        assert ram.alloc(0x800) == address
        for outside in (0xFFF, 0x2000, 0x1FFF, 0x8FFF):
            with pytest.raises(IndexError):
                ram.view(outside, 2)
