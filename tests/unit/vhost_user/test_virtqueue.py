"""The device's side of a ring, driven by the simulated driver in one process, and by a hostile one.

Everything holds for both rings, the plain one and the compiled one.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subos_devices.testing import DriverQueue, GuestRam
from subos_devices.vhost_user.errors import BadChain, RingError
from subos_devices.vhost_user.memory import GuestMemory
from subos_devices.vhost_user.virtqueue import DRAIN_SLICE, DRAIN_TIME, LATER, LONGEST_CHAIN, Virtqueue, Words
from subos_protocol.virtio import DescFlag
from support.variants import variants

NEXT, WRITE, INDIRECT = DescFlag.NEXT, DescFlag.WRITE, DescFlag.INDIRECT
BASE = 0x10_0000
SIZE = 0x1_0000
CANARY = b"\xa5"

RINGS = variants("subos_devices.vhost_user.virtqueue", "subos_devices.vhost_user._ring", "Virtqueue")


class Guest:
    """One process, both sides: `driver` and `device` over the same memory, which lies between two canaries."""

    def __init__(self, ring: type[Virtqueue], size: int = 16, *, event_idx: bool = True, indirect: bool = True) -> None:
        self.ring = ring
        self.ram = GuestRam([(BASE - SIZE, SIZE), (BASE, SIZE), (BASE + SIZE, SIZE)], one_file=True)
        for outside in (BASE - SIZE, BASE + SIZE):
            self.ram.write(outside, CANARY * SIZE)
        self.memory = GuestMemory(self.ram.regions[1:2], self.ram.fds[1:2])
        self.driver = DriverQueue(self.ram, 0, size, event_idx=event_idx, indirect=indirect, region=1, timeout=0)
        self.device = self.set_up()

    def set_up(self, base: int = 0, deferred: Sequence[int] = ()) -> Virtqueue:
        ring = self.driver
        self.device = self.ring(
            0,
            ring.size,
            self.memory,
            ring.desc,
            ring.avail,
            ring.used,
            base=base,
            call=ring.call_fd,
            event_idx=ring.event_idx,
            deferred=deferred,
        )
        return self.device

    def is_whole_outside(self) -> bool:
        return all(self.ram.read(place, SIZE) == CANARY * SIZE for place in (BASE - SIZE, BASE + SIZE))

    def close(self) -> None:
        self.driver.close()
        self.ram.close()

    # --- device models

    def fill(self, words: Words) -> int:
        """Writes every byte that it may."""
        readable, writable = self.device.split(words)
        for buffer in readable:
            bytes(buffer)
        for buffer in writable:
            buffer[:] = bytes(len(buffer))
        return min(sum(map(len, writable)), 0xFFFF_FFFF)

    def echo(self, words: Words) -> int:
        readable, writable = self.device.split(words)
        return copy(readable, writable)

    def pop_all(self) -> None:
        while chain := self.device.pop():
            self.device.push(chain.head, copy(chain.readable, chain.writable))
        self.device.signal()


def copy(readable: list[memoryview], writable: list[memoryview]) -> int:
    data, written = b"".join(readable), 0
    for buffer in writable:
        part = data[written : written + len(buffer)]
        buffer[: len(part)] = part
        written += len(part)
    return written


@pytest.fixture(params=[(True, True), (True, False), (False, True), (False, False)], ids=str)
def guest(request: pytest.FixtureRequest, ring: type[Virtqueue]) -> Iterator[Guest]:
    indirect, event_idx = request.param
    guest = Guest(ring, indirect=indirect, event_idx=event_idx)
    yield guest
    assert guest.is_whole_outside()
    guest.close()


@pytest.fixture(scope="module", params=RINGS.values(), ids=RINGS.keys())
def ring(request: pytest.FixtureRequest) -> type[Virtqueue]:
    """Each ring there is."""
    found: type[Virtqueue] = request.param
    return found


@pytest.fixture(params=["drain", "pop"])
def serve(request: pytest.FixtureRequest, guest: Guest) -> Callable[[], None]:
    """Both ways to use a queue."""
    return guest.pop_all if request.param == "pop" else lambda: guest.device.drain(guest.echo)


# --- good behaviour


@pytest.mark.parametrize("framing", [([b"abc"], [3]), ([b"a", b"bc"], [1, 1, 1]), ([b"abc"], [0, 2, 9])])
def test_chains_of_any_framing(guest: Guest, serve: Callable[[], None], framing: tuple[list[bytes], list[int]]) -> None:
    pending = guest.driver.add(*framing)
    serve()
    assert guest.driver.collect() == [pending]
    assert b"".join(pending.buffers) == b"abc"
    assert guest.device.served == 1


def test_long_indirect_chains(guest: Guest, serve: Callable[[], None]) -> None:
    """Longer than the ring: Linux does so with indirect tables."""
    pending = guest.driver.add([b"x"] * 20, [1] * 20, indirect=True)
    serve()
    assert guest.driver.collect() == [pending]
    assert pending.buffers == [b"x"] * 20


def test_the_shapes_of_the_fast_path_are_laid_out_in_order(guest: Guest) -> None:
    """`handle` sees position + 1 as every `next`; raw words of an indirect table may hold anything in the last."""
    shapes = []

    def look(words: Words) -> int:
        shapes.append([word >> 32 for word in words[1::2]])
        for position, word in enumerate(words[1::2]):
            assert not word & NEXT << 32 or word >> 48 == position + 1
        return 0

    for length in range(1, 14):
        guest.driver.add([b"r"], [1] * (length - 1))
        guest.device.drain(look)
        assert len(shapes[-1]) == length
        assert guest.driver.collect()


def test_indices_wrap_around(guest: Guest, serve: Callable[[], None]) -> None:
    guest.driver.reset(index=65_530)
    guest.set_up(base=65_530)
    for number in range(40):
        pending = guest.driver.add([b"%d" % number], [4])
        if number % 3 == 0:
            guest.driver.add([b"another"], [7])
        serve()
        assert pending in guest.driver.collect()
        assert pending.buffers == [b"%d" % number]
    assert guest.device.used_index == guest.driver.used_index == guest.device.next_avail


def test_drain_is_fair(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that never stops adding does not keep the worker from its other descriptors, nor do slow requests."""
    served = 0
    monkeypatch.setattr(f"{guest.ring.__module__}.monotonic", lambda: 1 + served * DRAIN_TIME / 10)

    def refill(words: Words) -> int:
        nonlocal served
        served += 1
        guest.driver.collect()
        if len(guest.driver.in_flight) < guest.driver.size // 4:
            guest.driver.add([b"more"], [4])
        return guest.echo(words)

    guest.driver.add([b"first"], [5])
    for rounds in range(1, 4):
        before = served
        guest.device.drain(refill)
        assert guest.device.more
        assert 10 <= served - before <= 10 + 2 * DRAIN_SLICE
        assert guest.device.served == served
        assert rounds
    guest.device.drain(guest.echo)
    assert not guest.device.more


