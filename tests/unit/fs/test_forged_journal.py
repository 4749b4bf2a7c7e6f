"""A guest that means harm, and a worker in its hands: requests that are made up as replays; slots and columns that are
forged."""

from __future__ import annotations

import errno
import os
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from subos_devices.fs.journal import BEGUN, DONE, FACTS, MOST_FACTS, NOTED, SIZE, SLOTS, STAGE, UNIQUE, Journal
from subos_devices.fs.lasting import Corrupt, Lasting
from subos_devices.fs.nodes import BUCKETS, MASK
from subos_protocol.fuse import FUSE_READ_IN
from subos_protocol.fuse_opcodes import FuseOpcode
from support.contained import contained

from .mortal import FEW, mortal
from .test_hostile import ALL, check_outside, check_reply, requests, share

MKDIR, UNLINK = FuseOpcode.FUSE_MKDIR, FuseOpcode.FUSE_UNLINK
stages = st.tuples(st.integers(0, 60), st.sampled_from([BEGUN, NOTED, DONE]))
words = st.sampled_from([0, 1, 2, 3, 7, 1 << 32, 160, 161, 1 << 62, ALL]) | st.integers(0, ALL)
slots = st.tuples(stages, st.lists(words, min_size=3 + MOST_FACTS, max_size=3 + MOST_FACTS), st.tuples(words, words))
attempts = st.tuples(requests, st.none() | slots, st.booleans(), st.booleans())
"""A request, a forged slot, whether the slot's opcode is the request's, and whether its `unique` is the last one's."""


@contained
def test_no_request_and_no_slot_does_harm(tmp_path: Path) -> None:
    """Each request is the first of a new worker: an answer that is well formed, and nothing outside is touched."""
    root, device, first = share(tmp_path)
    device.close()
    first.close()
    with mortal(root, Lasting(FEW)) as it:
        guest, journal = it.guest, it.kept.column("journal")
        secret = (tmp_path / "outside/secret").stat()

        @settings(max_examples=120, database=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(attempts, min_size=1, max_size=4))
        def attack(sequence: list[tuple[tuple[int, int, bytes, int], object, bool, bool]]) -> None:
            for name in (b"folder", b"way out", b"way to"):
                guest.lookup(name)
            for (opcode, node, arguments, room), forged, fits, repeats in sequence:
                if forged is not None:
                    (of, stage), facts, given_handles = forged  # type: ignore[misc]
                    slot = [guest.unique + 2, (opcode if fits else of) << 8 | stage, *facts]
                    inode = [secret.st_dev, secret.st_ino] if fits and not facts[-1] % 2 else []
                    slot[FACTS : FACTS + len(inode)] = inode
                    journal[:2] = memoryview(struct.pack("2Q", *given_handles)).cast("Q")
                    for index in range(SLOTS):
                        at = 2 + index * (len(journal) - 2) // SLOTS
                        journal[at : at + len(slot)] = memoryview(struct.pack(f"{len(slot)}Q", *slot)).cast("Q")
                it.die()
                if repeats:
                    guest.unique -= 2
                reply = guest.ask(opcode, node, arguments, room=room)
                check_reply(guest, reply, room)
            guest.init()
            check_outside(tmp_path)

        attack()
        assert guest.getattr(1).nlink >= 1


FORGED: dict[str, dict[str, dict[int, int]]] = {
    "hash": {name: dict.fromkeys(range(64), 0xFFFF_FFFF) for name in ("heads", "links")},
    "size of the hash": {"table": {MASK: ALL, BUCKETS: ALL}},
    "names": {name: dict.fromkeys(range(2, 64), 0xFFFF_FFFF) for name in ("parents", "places")},
    "a node that never was": {"lookups": {99: 1}, "kinds": {99: stat.S_IFREG >> 12}, "fds": {99: -1}},
    "a directory": {"directory_nodes": {1: 0xFFFF_FFFF}},
}


