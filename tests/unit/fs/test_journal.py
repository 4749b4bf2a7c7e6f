"""Workers that die over a request, before and after each system call and each store, and others that complete it.

Contained: see support/contained.py.
"""

from __future__ import annotations

import os
import shutil
import struct
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from subos_devices.fs import device as device_module
from subos_devices.fs import handler
from subos_devices.fs import server as server_module
from subos_protocol.fuse import FUSE_ENTRY_OUT, FUSE_OPEN_IN, FUSE_OPEN_OUT, FUSE_RELEASE_IN
from subos_protocol.fuse_opcodes import FuseOpcode as Op
from subos_protocol.fuse_opcodes import FuseOpened, FuseSetattr
from support.contained import contained
from support.fuse_requests import Guest, Reply
from support.waiting import eventually

from .conftest import QUEUES, start
from .journal_cases import (
    APPEND,
    ATTR,
    CASES,
    CREATE,
    ENTRY,
    EXCHANGE,
    FIFO,
    HOST_LOCKS,
    NOREPLACE,
    OPEN,
    UNREADABLE,
    Case,
    Outcome,
    Scene,
    begin,
    build,
    create,
    read,
    rename,
    seen,
    setattr_,
    setxattr,
    write,
)
from .lives import Lives, Request, ask, inodes, known, tree
from .mortal import FEW, Killed, Trapped, mortal

NOBODY = 65534

HOT = ["lookup", "lookup of a folder", "lookup of nothing", "getattr", "open to read", "open to write", "read", "write"]
HOT += [
    "append",
    "append to what is not open",
    "append to what may not be written",
    "release",
    "release what is shared",
]
HOT += ["readdirplus", "open and truncate", "open a folder as a file"]
TWINS = [("plain", name) for name in CASES] + [("compiled", name) for name in HOT if "compiled" in QUEUES]
"""Of what is not hot, the compiled handler has no code."""
PLAIN = pytest.mark.parametrize("twin", ["plain"], indirect=True)


def check_every_death(
    folder: Path, case: Case, begin: Callable[[Guest], Scene] = begin, *, uid: int | None = None, **options: str | bool
) -> None:
    """A worker dies over the request at every stop that there is; the next one's answer, what it knows then and the
    tree are as if the first had lived on. A lookup may be counted twice."""
    uid = os.geteuid() if uid is None else uid
    build(folder / "whole", uid)
    with Lives(folder / "whole", uid=uid, **options) as lives:
        request = case(lives.within(begin))
        unique, index = lives.guest.unique, lives.guest.index
        reply = lives.ask(request)
        expected = Outcome(seen(request, reply, inodes(folder / "whole")), tree(folder / "whole"), **lives.known)
    for stop in count():
        root = folder / f"{stop}"
        build(root, uid)
        with Lives(root, uid=uid, **options) as lives:
            if not lives.dies(stop, request, begin):
                break
            lives.guest.unique, lives.guest.index = unique, index
            reply = lives.ask(request)
            found = Outcome(seen(request, reply, inodes(root)), tree(root), **lives.known)
        assert found._replace(lookups={}) == expected._replace(lookups={}), f"stop {stop}"
        more = {found.lookups[node] - times for node, times in expected.lookups.items()}
        assert more <= ({0, 1, 2} if request.opcode == Op.FUSE_READDIRPLUS else {0, 1}), f"stop {stop}"
        shutil.rmtree(root)
    assert stop > 0


@pytest.mark.parametrize(("twin", "name"), TWINS, indirect=["twin"])
@contained
def test_a_worker_dies_before_and_after_each_system_call(tmp_path: Path, name: str) -> None:
    check_every_death(tmp_path, CASES[name])


@PLAIN
@pytest.mark.parametrize("name", ["mknod of a fifo", "mkdir", "create", "create anew", "tmpfile", "chmod", "rename"])
@contained
def test_with_kept_owners(tmp_path: Path, name: str) -> None:
    check_every_death(tmp_path, CASES[name], ownership="xattr")