def test_what_a_handler_raises_leaves_the_chain_unanswered(guest: Guest) -> None:
    guest.driver.add([b"good"], [4])
    guest.driver.add([b"bad"], [4])

    def fail(words: Words) -> int:
        if bytes(guest.device.split(words)[0][0]) == b"bad":
            raise RuntimeError("a bug")
        return guest.echo(words)

    with pytest.raises(RuntimeError):
        guest.device.drain(fail)
    assert [pending.buffers for pending in guest.driver.collect()] == [[b"good"]]
    assert guest.device.used_index == 1
    guest.set_up(base=guest.driver.used_index)
    guest.device.drain(guest.echo)
    assert [pending.buffers for pending in guest.driver.collect()] == [[b"bad"]]


def test_a_driver_without_a_call_eventfd(guest: Guest) -> None:
    guest.device.call = -1
    for serve in (lambda: guest.device.drain(guest.echo), guest.pop_all):
        guest.driver.add([b"abc"], [3])
        serve()
        assert [pending.buffers for pending in guest.driver.collect()] == [[b"cba"[::-1]]]
    guest.device.interrupt()


def test_rings_and_buffers_in_several_spans(ring: type[Virtqueue]) -> None:
    """The rings in a small one, buffers in two others; none may reach across a gap, though mappings may touch."""
    layout = [(BASE, SIZE), (4 * BASE, 4 * SIZE), (8 * BASE, SIZE)]
    with GuestRam(layout) as ram:
        driver = DriverQueue(ram, 0, 16, timeout=0)
        device = ring(0, 16, GuestMemory(ram.regions, ram.fds), driver.desc, driver.avail, driver.used)

        def fill(words: Words) -> int:
            readable, writable = device.split(words)
            return copy(readable, writable)

        ram.write(4 * BASE + 4 * SIZE - 3, b"abc")
        driver.write_descriptor(0, 4 * BASE + 4 * SIZE - 3, 3, NEXT, 1)
        driver.write_descriptor(1, 8 * BASE, 1, WRITE | NEXT, 2)
        driver.write_descriptor(2, BASE + SIZE - 2, 2, WRITE, 0)
        driver.publish(0)
        device.drain(fill)
        assert ram.read(8 * BASE, 2) + ram.read(BASE + SIZE - 2, 2) == b"a\0bc"
        for base, size in layout:
            for address in (base - 1, base + size - 1, base + size + 1):
                device = ring(0, 16, device.memory, driver.desc, driver.avail, driver.used, base=device.next_avail)
                driver.write_descriptor(0, address, 2, WRITE, 0)
                driver.publish(0)
                with pytest.raises(BadChain):
                    device.drain(fill)
        driver.close()


