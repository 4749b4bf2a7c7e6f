"""A worker that dies leaves its memory and its descriptors to the next one, and the guest notices nothing.

Here the death is that nobody calls the device any more: nothing is closed or put away.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subos_devices.fs import descriptors, device, handler
from subos_devices.fs.lasting import Lasting
from subos_devices.fs.locks import OFFSET_MAX
from subos_devices.fs.names import WORD
from subos_devices.fs.nodes import BUCKETS, CHANGING, FOREVER, FREE, NodeTable
from subos_devices.fs.statistics import DIRECTORIES, FILES, NODES, NODES_OPEN, Statistics
from subos_protocol.fuse import FUSE_DIRENT, FUSE_FLUSH_IN, FUSE_LK_IN, FUSE_READ_IN
from subos_protocol.fuse_opcodes import FUSE_LK_FLOCK, FuseOpcode
from support.fuse_requests import Guest

from .mortal import FEW, Killed, Mortal, Trapped, mortal
from .test_operations import mkdir, rename

ROOT = os.stat("/")


def test_what_is_open_stays_open(root: Path) -> None:
    """Files for reading, writing and appending, and one that has no name any more."""
    (root / "read").write_bytes(b"0123456789")
    with mortal(root) as it:
        guest = it.guest
        read = guest.lookup(b"read").nodeid
        reading, again = guest.open(read), guest.open(read)
        written, writing = guest.create(b"written")
        gone, unlinked = guest.create(b"gone")
        appended, appending = guest.create(b"appended", flags=os.O_WRONLY | os.O_APPEND)
        guest.write(written, writing, b"first")
        guest.write(gone, unlinked, b"without a name")
        guest.write(appended, appending, b"one", opened=os.O_WRONLY | os.O_APPEND)
        assert guest.ask(FuseOpcode.FUSE_UNLINK, 1, b"gone\0").error == 0
        for _ in range(3):
            it.die()
            assert guest.read(read, reading, 4, 3) == b"3456"
            assert guest.read(gone, unlinked, 100) == b"without a name"
            assert guest.getattr(gone).nlink == 0
            guest.write(written, writing, b"second", 5)
            guest.write(appended, appending, b"two", opened=os.O_WRONLY | os.O_APPEND)
        assert (root / "appended").read_bytes() == b"onetwotwotwo"
        guest.release(read, reading)
        assert guest.read(read, again, 2) == b"01"
        guest.release(read, again)
        again = guest.open(gone)
        assert guest.read(gone, again, 7) == b"without"
        it.die()
        assert guest.lookup(b"written").nodeid == written
        guest.release(written, writing)
        with pytest.raises(OSError, match="Bad file"):
            guest.read(written, writing, 1)


def test_nodes_and_their_names_stay(root: Path) -> None:
    with mortal(root) as it:
        guest = it.guest
        folder = mkdir(guest, b"folder")
        inner = mkdir(guest, b"a longer name than one word holds", folder)
        file, handle = guest.create(b"file", inner)
        guest.release(file, handle)
        before = guest.lookup(b"file", inner)
        assert rename(guest, b"folder", b"moved") == 0
        it.die()
        assert guest.lookup(b"file", inner)._replace(nodeid=0) == before._replace(nodeid=0)
        assert guest.lookup(b"file", inner).generation == before.generation
        guest.create(b"another", inner)
        assert (root / "moved/a longer name than one word holds/another").exists()
        assert guest.lookup(b"moved").nodeid == folder
        guest.ask(FuseOpcode.FUSE_FORGET, file, struct.pack("<Q", 100), reply=False)
        it.die()
        assert guest.ask(FuseOpcode.FUSE_GETATTR, file, bytes(16), room=104).error == errno.EBADF
        assert guest.lookup(b"file", inner).generation == before.generation + 1


@pytest.mark.parametrize("plus", [False, True])
def test_a_directory_is_read_on_where_it_was(root: Path, plus: bool) -> None:
    for index in range(300):
        (root / f"file{index}").touch()
    with mortal(root) as it:
        found, offset, handle, other = Counter[bytes](), 0, it.guest.opendir(), it.guest.opendir()
        opcode = FuseOpcode.FUSE_READDIRPLUS if plus else FuseOpcode.FUSE_READDIR
        while True:
            body = FUSE_READ_IN.struct.pack(handle, offset, 4096, 0, 0, 0, 0)
            reply = it.guest.ask(opcode, 1, body, data_room=4096).body
            if not reply:
                break
            at = 0
            while at < len(reply):
                at += 128 * plus
                dirent = FUSE_DIRENT.unpack(reply, at)
                found[reply[at + FUSE_DIRENT.size : at + FUSE_DIRENT.size + dirent.namelen]] += 1
                offset = dirent.off
                at += FUSE_DIRENT.size + dirent.namelen + 7 & ~7
            it.die()
        assert found == Counter([b".", b"..", *(b"file%d" % index for index in range(300))])
        it.guest.release(1, handle, FuseOpcode.FUSE_RELEASEDIR)
        assert len(it.guest.readdir(other)) == 302
        assert it.guest.opendir() == handle


def test_the_session_stays(root: Path) -> None:
    """What FUSE_INIT agreed on, too: here a guest with the short form of SETXATTR."""
    with mortal(root) as it:
        it.guest.init(0)
        it.die()
        node, _ = it.guest.create(b"file")
        body = struct.pack("<II", 5, 0) + b"user.subject\0value"
        assert it.guest.ask(FuseOpcode.FUSE_SETXATTR, node, body).error == 0
        assert os.getxattr(root / "file", "user.subject") == b"value"
        it.guest.init()
        it.die()
        body = struct.pack("<IIII", 5, 0, 0, 0) + b"user.subject\0other"
        node = it.guest.lookup(b"file").nodeid
        assert it.guest.ask(FuseOpcode.FUSE_SETXATTR, node, body).error == 0
        assert os.getxattr(root / "file", "user.subject") == b"other"


def test_without_a_session_nothing_is_kept(root: Path) -> None:
    with mortal(root) as it:
        node, _ = it.guest.create(b"file")
        assert it.guest.ask(FuseOpcode.FUSE_DESTROY).error == 0
        it.die()
        assert it.guest.ask(FuseOpcode.FUSE_GETATTR, 1, bytes(16), room=104).error == errno.ENOTCONN
        it.guest.init()
        assert it.guest.ask(FuseOpcode.FUSE_GETATTR, node, bytes(16), room=104).error == errno.EBADF
        assert it.guest.lookup(b"file").nodeid


def test_what_is_counted_is_counted_on(root: Path) -> None:
    (root / "file").touch()
    with mortal(root) as it:
        guest = it.guest
        node = guest.lookup(b"file").nodeid
        guest.open(node)
        guest.open(node, os.O_RDWR)
        guest.opendir(mkdir(guest, b"folder"))
        gauges = NODES, NODES_OPEN, FILES, DIRECTORIES
        before = [it.worker.statistics.cast("Q")[gauge] for gauge in gauges], it.share.files.in_use
        it.die()
        assert ([it.worker.statistics.cast("Q")[gauge] for gauge in gauges], it.share.files.in_use) == before


def test_within_the_limit_of_descriptors(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "MOST_DESCRIPTORS", 64 + descriptors.RESERVED)
    with mortal(root) as it:
        guest, nodes = it.guest, []
        for index in range(100):
            nodes.append(mkdir(guest, b"folder%d" % index))
            guest.create(b"file", nodes[-1])
            if index % 10 == 9:
                it.die()
                for node in nodes:
                    assert guest.getattr(node).nlink == 2
                    assert guest.lookup(b"file", node).nodeid
            if index % 10 == 4:
                for handle in range(1, it.share.files.handles.end):
                    if it.share.files.fds[handle]:
                        guest.release(1, handle)
            assert it.share.files.in_use <= 64


def test_a_root_that_is_replaced_meanwhile(root: Path) -> None:
    """What was open stays so, and the rest is found in the new folder."""
    (root / "file").write_bytes(b"old")
    with mortal(root) as it:
        guest = it.guest
        node = guest.lookup(b"file").nodeid
        handle = guest.open(node)

        def replace() -> None:
            root.rename(root.with_name("elsewhere"))
            root.mkdir()
            (root / "file").write_bytes(b"new file")

        it.die(replace)
        assert guest.read(node, handle, 10) == b"old"
        fresh = guest.lookup(b"file")
        assert fresh.nodeid != node
        assert guest.read(fresh.nodeid, guest.open(fresh.nodeid), 10) == b"new file"
        it.die()
        assert guest.lookup(b"file").nodeid == fresh.nodeid
        shutil.rmtree(root.with_name("elsewhere"))


def test_locks_stay(root: Path) -> None:
    """Record locks and flock locks of the guest hold while nobody serves, and can be dropped afterwards."""
    path = root / "file"
    path.write_bytes(b"0123456789")
    with mortal(root, locks="host") as it:
        guest = it.guest
        node = guest.lookup(b"file").nodeid
        handle, other = guest.open(node, os.O_RDWR), guest.open(node, os.O_RDWR)

        def lock(owner: int, kind: int, start: int, end: int, flock: bool = False) -> int:
            flags = FUSE_LK_FLOCK if flock else 0
            body = FUSE_LK_IN.struct.pack(handle, owner, start, end, kind, 4242, flags, 0)
            return guest.ask(FuseOpcode.FUSE_SETLK, node, body).error

        def is_free(start: int, length: int) -> bool:
            with path.open("r+b") as file:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
                except BlockingIOError:
                    return False
            return True

        def flock_is_free() -> bool:
            with path.open("r+b") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
            return True

        assert lock(1, fcntl.F_WRLCK, 0, 1) == 0
        assert lock(2, fcntl.F_WRLCK, 4, OFFSET_MAX) == 0
        assert lock(0, fcntl.F_WRLCK, 0, OFFSET_MAX, flock=True) == 0
        before = it.share.files.in_use

        def meanwhile() -> None:
            assert [is_free(at, 1) for at in range(6)] == [False, False, True, True, False, False]
            assert not flock_is_free()

        it.die(meanwhile)
        assert it.share.files.in_use == before
        meanwhile()
        assert lock(2, fcntl.F_WRLCK, 0, 0) == errno.EAGAIN
        assert lock(1, fcntl.F_UNLCK, 0, 0) == 0
        assert is_free(0, 1)
        assert not is_free(1, 1)
        assert guest.ask(FuseOpcode.FUSE_FLUSH, node, FUSE_FLUSH_IN.struct.pack(other, 0, 0, 2)).error == 0
        assert is_free(4, 6)
        assert lock(0, fcntl.F_UNLCK, 0, OFFSET_MAX, flock=True) == 0
        it.die()
        assert flock_is_free()
        assert not is_free(1, 1)
        guest.release(node, handle)
        assert is_free(1, 1)


# --- killed by any store


def reply_of(it: Mortal, request: Callable[[Guest], object], left: int) -> bool:
    """Makes a request over which the worker is killed by a store. False where it needs no so many."""
    kept: Trapped = it.kept  # type: ignore[assignment]
    kept.left = left
    try:
        request(it.guest)
    except Killed:
        return True
    except OSError:
        pass
    finally:
        kept.left = None
    return False


def forget(node: int, count: int = 100) -> Callable[[Guest], object]:
    return lambda guest: guest.ask(FuseOpcode.FUSE_FORGET, node, struct.pack("<Q", count), reply=False)


def release(node: int, handle: int, opcode: int = FuseOpcode.FUSE_RELEASE) -> Callable[[Guest], object]:
    return lambda guest: guest.ask(opcode, node, struct.pack("<QIIQ", handle, 0, 0, 0))


def lookups(node: int) -> Callable[[Guest], object]:
    """Everything in a directory, in one request."""
    return lambda guest: guest.readdir(guest.opendir(node), node, plus=True, size=65536)


REQUESTS: dict[str, Callable[[dict[str, int]], Callable[[Guest], object]]] = {
    "lookup": lambda _: lambda guest: guest.lookup(b"unknown"),
    "lookup of a directory": lambda _: lambda guest: guest.lookup(b"directory"),
    "lookup by another name": lambda _: lambda guest: guest.lookup(b"link"),
    "lookup of another kind": lambda _: lambda guest: guest.lookup(b"kind"),
    "readdirplus": lambda _: lookups(1),
    "forget": lambda known: forget(known["file"]),
    "forget what is open": lambda known: forget(known["folder"]),
    "forget what is read": lambda known: forget(known["open"]),
    "open": lambda known: lambda guest: guest.open(known["file"]),
    "open to write": lambda known: lambda guest: guest.open(known["file"], os.O_RDWR),
    "release": lambda known: release(known["folder"], known["handle"]),
    "opendir": lambda known: lambda guest: guest.opendir(known["folder"]),
    "releasedir": lambda known: release(1, known["directory"], FuseOpcode.FUSE_RELEASEDIR),
    "create": lambda known: lambda guest: guest.create(b"new", known["folder"]),
    "mkdir": lambda known: lambda guest: mkdir(guest, b"new", known["folder"]),
    "rename": lambda known: lambda guest: rename(guest, b"file", b"elsewhere", 1, known["folder"]),
    "rename over": lambda known: lambda guest: rename(guest, b"unknown", b"file"),
    "unlink": lambda _: lambda guest: guest.ask(FuseOpcode.FUSE_UNLINK, 1, b"file\0"),
    "destroy": lambda _: lambda guest: guest.ask(FuseOpcode.FUSE_DESTROY),
    "init": lambda _: lambda guest: guest.init(),
}


@pytest.mark.parametrize("twin", ["plain"], indirect=True)  # what the compiled one stores by itself cannot be torn
@pytest.mark.parametrize("name", REQUESTS)
def test_a_worker_that_any_store_kills(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was half done: the tables are whole, what the guest knew is what it was, and nothing more is open."""
    monkeypatch.setattr(handler, "_hot", None)
    for left in range(400):
        killed = survive(name, tmp_path / f"share{left}", left)
        if not killed:
            break
    assert not killed
    assert left > 1, "nothing was ever killed"


