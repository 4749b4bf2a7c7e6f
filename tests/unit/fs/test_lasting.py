"""Memory that outlives a worker, and the descriptors that one leaves behind."""

from __future__ import annotations

import mmap
import os
from array import array

import pytest

from subos_devices.fs.lasting import END, NAME_BYTES, NODES, Lasting

FEW = 1 << 16


def test_what_a_process_writes_its_parent_and_the_next_child_read() -> None:
    lasting = Lasting(FEW)
    pid = os.fork()
    if not pid:
        lasting.column("inos")[FEW - 1] = 7
        lasting.column("fds")[1] = -1
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    assert lasting.column("inos")[FEW - 1] == 7
    assert lasting.column("fds")[1] == -1
    assert not any(lasting.column("kinds")[:100])


@pytest.mark.parametrize("shared", [True, False])
def test_a_column_is_cleared_without_its_neighbours(shared: bool) -> None:
    lasting = Lasting(FEW, shared=shared)
    for name in lasting._places:
        column = lasting.column(name)
        column[0] = column[len(column) - 1] = 1
    lasting.clear("opened", "table")
    for name in lasting._places:
        column = lasting.column(name)
        assert column[0] == column[len(column) - 1] == (name not in ("opened", "table"))
    lasting.clear()
    assert not any(lasting.column(name)[0] for name in lasting._places)


def test_values_are_found_where_they_are() -> None:
    lasting = Lasting(FEW)
    parents = lasting.column("parents")
    parents[3] = parents[9] = parents[12] = 0x0102
    parents[4], parents[5] = 0x0200_0000, 0x0000_0001  # the same bytes, across two records
    assert list(lasting.find("parents", 0x0102, 12)) == [3, 9]


def test_what_is_in_use_is_found() -> None:
    lasting = Lasting(FEW)
    fds = lasting.column("fds")
    places = [0, 1, 63, 64, 191, 1000, FEW - 1]
    for place in places:
        fds[place] = -1 if place == 64 else 256
    assert list(lasting.used("fds", FEW)) == list(lasting.used("fds", 1 << 63)) == places
    assert list(lasting.used("fds", FEW - 1)) == places[:-1]
    assert list(lasting.used("fds", 64)) == [0, 1, 63]
    assert not list(lasting.used("orphans", FEW))


def test_it_takes_what_the_system_reserves(monkeypatch: pytest.MonkeyPatch) -> None:
    real = mmap.mmap

    def stingy(fd: int, size: int, **more: int) -> mmap.mmap:
        if size > 1 << 28:
            raise OSError(12, "Cannot allocate memory")
        return real(fd, size, **more)

    monkeypatch.setattr(mmap, "mmap", stingy)
    lasting = Lasting()
    assert FEW <= lasting.nodes < NODES
    assert len(lasting.column("names")) == NAME_BYTES * lasting.nodes
    monkeypatch.setattr(mmap, "mmap", lambda *_args, **_more: stingy(-1, 1 << 40))
    with pytest.raises(OSError, match="allocate"):
        Lasting()


def test_descriptors_on_record_are_those_that_are_open() -> None:
    """A record of what is not open is struck off, as is one of a node that nobody knows; without a root there is no
    session, and without a session nothing counts."""
    lasting = Lasting(FEW)
    root, node, forgotten, file, directory, owner = fds = [os.open("/", os.O_RDONLY) for _ in range(6)]
    closed = 1 << 19
    lasting.begun = True
    lasting.column("table")[END] = 5
    lasting.column("ends")[:] = memoryview(array("Q", [3, 3]))
    lookups, nodes, files = lasting.column("lookups"), lasting.column("fds"), lasting.column("file_fds")
    for nodeid, fd, looked_up in ((1, root, 1 << 62), (2, node, 1), (3, forgotten, 0), (4, closed, 1)):
        nodes[nodeid], lookups[nodeid] = fd, looked_up
    files[1], files[2], files[3] = file, closed, owner
    lasting.column("directory_fds")[2] = directory
    lasting.column("owner_fds")[1023] = owner
    assert lasting.descriptors() == {*fds} - {forgotten}
    assert list(nodes[:6]) == [0, root, node, 0, 0, 0]
    assert list(files[:3]) == [0, file, 0]
    nodes[1] = closed
    assert lasting.descriptors() == set()
    assert not lasting.begun
    nodes[1] = root
    assert lasting.descriptors() == set()
    for fd in fds:
        os.close(fd)