def test_chains_that_are_answered_later(guest: Guest) -> None:
    """Out of order, and by a queue set up anew, too."""
    serving: list[bytes] = []

    def choose(words: Words) -> int:
        return guest.echo(words) if bytes(guest.device.split(words)[0][0]) in serving else LATER

    pending = [guest.driver.add([b"%d" % number], [1]) for number in range(4)]
    guest.driver.want_interrupt()
    serving.append(b"2")
    guest.device.drain(choose)
    assert guest.driver.collect() == [pending[2]]
    assert readable(guest.driver.call_fd)
    assert sorted(guest.device.deferred) == sorted(pending[number].head for number in (0, 1, 3))
    assert (guest.device.used_index, guest.device.base, guest.device.next_avail) == (1, 4, 4)

    guest.driver.want_interrupt()
    guest.device.retry(choose)
    assert not readable(guest.driver.call_fd)
    serving.append(b"0")
    guest.device.retry(choose)
    assert readable(guest.driver.call_fd)
    assert guest.driver.collect() == [pending[0]]

    guest.set_up(base=guest.device.base, deferred=list(guest.device.deferred))
    guest.driver.add([b"2"], [1])
    guest.device.drain(choose)
    assert len(guest.driver.collect()) == 1
    serving += [b"1", b"3"]
    guest.device.retry(choose)
    assert {*guest.driver.collect()} == {pending[1], pending[3]}
    assert not len(guest.device.deferred)
    assert guest.device.base == guest.device.used_index == guest.driver.used_index


def test_a_ring_of_which_too_many_chains_wait(guest: Guest) -> None:
    """A driver may name one chain again and again without waiting for any."""
    guest.driver.write_descriptor(0, BASE, 1, 0)
    while guest.device.deferral_room:
        guest.driver.publish(0)
        guest.device.drain(lambda words: LATER)
    guest.driver.publish(0)
    with pytest.raises(RingError):
        guest.device.drain(lambda words: LATER)


def test_heads_that_cannot_have_waited(guest: Guest) -> None:
    guest.set_up(deferred=[16])
    with pytest.raises(RingError):
        guest.device.retry(guest.echo)


def test_a_handler_that_writes_more_than_can_be_said(guest: Guest) -> None:
    guest.driver.add([b"abc"], [3])
    with pytest.raises(ValueError):
        guest.device.drain(lambda words: 1 << 32)
    assert guest.driver.used_index == 0


# --- no chain and no wanted notification is lost


def readable(fd: int) -> bool:
    try:
        return os.eventfd_read(fd) > 0
    except BlockingIOError:
        return False


STEPS = st.lists(
    st.sampled_from(
        ["add", "add", "kick", "drain", "drain while adding", "pop", "push", "signal", "collect", "want", "do not want"]
    ),
    max_size=60,
)