def survive(name: str, root: Path, left: int) -> bool:
    """Has a worker killed by one store of a request, and looks at what is left. False where it needs fewer stores."""
    (root / "folder").mkdir(parents=True)
    (root / "directory").mkdir()
    for file in ("file", "unknown", "other", "kind", "folder/open"):
        (root / file).write_bytes(file.encode())
    os.link(root / "other", root / "link")
    with mortal(root, Trapped(FEW)) as it:
        guest = it.guest
        known = {file: guest.lookup(file.encode()).nodeid for file in ("file", "other", "kind", "folder")}
        known["open"] = guest.lookup(b"open", known["folder"]).nodeid
        known["handle"], known["directory"] = guest.open(known["open"]), guest.opendir()
        kept = guest.open(known["open"])
        inodes = {file: guest.getattr(known[file]).ino for file in ("file", "other", "folder", "open")}
        if name == "lookup of another kind":
            inode = (root / "kind").stat().st_ino
            nodes = it.share.nodes
            nodes.kinds[nodes.find((root / "kind").stat().st_dev, inode)] = stat.S_IFIFO >> 12
        killed = reply_of(it, REQUESTS[name](known), left)
        if killed:
            it.die()
        check(it.share.nodes)
        if name not in ("destroy", "init"):
            for file, inode in inodes.items():
                if not name.startswith("forget"):
                    assert guest.getattr(known[file]).ino == inode
            assert guest.read(known["open"], kept, 100) == b"folder/open"
            assert len(guest.readdir(guest.opendir())) == len(os.listdir(root)) + 2
            guest.create(b"afterwards")
            check(it.share.nodes)
        guest.init()
        check(it.share.nodes)
        assert guest.lookup(b"other").nodeid
    return killed