@PLAIN
@pytest.mark.parametrize("name", HOST_LOCKS)
@contained
def test_with_locks_of_the_host(tmp_path: Path, name: str) -> None:
    check_every_death(tmp_path, HOST_LOCKS[name], locks="host")


@PLAIN
@pytest.mark.parametrize("name", UNREADABLE)
@contained
def test_a_mode_that_a_worker_lent_itself_is_given_back(tmp_path: Path, name: str) -> None:
    """An ordinary user's worker changes the mode of what it may not write for a moment; the tree has the modes."""
    uid = NOBODY if os.geteuid() == 0 else os.geteuid()
    check_every_death(tmp_path, UNREADABLE[name], uid=uid, xattr="mapped")


@contained
def test_what_a_replay_opens_keeps_no_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first try has seen the file as it is now, and the guest's pages of it are older."""
    policy = device_module.CACHE_POLICIES["auto"]._replace(settles=0)
    monkeypatch.setitem(device_module.CACHE_POLICIES, "auto", policy)
    monkeypatch.setattr(server_module, "_IN_MEMORY", {})  # as on a disk

    def aged(guest: Guest) -> Scene:
        newest = max(path.stat().st_ctime for path in tmp_path.glob("*/closed"))
        eventually(lambda: time.time() - newest > 0.06)
        return begin(guest)

    def case(scene: Scene) -> Request:
        return Request(Op.FUSE_OPEN, scene.closed, FUSE_OPEN_IN.struct.pack(os.O_RDONLY, 0), room=OPEN)

    check_every_death(tmp_path, case, aged)
    shutil.rmtree(tmp_path / "whole")
    build(tmp_path / "whole")
    with Lives(tmp_path / "whole") as lives:  # another request would have it keep them
        request = case(lives.within(aged))
        kept = [FUSE_OPEN_OUT.unpack(lives.ask(request).body).open_flags & FuseOpened.FOPEN_KEEP_CACHE for _ in "ab"]
        assert kept == [0, FuseOpened.FOPEN_KEEP_CACHE]


# --- killed by any store


STORES = ["create", "create anew", "tmpfile", "mkdir", "link", "rename over a file", "exchange", "unlink", "append"]
STORES += ["open to read", "opendir", "release"]


def outcome(root: Path, case: Case, left: int | None) -> tuple[bool, Outcome]:
    """Whether a worker was killed by the store after the next `left` of a request, and what came of that request."""
    os.umask(0o22)
    build(root)
    kept, killed = Trapped(FEW), False
    with mortal(root, kept) as it:
        request = case(begin(it.guest))

        def serve(queue: Any) -> None:
            nonlocal killed
            kept.left = left
            try:
                it.device.process(queue)
            except Killed:
                kept.left, killed = None, True
                it.die()
            kept.left = None

        it.guest.drain = serve
        reply = ask(it.guest, request)
        return killed, Outcome(seen(request, reply, inodes(root)), tree(root), **known(it.device))