@settings(max_examples=400)
@given(STEPS, st.booleans(), st.booleans(), st.sampled_from([2, 4, 16]), st.sampled_from([0, 65_533]))
def test_no_interleaving_loses_anything(
    ring: type[Virtqueue], steps: list[str], event_idx: bool, indirect: bool, size: int, begin: int
) -> None:
    guest = Guest(ring, size, event_idx=event_idx, indirect=indirect)
    driver = guest.driver
    driver.reset(index=begin)
    device = guest.set_up(base=begin)
    waiting: dict[object, bytes] = {}
    popped: list[tuple[int, int]] = []
    asleep = False  # the device found nothing, and waits for a kick
    armed = False  # the driver found nothing, and waits for an interrupt
    number = used = 0

    def add() -> None:
        nonlocal number
        if len(driver.in_flight) < size:
            number += 1
            waiting[driver.add([b"%d" % number], [8], indirect=indirect or None)] = b"%d" % number

    def echo_and_add(words: Words) -> int:
        written = guest.echo(words)
        add()
        return written

    def finish() -> None:
        while popped:
            device.push(*popped.pop(0))
        device.signal()

    for step in steps:
        if not indirect and step in ("add", "drain while adding") and len(driver.in_flight) * 2 >= size:
            continue  # no two descriptors are free
        match step:
            case "add":
                add()
            case "kick":
                told = driver.kick()
                if asleep and driver.available_index != device.next_avail:
                    assert told, "the device sleeps, and was not kicked"
                    asleep = False
                elif told:
                    asleep = False
            case "drain" | "drain while adding":
                finish()
                device.drain(echo_and_add if "adding" in step and indirect else guest.echo)
                asleep = not device.more
            case "pop":
                chain = device.pop()
                if chain is None:
                    asleep = True
                else:
                    popped.append((chain.head, copy(chain.readable, chain.writable)))
            case "push":
                if popped:
                    device.push(*popped.pop(0))
            case "signal":
                device.signal()
            case "collect":
                for pending in driver.collect():
                    assert b"".join(pending.buffers) == waiting.pop(pending)
            case "want":
                readable(driver.call_fd)
                armed, used = not driver.want_interrupt(), driver.used_index
            case "do not want":
                driver.want_interrupt(False)
                armed = False
        if armed and driver.used_index != used and step in ("signal", "drain", "drain while adding"):
            assert readable(driver.call_fd), "the driver sleeps, and was not interrupted"
            armed = False
    finish()
    for _ in range(3):
        device.drain(guest.echo)
    for pending in driver.collect():
        assert b"".join(pending.buffers) == waiting.pop(pending)
    assert not waiting
    assert not driver.in_flight
    guest.close()


class Hooked:
    """The plain ring's shared words, of which one runs `hook`, once, just before it is written."""

    def __init__(self, words: memoryview, place: int, hook: Callable[[], None]) -> None:
        self.words, self.place, self.hook = words, place, hook

    def __getitem__(self, place: int) -> int:
        return int(self.words[place])

    def __setitem__(self, place: int, value: int) -> None:
        if place == self.place:
            hook, self.hook = self.hook, lambda: None
            hook()
        self.words[place] = value


def before_it_asks_for_a_kick(guest: Guest, hook: Callable[[], None]) -> None:
    """Runs `hook` the next time the device is about to say that it wants to be kicked."""
    if guest.ring is RINGS["plain"]:
        place = 2 + 4 * guest.driver.size if guest.device.event_idx else 0
        guest.device._used = Hooked(guest.device._used, place, hook)  # type: ignore[assignment]
        return
    hooks = [hook]

    class HookedRing(guest.ring):  # type: ignore[misc, name-defined]
        def _ask_for_kick(self) -> int:
            if hooks:
                hooks.pop()()
            return int(super()._ask_for_kick())

    begun = guest.device.used_index
    guest.ring = HookedRing
    guest.set_up(base=begun)


def test_a_chain_that_comes_as_the_device_falls_asleep_is_seen(guest: Guest, serve: Callable[[], None]) -> None:
    """It was added before the driver could see that a kick is wanted, so none came."""
    guest.driver.add([b"first"], [8])
    guest.driver.kick()
    serve()  # both know each other's indices now
    guest.driver.add([b"second"], [8])
    late = []

    def add() -> None:
        late.append(guest.driver.add([b"late"], [8]))
        if guest.device.event_idx:
            guest.driver.kick()

    if not guest.device.event_idx:
        guest.ram.write(guest.driver.used, b"\1\0")  # flags: nothing is to be kicked
    before_it_asks_for_a_kick(guest, add)
    serve()
    assert late[0] in guest.driver.collect()


# --- bad behaviour