def check(table: NodeTable) -> None:
    """The hash, the list of free nodes and the slots for names are whole."""
    known = {node for node in range(1, table.end) if table.lookups[node]}
    assert table.count == len(known)
    found: Counter[int] = Counter()
    for bucket in range(table.table[BUCKETS]):
        node = table.heads[bucket]
        while node:
            assert table._bucket(node) == bucket
            found[node] += 1
            node = table.links[node]
    assert found == Counter(node for node in known if table.inos[node])
    free, node = Counter[int](), table.table[FREE]
    while node:
        free[node] += 1
        node = table.links[node]
    assert free == Counter(set(range(2, table.end)) - known)
    assert not table.table[CHANGING]
    assert not any(table.fds[node] or table.readable[node] for node in range(1, table.end) if node not in known)
    words: Counter[int] = Counter()
    names = table.names
    for node in range(table.end):
        place = names.places[node]
        words.update(range(place, place + (names.bytes[WORD * place] + 9) // WORD if place else place))
    for size in range(1, 34):
        place = names._rooms[size]
        while place:
            words.update(range(place, place + size))
            place = names._words[2 * place]
    assert not words or max(words.values()) == 1


@pytest.mark.parametrize("twin", ["plain"], indirect=True)
def test_a_worker_that_any_store_kills_while_the_root_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "_hot", None)
    for left in range(200):
        root, elsewhere = tmp_path / f"share{left}", tmp_path / f"elsewhere{left}"
        (root / "folder").mkdir(parents=True)
        (root / "file").write_bytes(b"old")
        with mortal(root, Trapped(FEW)) as it:
            guest = it.guest
            folder, node = guest.lookup(b"folder").nodeid, guest.lookup(b"file").nodeid
            handle = guest.open(node)
            root.rename(elsewhere)
            root.mkdir()
            (root / "file").write_bytes(b"new file")
            it.device.presence.next = 0
            killed = reply_of(it, lambda guest: guest.getattr(1), left)
            it.die()
            assert guest.read(node, handle, 10) == b"old"
            fresh = guest.lookup(b"file").nodeid
            assert guest.read(fresh, guest.open(fresh), 10) == b"new file"
            assert guest.ask(FuseOpcode.FUSE_LOOKUP, folder, b"name\0", room=128).error == errno.ESTALE
            check(it.share.nodes)
        if not killed:
            break
    assert not killed
    assert left > 10, "hardly anything was killed"


@pytest.mark.parametrize("twin", ["plain"], indirect=True)
@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(0, 3), st.integers(0, 40)), max_size=60),
    st.integers(0, 2),
)
def test_tables_that_are_killed_again_and_again(steps: list[tuple[int, int, int]], devices: int) -> None:
    """Inodes come, are renamed and forgotten, and any store may be the last one of its worker."""
    lasting = Trapped(FEW)
    table = NodeTable(ROOT, Statistics(), lasting)
    lasting.begun = True
    known: dict[tuple[int, int], tuple[int, bytes]] = {}
    for ino, what, left in steps:
        key, name = (ROOT.st_dev + ino % (devices + 1), ino * 64), b"n" * (left + 1)
        lasting.left = left
        try:
            if what < 3:
                table.learn(1, name, *key, stat.S_IFREG)
            elif key in known:
                table.forget(known[key][0], FOREVER)
        except Killed:
            lasting.left = None
            table = NodeTable(ROOT, Statistics(), lasting)
        lasting.left = None
        check(table)
        node = table.find(*key)
        if what == 3:
            known.pop(key, None)
            if node:
                table.forget(node, FOREVER)
        elif node:
            assert known.setdefault(key, (node, name))[0] == node
            known[key] = node, table.names[node]
        for other, (node, name) in known.items():
            assert table.find(*other) == node
            assert table.names[node] == name


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 255)), max_size=200))
def test_names_are_what_a_dict_would_have(steps: list[tuple[int, int]]) -> None:
    """In memory that is used up soon, and then only in what was given back."""
    table = NodeTable(ROOT, Statistics(), Lasting(FEW))
    names = table.names
    names.most = 150
    expected: dict[int, bytes] = {}
    for node, length in steps:
        name = bytes([1 + node]) * length
        with suppress(OSError):  # full
            names[node] = name
            expected[node] = name
        for each, kept in expected.items():
            assert names[each] == kept
            assert not names.bytes[WORD * names.places[each] + 1 + len(kept)]
    with pytest.raises(OSError, match="too long"):
        names[0] = bytes(256)


