"""Chains that are answered later: nothing is lost and nothing given back twice, however a worker ends.

A worker's death is played by an exception at its next store into what outlives it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subos_devices.testing import DriverQueue, GuestRam, Pending
from subos_devices.vhost_user.counters import DEFERRING_RINGS, STATISTICS, TABLES, Counters
from subos_devices.vhost_user.deferred import MAX_DEFERRED, TABLE_SIZE, Deferred
from subos_devices.vhost_user.errors import RingError
from subos_devices.vhost_user.memory import GuestMemory
from subos_devices.vhost_user.virtqueue import LATER, Virtqueue, Words
from support.variants import variants

RINGS = variants("subos_devices.vhost_user.virtqueue", "subos_devices.vhost_user._ring", "Virtqueue")
BASE, SIZE = 0x10_0000, 0x1_0000


class Died(Exception):
    """The worker was killed here."""


class Mortal:
    """Shared words, of which the store that `fuse` counts down to does not happen any more."""

    def __init__(self, words: Any, fuse: list[int]) -> None:
        self.words, self.fuse = words, fuse

    def __getitem__(self, place: Any) -> Any:
        return self.words[place]

    def __setitem__(self, place: int, value: int) -> None:
        self.fuse[0] -= 1
        if self.fuse[0] == 0:
            raise Died
        self.words[place] = value


class Device:
    """One ring and what survives its workers: guest memory, and the table. A request is one byte, its answer the
    same; those in `waiting` are answered later."""

    def __init__(self, ring: type[Virtqueue], size: int = 16, begin: int = 0) -> None:
        self.ring = ring
        self.ram = GuestRam([(BASE, SIZE)])
        self.memory = GuestMemory(self.ram.regions, self.ram.fds)
        self.driver = DriverQueue(self.ram, 0, size, region=0, timeout=0)
        self.driver.reset(index=begin)
        self.words = memoryview(bytearray(TABLE_SIZE)).cast("H")
        self.waiting: set[int] = set()
        self.answered: list[int] = []
        self.start(begin)

    def start(self, base: int) -> None:
        """A worker begins, as the supervisor starts it with a front end's base."""
        Deferred(self.words).resume(base, self.driver.used_index)
        self.respawn()

    def respawn(self, fuse: int = 0) -> None:
        """The next worker, that dies at the store number `fuse`."""
        table = Deferred(self.words)
        table.recover(self.driver.used_index)
        ring, base = self.driver, (self.driver.used_index + len(table)) & 0xFFFF
        if fuse:
            countdown = [fuse]
            table = Deferred(Mortal(self.words, countdown))  # type: ignore[arg-type]
        self.queue = self.ring(
            0, ring.size, self.memory, ring.desc, ring.avail, ring.used, base=base, call=ring.call_fd, deferred=table
        )
        if fuse and self.ring is RINGS["plain"]:
            self.queue._used = Mortal(self.queue._used, countdown)  # type: ignore[assignment]

    def handle(self, words: Words) -> int:
        readable, writable = self.queue.split(words)
        number = readable[0][0]
        if number in self.waiting:
            return LATER
        self.answered.append(number)
        writable[0][0] = number
        return 1

    def serve(self) -> None:
        self.queue.retry(self.handle)
        self.queue.drain(self.handle)

    def close(self) -> None:
        self.driver.close()
        self.ram.close()


@pytest.fixture(params=RINGS.values(), ids=RINGS.keys())
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    device = Device(request.param)
    yield device
    device.close()


def ask(device: Device, number: int) -> Pending:
    return device.driver.add([bytes([number])], [1])


def test_others_are_answered_while_one_waits(device: Device) -> None:
    device.waiting = {0}
    first, second = ask(device, 0), ask(device, 1)
    device.queue.drain(device.handle)
    assert device.driver.collect() == [second]
    assert list(device.queue.deferred) == [first.head]
    assert (device.queue.used_index, device.queue.base, device.queue.served) == (1, 2, 1)
    device.queue.retry(device.handle)
    assert device.driver.collect() == []
    device.waiting.clear()
    os.eventfd_read(device.driver.call_fd)
    assert not device.driver.want_interrupt()
    device.queue.retry(device.handle)
    assert device.driver.collect() == [first]
    assert first.buffers == [b"\0"]
    assert os.eventfd_read(device.driver.call_fd) == 1
    assert not device.queue.deferred
    assert (device.queue.base, device.queue.served) == (2, 2)


def test_a_chain_is_read_afresh_when_it_is_retried(device: Device) -> None:
    device.waiting = {5}
    pending = ask(device, 5)
    device.queue.drain(device.handle)
    device.ram.write(pending.readable[0][0], b"\x07")
    device.queue.retry(device.handle)
    assert device.driver.collect() == [pending]
    assert pending.buffers == [b"\x07"]


def test_a_deferred_chain_that_its_driver_breaks_ends_the_queue(device: Device) -> None:
    device.waiting = {5}
    pending = ask(device, 5)
    device.queue.drain(device.handle)
    assert pending.table is not None
    device.ram.write(pending.table[0], b"\xff" * 8)  # its first buffer lies nowhere
    with pytest.raises(RingError):
        device.queue.retry(device.handle)