@PLAIN
@pytest.mark.parametrize("name", STORES)
def test_a_worker_that_any_store_kills(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one completes the request as if the first had lived on. A lookup may be counted twice."""
    monkeypatch.setattr(handler, "_hot", None)
    _, expected = outcome(tmp_path / "whole", CASES[name], None)
    for left in count():
        killed, found = outcome(tmp_path / f"{left}", CASES[name], left)
        assert found._replace(lookups={}) == expected._replace(lookups={}), f"store {left}"
        more = {found.lookups[node] - times for node, times in expected.lookups.items()}
        assert more <= {0, 1}, f"store {left}"
        if not killed:
            break
        shutil.rmtree(tmp_path / f"{left}")
    assert left > 1, "nothing was ever killed"


# --- more than one death, more than one request


DEADLY = ["create", "create anew", "tmpfile", "mkdir", "symlink", "link", "unlink", "unlink one of two", "rmdir"]
DEADLY += ["rename over a file", "exchange", "append", "open to write", "opendir", "release", "removexattr"]
DEADLY += ["setxattr of a new one", "forget many", "mknod of a fifo", "copy"]
stops = st.integers(0, 30)


@contained
def test_the_next_worker_dies_over_it_too(tmp_path: Path) -> None:
    numbers = count()

    @settings(max_examples=60, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(DEADLY), stops, stops)
    def twice(name: str, first: int, second: int) -> None:
        whole, root = tmp_path / f"whole{(number := next(numbers))}", tmp_path / f"{number}"
        build(whole)
        build(root)
        with Lives(whole) as lives:
            request = CASES[name](lives.within(begin))
            reply = lives.ask(request)
            expected = Outcome(seen(request, reply, inodes(whole)), tree(whole), **lives.known)
        with Lives(root) as lives:
            lives.within(begin)
            if lives.dies(first, request):
                lives.dies_again(second)
            else:
                return
            reply = lives.ask(request)
            found = Outcome(seen(request, reply, inodes(root)), tree(root), **lives.known)
        assert found._replace(lookups={}) == expected._replace(lookups={})
        for folder in (whole, root):
            shutil.rmtree(folder)

    twice()


PATHS = ["a", "b", "c", "d", "d/a", "d/b"]


class World:
    """What a guest knows of its share, by names. `ask` asks a request."""

    def __init__(self, root: Path, ask: Callable[[Request], Reply]) -> None:
        self.root = root
        self.ask = ask
        self.handles: list[tuple[int, int]] = []
        """Node and handle of each open file."""

    def node(self, path: str) -> int:
        """0 where there is none."""
        node = 1
        for name in filter(None, path.split("/")):
            reply = self.ask(Request(Op.FUSE_LOOKUP, node, name.encode() + b"\0", room=ENTRY))
            if reply.error:
                return 0
            node = FUSE_ENTRY_OUT.unpack(reply.body).nodeid
        return node

    def place(self, path: str) -> tuple[int, bytes]:
        """The node of its folder, and its name there."""
        folder, _, name = path.rpartition("/")
        return self.node(folder), name.encode() + b"\0"

    def request(self, kind: str, one: str, two: str, number: int) -> Request | None:
        """None where there is nothing to ask."""
        if kind in NAMED:
            folder, name = self.place(one)
            opcode, before, room = NAMED[kind]
            return Request(opcode, folder, before + name + (b"target\0" if kind == "symlink" else b""), room=room)
        if kind in ("rename", "exchange", "noreplace"):
            (folder, old), (to, new) = self.place(one), self.place(two)
            return Request(Op.FUSE_RENAME2, folder, rename(to, old[:-1], new[:-1], RENAMES[kind]))
        if kind in ("write", "append", "read", "release"):
            if not self.handles:
                return None
            node, handle = self.handles[number % len(self.handles)]
            data = b"%d " % number * (number % 7 * 100 + 1)
            if kind == "release":
                self.handles.remove((node, handle))
                return Request(Op.FUSE_RELEASE, node, FUSE_RELEASE_IN.struct.pack(handle, 0, 0, 0))
            if kind == "read":
                return Request(Op.FUSE_READ, node, read(handle), data_room=4096)
            body = write(handle, number % 50, data, APPEND if kind == "append" else os.O_RDWR)
            return Request(Op.FUSE_WRITE, node, body, data, room=8)
        node = self.node(one)
        if not node:
            return None
        if kind == "link":
            folder, name = self.place(two)
            return Request(Op.FUSE_LINK, folder, struct.pack("<Q", node) + name, room=ENTRY)
        if kind == "forget":
            return Request(Op.FUSE_FORGET, node, struct.pack("<Q", 1), reply=False)
        return Request(*KNOWN[kind][:1], node, *KNOWN[kind][1:])

    def opened(self, request: Request, reply: Reply) -> None:
        if request.opcode not in (Op.FUSE_CREATE, Op.FUSE_OPEN) or reply.error:
            return
        made = request.opcode == Op.FUSE_CREATE
        node = FUSE_ENTRY_OUT.unpack(reply.body).nodeid if made else request.node
        self.handles.append((node, FUSE_OPEN_OUT.unpack(reply.body, ENTRY if made else 0).fh))


NAMED = {
    "mkdir": (Op.FUSE_MKDIR, struct.pack("<II", 0o755, 0), ENTRY),
    "mknod": (Op.FUSE_MKNOD, struct.pack("<IIII", FIFO, 0, 0, 0), ENTRY),
    "symlink": (Op.FUSE_SYMLINK, b"", ENTRY),
    "create": (Op.FUSE_CREATE, create(b"")[:-1], ENTRY + OPEN),
    "create anew": (Op.FUSE_CREATE, create(b"", os.O_RDWR | os.O_TRUNC)[:-1], ENTRY + OPEN),
    "unlink": (Op.FUSE_UNLINK, b"", 0),
    "rmdir": (Op.FUSE_RMDIR, b"", 0),
}
RENAMES = {"rename": 0, "noreplace": NOREPLACE, "exchange": EXCHANGE}
KNOWN: dict[str, tuple[Any, ...]] = {
    "open": (Op.FUSE_OPEN, FUSE_OPEN_IN.struct.pack(os.O_RDWR, 0), b"", OPEN),
    "truncate": (Op.FUSE_SETATTR, setattr_(FuseSetattr.FATTR_SIZE, size=20), b"", ATTR),
    "setxattr": (Op.FUSE_SETXATTR, setxattr(b"user.a", b"1", CREATE)),
    "removexattr": (Op.FUSE_REMOVEXATTR, b"user.a\0"),
}
KINDS = [*NAMED, *RENAMES, *KNOWN, "link", "forget", "write", "append", "append", "read", "release"]
steps = st.tuples(
    st.sampled_from(KINDS), st.sampled_from(PATHS), st.sampled_from(PATHS), st.integers(0, 1000), st.none() | stops
)


@contained
def test_a_guest_whose_workers_die_again_and_again(tmp_path: Path) -> None:
    """It sees what the guest of a worker that lives sees."""
    numbers = count()

    @settings(max_examples=25, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.lists(steps, min_size=4, max_size=14))
    def sequence(sequence: list[tuple[str, str, str, int, int | None]]) -> None:
        model_root, root = tmp_path / f"model{(number := next(numbers))}", tmp_path / f"{number}"
        model_root.mkdir()
        root.mkdir()
        device, guest = start(model_root)
        guest.init()
        with Lives(root) as lives:
            lives.within(Guest.init)
            worlds = (
                World(model_root, lambda request: lives.beside(partial(ask, guest, request))),
                World(root, lives.ask),
            )
            for kind, one, two, value, stop in sequence:
                requests = [world.request(kind, one, two, value) for world in worlds]
                model_request, request = requests
                if request is None or model_request is None:
                    assert request is model_request
                    continue
                if stop is not None:
                    lives.dies(stop, request)
                replies = worlds[0].ask(model_request), lives.ask(request)
                for world, asked, reply in zip(worlds, (model_request, request), replies, strict=True):
                    world.opened(asked, reply)
                outcomes = [
                    seen(asked, reply, inodes(world.root), numbers=False)
                    for world, asked, reply in zip(worlds, (model_request, request), replies, strict=True)
                ]
                assert outcomes[0] == outcomes[1], kind
                assert tree(model_root) == tree(root), kind
            files = lives.known.get("files", [])
            assert len(files) == len(worlds[1].handles) == device.server.share.files.handles.open
        device.queue_stopped(guest.queue)
        device.close()
        guest.close()

    sequence()