def test_there_is_room_for_names_until_all_of_it_is_in_use() -> None:
    """Of any size, whatever size the slots were that were given back."""
    names = NodeTable(ROOT, Statistics(), Lasting(FEW)).names
    names.most = 1 + 33 * 4
    for node in range(4):
        names[node] = bytes(255)
    with pytest.raises(OSError, match="Too many open files"):
        names[4] = b"x"
    names[2] = b""
    for node in range(4, 4 + 33):
        names[node] = b"%d" % node
    with pytest.raises(OSError, match="Too many open files"):
        names[99] = b"x"
    assert [names[node] for node in range(4, 37)] == [b"%d" % node for node in range(4, 37)]


@pytest.mark.parametrize("twin", ["plain"], indirect=True)
def test_a_million_nodes_are_found_again() -> None:
    """By the hash as it was left, and by one made anew."""
    count, lasting = 1_000_000, Lasting(1 << 20)
    table = NodeTable(ROOT, Statistics(), lasting)
    lasting.begun = True
    for index in range(count):
        table.learn(1, b"%d" % index, ROOT.st_dev, 1000 + index, stat.S_IFREG)
    for node in range(2, count, 1000):
        table.forget(node, 1)
    for changing in (0, 1):
        table.table[CHANGING] = changing
        table = NodeTable(ROOT, Statistics(), lasting)
        assert table.count == count + 1 - len(range(2, count, 1000))
        for index in range(0, count, 777):
            node = 0 if index % 1000 == 0 else index + 2
            assert table.find(ROOT.st_dev, 1000 + index) == node
            assert table.names[index + 2] == (b"%d" % index if node else b"")
