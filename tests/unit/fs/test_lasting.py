"""Memory that outlives a worker, and the descriptors that one leaves behind."""

from __future__ import annotations

import mmap
import os
from array import array

import pytest

from subos_devices.fs.lasting import NAME_BYTES, NODES, Lasting

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


def open_in_child(lasting: Lasting, own: set[int], fds: list[int]) -> list[bool]:
    """Sweeps in a child, whose table of descriptors is its own, and says which of `fds` are open there then."""
    said, say = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            lasting.sweep({*own, say})
            os.write(say, bytes(os.path.exists(f"/proc/self/fd/{fd}") for fd in fds))
        finally:
            os._exit(0)
    os.close(say)
    os.waitpid(pid, 0)
    answer = list(map(bool, os.read(said, 100)))
    os.close(said)
    return answer


def test_what_is_on_no_record_is_closed() -> None:
    """And a record of what is not open is struck off, as is one of a node that nobody knows, or of our own."""
    lasting = Lasting(FEW)
    own = {0, 1, 2}
    root, node, forgotten, file, directory, owner, left, mine = fds = [os.open("/", os.O_RDONLY) for _ in range(8)]
    own.add(mine)
    closed = 1000
    lasting.begun = True
    lasting.column("table")[4] = 6
    lasting.column("ends")[:] = memoryview(array("Q", [3, 3]))
    lookups, nodes = lasting.column("lookups"), lasting.column("fds")
    for nodeid, fd, looked_up in ((1, root, 1 << 62), (2, node, 1), (3, forgotten, 0), (4, closed, 1), (5, mine, 1)):
        nodes[nodeid], lookups[nodeid] = fd, looked_up
    lasting.column("file_fds")[1], lasting.column("file_fds")[2] = file, closed
    lasting.column("directory_fds")[2] = directory
    lasting.column("owner_fds")[1023] = owner
    assert open_in_child(lasting, own, fds) == [fd not in (left, forgotten) for fd in fds]
    assert list(nodes[:6]) == [0, root, node, 0, 0, 0]
    assert list(lasting.column("file_fds")[:3]) == [0, file, 0]
    lasting.begun = False
    assert open_in_child(lasting, own, fds) == [fd == mine for fd in fds]
    lasting.begun, nodes[1] = True, closed
    assert open_in_child(lasting, own, fds) == [fd == mine for fd in fds]
    assert not lasting.begun
    for fd in fds:
        os.close(fd)