@pytest.mark.parametrize("forgery", FORGED)
@contained
def test_columns_lead_nowhere(tmp_path: Path, forgery: str) -> None:
    """The next worker reads what the one before has written as an index. Whatever it finds, it lives; and a guest that
    begins anew has a share that is whole."""
    root = tmp_path / "share"
    root.mkdir()
    for name in ("file", "other"):
        (root / name).touch()
    with mortal(root, Lasting(FEW)) as it:
        guest = it.guest
        known = [guest.lookup(name).nodeid for name in (b"file", b"other")]
        handle = guest.opendir()
        for column, values in FORGED[forgery].items():
            for index, value in values.items():
                it.kept.column(column)[index] = value
        it.die()
        listing = FUSE_READ_IN.struct.pack(handle, 0, 4096, 0, 0, 0, 0)
        for node in (1, *known, 99, 0xFFFF_FFFF):
            replies = [
                guest.ask(FuseOpcode.FUSE_GETATTR, node, bytes(16), room=104),
                guest.ask(FuseOpcode.FUSE_OPEN, node, bytes(8), room=16),
                guest.ask(FuseOpcode.FUSE_READDIRPLUS, node, listing, data_room=4096),
                *(guest.ask(FuseOpcode.FUSE_LOOKUP, node, name, room=128) for name in (b"file\0", b"nothing\0")),
            ]
            assert all(0 <= reply.error < 4096 for reply in replies)
        guest.init()
        assert {entry for entry in os.listdir(root) if guest.lookup(entry.encode()).nodeid} == {"file", "other"}
        it.die()
        assert guest.lookup(b"file").nodeid


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("walk", ["find", "forget", "grow"])
@contained
def test_a_circle_in_the_hash_ends_the_worker(tmp_path: Path, walk: str, size: int) -> None:
    """At once, and in good order, which is its keeper's end, too. A guest that begins anew has a whole share."""
    root = tmp_path / "share"
    root.mkdir()
    names = [b"file%d" % number for number in range(8)]
    for name in names:
        (root / os.fsdecode(name)).touch()
    with mortal(root, Lasting(FEW)) as it:
        said: list[str] = []
        guest = it.guest
        nodes = [guest.lookup(name).nodeid for name in names[:6]]
        heads, links = it.kept.column("heads"), it.kept.column("links")
        for index in range(len(heads)):
            heads[index] = nodes[0]
        for index, node in enumerate(nodes[:size]):
            links[node] = nodes[(index + 1) % size]
        it.die()
        it.worker.log = said.append  # type: ignore[method-assign]
        began = time.monotonic()
        walks: dict[str, Callable[[], object]] = {
            "find": lambda: guest.lookup(names[6]),
            "forget": lambda: guest.ask(FuseOpcode.FUSE_FORGET, nodes[5], struct.pack("<Q", ALL), reply=False),
            "grow": it.share.nodes._split,
        }
        with pytest.raises(Corrupt):
            walks[walk]()
        assert time.monotonic() - began < 5
        assert said == ([] if walk == "grow" else ["its tables were forged: the guest must mount it again"])
        it.kept.begun = False  # as it is in new memory
        it.die()
        guest.init()
        assert all(guest.lookup(name).nodeid for name in names)


@contained
def test_a_unique_that_repeats_is_no_replay_in_the_same_worker(tmp_path: Path) -> None:
    root, _, guest = share(tmp_path)
    for name in ("one", "two", "three"):
        guest.unique = 1000
        assert guest.ask(MKDIR, 1, struct.pack("<II", 0o755, 0) + name.encode() + b"\0", room=128).error == 0
    guest.unique = 1000
    again = guest.ask(MKDIR, 1, struct.pack("<II", 0o755, 0) + b"one\0", room=128)
    assert again.error == errno.EEXIST
    assert {"one", "two", "three"} <= set(os.listdir(root))


@pytest.mark.parametrize("opcode", [MKDIR, UNLINK])
@contained
def test_the_first_request_alone_may_be_a_replay(tmp_path: Path, opcode: int) -> None:
    """With its opcode and its `unique`; the guest gets the answer that it has had. Whatever comes next is served."""
    root, device, first = share(tmp_path)
    device.close()
    first.close()
    with mortal(root, Lasting(FEW)) as it:
        guest = it.guest
        made = guest.ask(MKDIR, 1, struct.pack("<II", 0o755, 0) + b"made\0", room=128)
        it.die()
        guest.unique -= 2
        if opcode == UNLINK:
            assert guest.ask(UNLINK, 1, b"made\0").error == errno.EISDIR
        else:
            assert guest.ask(MKDIR, 1, struct.pack("<II", 0o755, 0) + b"other\0", room=128).raw == made.raw
        assert not (root / "other").exists()
        guest.unique -= 2
        assert guest.ask(MKDIR, 1, struct.pack("<II", 0o755, 0) + b"other\0", room=128).error == 0
        assert (root / "other").is_dir()


def test_a_session_has_no_replays_of_the_one_before(tmp_path: Path) -> None:
    """A guest that reboots counts from the same number again."""
    with mortal(tmp_path) as it:
        guest = it.guest
        guest.unique = 100
        arguments = struct.pack("<II", 0o755, 0) + b"made\0"
        assert guest.ask(MKDIR, 1, arguments, room=128).error == 0
        guest.init()
        it.die()
        (tmp_path / "made").rmdir()
        guest.unique = 100
        assert guest.ask(MKDIR, 1, arguments, room=128).error == 0
        assert (tmp_path / "made").is_dir()


def test_slots_apart() -> None:
    """What one queue's worker died over is no replay on another queue, nor after another request."""
    memory = memoryview(bytearray(SIZE))
    journal = Journal(memory)
    journal.slot(1).begin((40, MKDIR, 7, 1))
    journal.slot(1).note(MKDIR, 1)
    for header, replays in (((40, MKDIR, 7, 1), True), ((40, UNLINK, 7, 1), False), ((40, MKDIR, 9, 1), False)):
        copy = memoryview(bytearray(memory))
        for index in (0, 1):
            slot = Journal(copy).slot(index)
            slot.begin(header)
            assert slot.replaying is (replays and index == 1)
            assert (slot.recall() is not None) is slot.replaying
        assert copy.cast("Q")[2 + (len(copy) // 8 - 2) // SLOTS + UNIQUE] == header[2]
        assert slot.words[STAGE] >> 8 == (MKDIR if replays else 0)
    slot = Journal(memory).slot(1)
    slot.begin((40, MKDIR, 9, 1))
    slot.begin((40, MKDIR, 7, 1))
    assert not slot.replaying
