"""Guest memory: translation against a naive model, and every table that must be refused."""

from __future__ import annotations

import os
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from subos_devices.vhost_user.errors import BadChain, BadMemory
from subos_devices.vhost_user.memory import GuestMemory
from subos_protocol.vhost_user import vhost_user_mem_region

PAGE = 4096


def memfd(size: int) -> int:
    fd = os.memfd_create("guest-ram", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd


def region(guest: int, size: int, offset: int = 0, user: int | None = None) -> vhost_user_mem_region:
    return vhost_user_mem_region(guest, size, guest + (7 << 40) if user is None else user, offset)


def test_one_region() -> None:
    fd = memfd(4 * PAGE)
    memory = GuestMemory([region(PAGE, 2 * PAGE, PAGE)], [fd])
    assert (memory.base, memory.size, len(memory.primary)) == (PAGE, 2 * PAGE, 2 * PAGE)
    memory.view(PAGE + 8, 5)[:] = b"hello"
    assert os.pread(fd, 5, PAGE + 8) == b"hello"
    assert len(memory.view(PAGE, 2 * PAGE)) == 2 * PAGE
    assert memory.guest_address((7 << 40) + PAGE + 3, 1) == PAGE + 3
    os.close(fd)


@pytest.mark.parametrize(
    ("address", "length"),
    [
        (0, 1),
        (PAGE - 1, 1),
        (PAGE - 1, 2),
        (3 * PAGE, 1),
        (3 * PAGE - 1, 2),
        (PAGE, 2 * PAGE + 1),
        (1 << 64, 0),
        (-1, 1),
    ],
)
def test_outside(address: int, length: int) -> None:
    fd = memfd(4 * PAGE)
    memory = GuestMemory([region(PAGE, 2 * PAGE, PAGE)], [fd])
    os.close(fd)
    with pytest.raises(BadChain):
        memory.view(address, length)
    with pytest.raises(BadMemory):
        memory.guest_address((7 << 40) + address, length)


def test_a_span_does_not_end_where_its_file_goes_on() -> None:
    """Two neighbours in guest memory from one file join; from two files they do not."""
    first, second = memfd(4 * PAGE), memfd(4 * PAGE)
    joined = GuestMemory([region(PAGE, PAGE, PAGE), region(0, PAGE, 0)], [first, first])
    assert len(joined.view(PAGE - 4, 8)) == 8
    apart = GuestMemory([region(0, PAGE), region(PAGE, PAGE, PAGE)], [first, second])
    with pytest.raises(BadChain):
        apart.view(PAGE - 4, 8)
    swapped = GuestMemory([region(0, PAGE, PAGE), region(PAGE, PAGE, 0)], [first, first])
    with pytest.raises(BadChain):
        swapped.view(PAGE - 4, 8)
    os.close(first)
    os.close(second)


@pytest.mark.parametrize(
    "regions",
    [
        [],
        [region(0, 0)],
        [region(0, 4 * PAGE + 1)],
        [region(0, PAGE, 4 * PAGE)],
        [region(0, PAGE, (1 << 64) - 1)],
        [region((1 << 64) - 1, PAGE)],
        [region(0, PAGE, user=(1 << 64) - 1)],
        [region(0, 2 * PAGE), region(PAGE, PAGE)],
        [region(0, PAGE), region(0, PAGE)],
        [region(0, 1 << 63)],
    ],
)
def test_tables_that_are_refused(regions: list[vhost_user_mem_region]) -> None:
    fd = memfd(4 * PAGE)
    with pytest.raises(BadMemory):
        GuestMemory(regions, [fd] * len(regions))
    with pytest.raises(BadMemory):
        GuestMemory(regions, [fd] * (len(regions) + 1))
    os.close(fd)


def test_files_that_are_refused() -> None:
    sealed = os.open("/proc/self/exe", os.O_RDONLY)
    read, write = os.pipe()
    for fd in (sealed, read, write):
        with pytest.raises(BadMemory):
            GuestMemory([region(0, PAGE)], [fd])
        os.close(fd)
    with pytest.raises(BadMemory):
        GuestMemory([region(0, PAGE)], [write])


PLACES = st.tuples(st.integers(0, 11), st.integers(1, 4), st.integers(0, 1), st.integers(0, 5))


@settings(max_examples=300)
@given(st.lists(PLACES, min_size=1, max_size=4), st.lists(st.tuples(st.integers(-3, 70), st.integers(0, 40))))
def test_translation_is_that_of_a_naive_model(
    places: list[tuple[int, int, int, int]], questions: list[tuple[int, int]]
) -> None:
    """In units of 16 bytes: guest page, length, file, place in the file. The model maps byte by byte."""
    unit = 16
    model: dict[int, tuple[int, int]] = {}
    for base, size, file, offset in places:
        for step in range(size * unit):
            assume(base * unit + step not in model)
            model[base * unit + step] = (file, offset * unit + step)
    files = [memfd(16 * unit) for _ in range(2)]
    contents = [os.urandom(16 * unit) for _ in files]
    for fd, content in zip(files, contents, strict=True):
        os.pwrite(fd, content, 0)
    memory = GuestMemory(
        [region(base * unit, size * unit, offset * unit) for base, size, _, offset in places],
        [files[file] for _, _, file, _ in places],
    )
    for start, length in questions:
        address = start * 4
        there = [model.get(address + step) for step in range(length)]
        whole = all(place is not None for place in there) and all(
            b == (a[0], a[1] + 1) for a, b in pairwise(there) if a
        )
        if length == 0:
            continue
        if whole:
            expected = bytes(contents[place[0]][place[1]] for place in there if place)
            assert bytes(memory.view(address, length)) == expected
        else:
            with pytest.raises(BadChain):
                memory.view(address, length)
    for fd in files:
        os.close(fd)