def test_rings_that_cannot_be(guest: Guest) -> None:
    ring = guest.driver

    def make(size: int = 16, desc: int = ring.desc, avail: int = ring.avail, used: int = ring.used) -> Virtqueue:
        return guest.ring(0, size, guest.memory, desc, avail, used)

    make()
    for size in (0, 3, 65_536, -1):
        with pytest.raises(RingError):
            make(size)
    for name, address in [("desc", ring.desc + 8), ("avail", ring.avail + 1), ("used", ring.used + 2)]:
        with pytest.raises(RingError):
            make(**{name: address})
    for name in ("desc", "avail", "used"):
        for address in (0, BASE - 16, BASE + SIZE - 16, BASE + SIZE, 1 << 63):
            with pytest.raises(BadChain):
                make(**{name: address})


Break = Callable[[Guest], None]


def chain(*descriptors: tuple[int, int, int, int]) -> Break:
    """Makes the chain at 0 available; each is address, length, flags, next."""

    def write(guest: Guest) -> None:
        for slot, (address, length, flags, following) in enumerate(descriptors):
            guest.driver.write_descriptor(slot, address, length, flags, following)
        guest.driver.publish(0)

    return write


def table(*descriptors: tuple[int, int, int, int], length: int | None = None, at: int = 0, flags: int = 0) -> Break:
    """The same, in an indirect table at `at` (from the base); `length` in bytes is what the descriptor says of it."""

    def write(guest: Guest) -> None:
        place = BASE + at if at else guest.ram.alloc(16 * len(descriptors), region=1)
        for slot, descriptor in enumerate(descriptors):
            guest.ram.write(place + 16 * slot, struct.pack("<QIHH", *descriptor))
        said = 16 * len(descriptors) if length is None else length
        guest.driver.write_descriptor(0, place, said, INDIRECT | flags, 1)
        guest.driver.write_descriptor(1, BASE, 1, 0)
        guest.driver.publish(0)

    return write


def jump(by: int) -> Break:
    return lambda guest: guest.driver.set_available_index(guest.driver.available_index + by)


ONE = (BASE, 16, WRITE, 0)
BREAKS: dict[str, Break] = {
    "index jumps ahead": jump(17),
    "index jumps back": jump(-1),
    "head outside": lambda guest: guest.driver.publish(16),
    "head far outside": lambda guest: guest.driver.publish(65_535),
    "loop of one": chain((BASE, 16, NEXT, 0)),
    "loop of two": chain((BASE, 16, NEXT, 1), (BASE, 16, NEXT, 0)),
    "loop behind a start": chain((BASE, 16, NEXT, 1), (BASE, 16, NEXT, 2), (BASE, 16, NEXT, 1)),
    "next outside": chain((BASE, 16, NEXT, 16)),
    "address below": chain((BASE - 8, 16, WRITE, 0)),
    "address above": chain((BASE + SIZE - 8, 16, WRITE, 0)),
    "address at the end": chain((BASE + SIZE, 1, WRITE, 0)),
    "address 0": chain((0, 16, 0, 0)),
    "address at the end of the world": chain(((1 << 64) - 8, 16, WRITE, 0)),
    "length of 4 GiB": chain((BASE, 0xFFFF_FFFF, WRITE, 0)),
    "readable after writable": chain((BASE, 16, WRITE | NEXT, 1), (BASE, 16, 0, 0)),
    "table outside": lambda guest: (guest.driver.write_descriptor(0, 0, 16, INDIRECT), guest.driver.publish(0))[1],
    "table half outside": table(ONE, at=SIZE - 16, length=32),
    "table just below": lambda guest: (
        guest.driver.write_descriptor(0, BASE - 16, 32, INDIRECT),
        guest.driver.publish(0),
    )[1],
    "empty table": table(ONE, length=0),
    "table of no whole number": table(ONE, ONE, length=24),
    "table of 4 GiB": table(ONE, length=0xFFFF_FFF0),
    "table and next": table(ONE, flags=NEXT),
    "table in a table": table((BASE, 16, INDIRECT, 0)),
    "table in a long table": table(*[(BASE, 16, NEXT, n + 1) for n in range(9)], (BASE, 16, INDIRECT, 0)),
    "table within a chain": chain((BASE, 16, NEXT, 1), (BASE, 16, INDIRECT, 0)),
    "loop in a table": table((BASE, 16, NEXT, 0)),
    "loop in a long table": table(*[(BASE, 16, NEXT, (n + 1) % 12) for n in range(12)]),
    "next outside a table": table((BASE, 16, NEXT, 1)),
    "next outside a long table": table(*[(BASE, 16, NEXT, n + 1) for n in range(12)]),
    "address outside in a table": table((BASE + SIZE - 8, 16, WRITE, 0)),
    "address below in a table": table((BASE - 8, 16, WRITE, 0)),
    "readable after writable in a table": table((BASE, 16, WRITE | NEXT, 1), (BASE, 16, 0, 0)),
    "too many descriptors": table(*[(BASE, 1, NEXT, n + 1) for n in range(LONGEST_CHAIN)], (BASE, 1, 0, 0)),
}