@pytest.mark.parametrize("heads", [[3, 16], [0xFFFF]])
def test_heads_that_a_worker_has_forged(device: Device, heads: list[int]) -> None:
    ring = device.driver
    queue = device.ring(0, ring.size, device.memory, ring.desc, ring.avail, ring.used, deferred=heads)
    with pytest.raises(RingError):
        queue.retry(device.handle)


def test_a_driver_that_names_a_waiting_chain_again_and_again(device: Device) -> None:
    """It has its queue ended in the end, and nothing else comes of it."""
    device.waiting = {0}
    pending = ask(device, 0)
    for _ in range(MAX_DEFERRED):
        device.queue.drain(device.handle)
        device.driver.publish(pending.head)
    with pytest.raises(RingError, match="kept waiting"):
        device.queue.drain(device.handle)
    assert device.queue.deferral_room == 0
    assert len(device.queue.deferred) == MAX_DEFERRED


def test_where_nothing_may_wait(device: Device) -> None:
    table = Deferred(limit=0)
    assert (table.room, len(table)) == (0, 0)
    with pytest.raises(RingError):
        table.append(1)


@pytest.mark.parametrize("index", [0, 0xFFFE])
def test_a_ring_that_goes_on_keeps_its_waiters_and_a_new_one_drops_them(ring_name: str, index: int) -> None:
    device = Device(RINGS[ring_name], begin=index)
    device.waiting = {0, 2}
    waiting = [ask(device, 0), ask(device, 2)]
    other = ask(device, 1)
    device.serve()
    assert device.driver.collect() == [other]
    device.start(device.queue.base)  # GET_VRING_BASE, SET_VRING_BASE
    assert set(device.queue.deferred) == {pending.head for pending in waiting}
    device.waiting.clear()
    device.serve()
    assert {pending.head for pending in device.driver.collect()} == {pending.head for pending in waiting}
    device.waiting = {0}
    ask(device, 0)
    device.serve()
    device.driver.reset()
    device.start(0)
    assert not device.queue.deferred
    fresh = ask(device, 3)
    device.serve()
    assert device.driver.collect() == [fresh]
    device.close()


@pytest.fixture(params=RINGS.keys())
def ring_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@settings(max_examples=400)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("ask"), st.booleans()),
            st.tuples(st.just("release"), st.integers(0, 20)),
            st.tuples(st.just("serve"), st.integers(0, 12)),
            st.tuples(st.just("stop"), st.just(0)),
            st.tuples(st.just("reset"), st.just(0)),
        ),
        max_size=40,
    ),
    st.sampled_from(list(RINGS)),
    st.sampled_from([2, 16]),
    st.sampled_from([0, 65_533]),
)
def test_every_chain_is_given_back_once(steps: list[tuple[str, int]], name: str, size: int, begin: int) -> None:
    """Whatever is deferred, finished, taken back, or killed between any two stores. (The compiled ring's own stores
    cannot be intercepted; those of its table are.) The driver itself finds what is given back twice, or never was
    its own."""
    device = Device(RINGS[name], size, begin)
    try:
        number = 0
        for step, value in steps:
            if step == "ask" and len(device.driver.in_flight) < size:
                if value:
                    device.waiting.add(number)
                ask(device, number)
                number += 1
            elif step == "release" and device.waiting:
                device.waiting.discard(sorted(device.waiting)[value % len(device.waiting)])
            elif step == "serve":
                device.respawn(fuse=value)
                try:
                    device.serve()
                except Died:
                    device.respawn()
            elif step == "stop":
                device.start(device.queue.base)
            elif step == "reset":
                device.driver.reset()
                device.start(0)
            device.driver.collect()
        device.waiting.clear()
        device.respawn()
        device.serve()
        device.driver.collect()
        assert not device.driver.in_flight
        assert not device.queue.deferred
    finally:
        device.close()


def test_the_tables_of_a_device_lie_apart(tmp_path: Path) -> None:
    fd = Counters.create()
    try:
        ours, theirs = Counters(fd), Counters(fd)
        for index in range(DEFERRING_RINGS):
            for head in range(MAX_DEFERRED):
                ours.deferred(index).append(head * 7 + index)
        ours.add(3, 4)
        for index in range(DEFERRING_RINGS):
            assert list(theirs.deferred(index)) == [head * 7 + index for head in range(MAX_DEFERRED)]
        assert (theirs.requests, theirs.wakeups) == (3, 4)
        assert not any(theirs.statistics)
        assert theirs.deferred(DEFERRING_RINGS).room == 0
        assert TABLES + DEFERRING_RINGS * TABLE_SIZE <= STATISTICS
    finally:
        os.close(fd)


@pytest.mark.parametrize("name", RINGS)
@pytest.mark.parametrize("released", [{0}, {1}, {2}, {0, 2}, {0, 1, 2}])
@pytest.mark.parametrize("fuse", range(1, 24))
def test_a_worker_that_dies_between_any_two_stores(name: str, released: set[int], fuse: int) -> None:
    device = Device(RINGS[name])
    device.waiting = {0, 1, 2}
    asked = [ask(device, number) for number in range(4)]
    device.serve()
    device.waiting -= released
    device.respawn(fuse)
    with contextlib.suppress(Died):
        device.serve()
    device.respawn()
    device.serve()
    done = {pending.head for pending in device.driver.collect()}
    assert done == {asked[number].head for number in released | {3}}
    device.waiting.clear()
    device.serve()
    device.driver.collect()
    assert not device.driver.in_flight
    device.close()