@pytest.mark.parametrize("name", BREAKS)
@pytest.mark.parametrize("way", ["drain", "pop"])
def test_hostile_rings(guest: Guest, name: str, way: str) -> None:
    good = guest.driver.add([b"good"], [4])
    guest.device.drain(guest.echo)
    assert guest.driver.collect() == [good]
    before = guest.driver.used_index
    BREAKS[name](guest)
    with pytest.raises(RingError):
        guest.device.drain(guest.fill) if way == "drain" else guest.pop_all()
    assert guest.driver.used_index == before


def test_a_chain_as_long_as_the_ring_is_good(guest: Guest, serve: Callable[[], None]) -> None:
    pending = guest.driver.add([b"r"] * 8, [1] * 8, indirect=False)
    serve()
    assert guest.driver.collect() == [pending]


def test_flags_that_nobody_knows_are_ignored(guest: Guest, serve: Callable[[], None]) -> None:
    guest.driver.write_descriptor(0, BASE, 1, 0xFFF8 | NEXT, 1)
    guest.driver.write_descriptor(1, BASE, 1, 0xFFF8 | WRITE, 99)
    guest.driver.publish(0)
    serve()
    assert guest.driver.used_index == 1


addresses = st.sampled_from([0, BASE - 1, BASE, BASE + 32, BASE + SIZE - 16, BASE + SIZE, (1 << 64) - 1, 1 << 63])
lengths = st.sampled_from([0, 1, 16, 32, 48, 160, 16 * 1024, SIZE, SIZE + 1, 0xFFFF_FFF0, 0xFFFF_FFFF])
flags = st.integers(0, 7)
links = st.sampled_from([0, 1, 2, 3, 7, 8, 9, 65_535])
anything = st.tuples(addresses, lengths, flags, links)


@settings(max_examples=500)
@given(
    st.lists(anything, min_size=1, max_size=8),
    st.lists(anything, max_size=12),
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=6),
    st.integers(-3, 12),
    st.booleans(),
)
def test_any_table_is_served_or_ends_the_queue(
    ring: type[Virtqueue],
    direct: list[tuple[int, int, int, int]],
    indirect: list[tuple[int, int, int, int]],
    heads: list[tuple[int, bool]],
    jump_by: int,
    use_pop: bool,
) -> None:
    """Nothing but RingError comes out, and nothing outside guest memory is written."""
    guest = Guest(ring, 8)
    driver = guest.driver
    place = guest.ram.alloc(16 * 12, region=1)
    for slot, descriptor in enumerate(indirect):
        guest.ram.write(place + 16 * slot, struct.pack("<QIHH", *descriptor))
    for slot, (address, length, flag, link) in enumerate(direct):
        if flag & INDIRECT and indirect:
            driver.write_descriptor(slot, place, 16 * len(indirect), flag, link)
        else:
            driver.write_descriptor(slot, address, length, flag, link)
    for head, _ in heads:
        driver.publish(head)
    driver.set_available_index(driver.available_index + (jump_by if jump_by < 0 or jump_by > 8 else 0))
    try:
        if use_pop:
            guest.pop_all()
        else:
            # Filling may overwrite the ring itself, as a guest may have it.
            guest.device.drain(guest.fill)
    except RingError:
        pass
    assert guest.is_whole_outside()
    guest.close()


@settings(max_examples=500)
@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=40).filter(lambda words: len(words) % 2 == 0))
def test_split_of_any_words(ring: type[Virtqueue], words: list[int]) -> None:
    guest = Guest(ring, 8)
    try:
        readable, writable = guest.device.split(tuple(words))
        assert sum(map(len, readable)) + sum(map(len, writable)) <= SIZE * len(words) // 2
    except BadChain:
        pass
    guest.close()
