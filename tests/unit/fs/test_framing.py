"""Requests cut into buffers in every way, and in every span of guest memory, get the same answers."""

from __future__ import annotations

import errno
import os
import random
import struct
from pathlib import Path

import pytest

from subos_devices.vhost_user.errors import BadChain
from subos_protocol.fuse import FUSE_ATTR_OUT, FUSE_GETATTR_IN, FUSE_IN_HEADER, FUSE_READ_IN, FUSE_WRITE_IN
from subos_protocol.fuse_opcodes import FuseOpcode
from support.fuse_requests import BASE, FRAMINGS, LINUX, SIZE, Framing, Guest, Refused, pieces

from .conftest import Serve

GETATTR = FUSE_GETATTR_IN.struct.pack(0, 0, 0)


@pytest.mark.parametrize("framing", FRAMINGS, ids=str)
def test_every_framing(serve: Serve, root: Path, framing: Framing) -> None:
    (root / "file").write_bytes(bytes(range(256)) * 2)
    (root / "link").symlink_to("somewhere/else")
    guest = serve(framing)
    node = guest.lookup(b"file").nodeid
    assert guest.getattr(node).size == 512
    with pytest.raises(Refused) as refused:
        guest.lookup(b"missing")
    assert refused.value.errno == errno.ENOENT
    handle = guest.open(node, os.O_RDWR)
    assert guest.read(node, handle, 300, 100) == (bytes(range(256)) * 2)[100:400]
    assert guest.read(node, handle, 300, 500) == bytes(range(244, 256))
    assert guest.write(node, handle, b"0123456789" * 20, 10) == 200
    assert (root / "file").read_bytes()[10:210] == b"0123456789" * 20
    guest.release(node, handle)
    link = guest.lookup(b"link").nodeid
    assert guest.ask(FuseOpcode.FUSE_READLINK, link, data_room=400).body == b"somewhere/else"
    listing = guest.readdir(guest.opendir(), plus=True)
    assert set(listing) == {b".", b"..", b"file", b"link"}
    assert listing[b"file"][0] == node


@pytest.mark.parametrize("size", [1, 100, 4096, 10000])
def test_data_of_many_pages(serve: Serve, root: Path, size: int) -> None:
    content = random.Random(size).randbytes(200_000)
    (root / "big").write_bytes(content)
    guest = serve(Framing("pages", cut=lambda length: [length] if length <= 128 else pieces(max(size, 200))(length)))
    node = guest.lookup(b"big").nodeid
    handle = guest.open(node, os.O_RDWR)
    assert guest.read(node, handle, 150_000, 7) == content[7:150_007]
    assert guest.read(node, handle, 1000, 7, room=150_000) == content[7:1007]
    assert guest.read(node, handle, 150_000, 7, room=1000) == content[7:1007]
    assert guest.write(node, handle, content[::-1][:150_000], 3) == 150_000
    assert (root / "big").read_bytes()[3:150_003] == content[::-1][:150_000]


def test_more_buffers_than_one_system_call_takes(serve: Serve, root: Path) -> None:
    content = os.urandom(5000)
    (root / "big").write_bytes(content)
    guest = serve()
    node = guest.lookup(b"big").nodeid
    handle = guest.open(node, os.O_RDWR)
    # Descriptors of 5 bytes from a direct chain would not fit a ring of 256: an indirect table takes 1,002.
    guest.framing = Framing("crumbs", cut=lambda length: [length] if length <= 40 else pieces(5)(length))
    assert guest.read(node, handle, 4980) == content[:4980]
    assert guest.write(node, handle, content[::-1][:4980]) == 4980
    assert (root / "big").read_bytes()[:4980] == content[::-1][:4980]


def test_buffers_outside_the_largest_span(serve: Serve, root: Path) -> None:
    (root / "file").write_bytes(b"content")
    guest = serve()
    node = guest.lookup(b"file").nodeid
    far = SIZE // 2 + 8192  # behind the hole in guest-physical space
    reply = guest.ask(FuseOpcode.FUSE_GETATTR, node, GETATTR, room=FUSE_ATTR_OUT.size, at=far)
    assert FUSE_ATTR_OUT.unpack(reply.body).size == 7


@pytest.mark.parametrize("framing", [LINUX, FRAMINGS[2], FRAMINGS[5]], ids=str)
def test_too_little_room_or_too_few_arguments(serve: Serve, framing: Framing) -> None:
    guest = serve(framing)
    for arguments, room in ((GETATTR[:-1], 104), (GETATTR, 103), (b"", 104), (GETATTR, 0)):
        reply = guest.ask(FuseOpcode.FUSE_GETATTR, 1, arguments, room=room)
        assert (reply.error, reply.length, reply.written, reply.unique) == (errno.EINVAL, 16, 16, guest.unique)


def test_a_length_that_is_not_there(serve: Serve) -> None:
    guest = serve(FRAMINGS[2])
    for length in (0, 39, FUSE_IN_HEADER.size + len(GETATTR) + 1, 0xFFFF_FFFF):
        assert guest.ask(FuseOpcode.FUSE_GETATTR, 1, GETATTR, room=104, length=length).error == errno.EINVAL
    assert guest.ask(FuseOpcode.FUSE_GETATTR, 1, GETATTR, room=104).error == 0


def test_no_header_and_no_room_for_an_answer(guest: Guest) -> None:
    assert guest.submit([b"short"], [200]).written == 0
    assert guest.submit([], [200]).written == 0
    assert guest.ask(FuseOpcode.FUSE_GETATTR, 1, GETATTR, reply=False).written == 0
    header = FUSE_IN_HEADER.struct.pack(56, FuseOpcode.FUSE_MKDIR, 2, 1, 0, 0, 0, 0, 0)
    assert guest.submit([header, struct.pack("<II", 0o755, 0) + b"made\0"], [15]).written == 0
    with pytest.raises(Refused):
        guest.lookup(b"made")


@pytest.mark.parametrize("opcode", [0, 7, 19, 37, 39, 53, 63, 64, 4096, 0xFFFF_FFFF])
@pytest.mark.parametrize("framing", [LINUX, FRAMINGS[2]], ids=str)
def test_what_is_not_served(serve: Serve, framing: Framing, opcode: int) -> None:
    reply = serve(framing).ask(opcode, 1, bytes(16), room=104)
    assert (reply.error, reply.written) == (errno.ENOSYS, 16)


def test_locks_stay_the_guest_s_own(guest: Guest) -> None:
    for opcode in (FuseOpcode.FUSE_GETLK, FuseOpcode.FUSE_SETLK, FuseOpcode.FUSE_SETLKW):
        assert guest.ask(opcode, 1, bytes(48), room=24).error == errno.ENOSYS


@pytest.mark.parametrize("words", [2, 3, 4, 5])
def test_a_buffer_outside_guest_memory_ends_the_queue(serve: Serve, words: int) -> None:
    """Wherever in a well-known shape it stands, just below, just above, or far from the span."""
    header = FUSE_IN_HEADER.struct.pack(80, FuseOpcode.FUSE_WRITE, 2, 1, 0, 0, 0, 0, 0)
    shape = {
        2: [(40, 0), (16, 2)],
        3: [(40, 0), (40, 0), (16, 2)],
        4: [(40, 0), (40, 0), (16, 2), (8, 2)],
        5: [(40, 0), (40, 0), (64, 0), (16, 2), (8, 2)],
    }[words]
    for bad in range(words):
        length = shape[bad][0]
        for address in (BASE - 1, BASE + SIZE // 2 + 4096 - length + 1, (1 << 64) - 1, 0):
            chain = [(BASE + 0x10000 + 64 * index, size, flags) for index, (size, flags) in enumerate(shape)]
            chain[bad] = (address, *chain[bad][1:])
            guest = serve()
            guest.bytes[0x10000:0x10028] = header
            with pytest.raises(BadChain):
                guest.chain(chain)


def test_a_write_whose_size_is_not_its_data(serve: Serve, root: Path) -> None:
    for framing in (LINUX, FRAMINGS[2], FRAMINGS[6]):
        guest = serve(framing)
        node, handle = guest.create(b"f%d" % FRAMINGS.index(framing))
        more = FUSE_WRITE_IN.struct.pack(handle, 0, 101, 0, 0, 0, 0)
        assert guest.ask(FuseOpcode.FUSE_WRITE, node, more, data=b"x" * 100, room=8).error == errno.EINVAL
        less = FUSE_WRITE_IN.struct.pack(handle, 0, 99, 0, 0, 0, 0)
        assert guest.ask(FuseOpcode.FUSE_WRITE, node, less, data=b"x" * 100, room=8).body[:4] == b"\x63\0\0\0"
        assert guest.getattr(node).size == 99


def test_an_offset_beyond_files(guest: Guest) -> None:
    node, handle = guest.create(b"file")
    for offset in (1 << 63, (1 << 64) - 1):
        body = FUSE_READ_IN.struct.pack(handle, offset, 16, 0, 0, 0, 0)
        assert guest.ask(FuseOpcode.FUSE_READ, node, body, data_room=16).error == errno.EINVAL
        body = FUSE_WRITE_IN.struct.pack(handle, offset, 4, 0, 0, 0, 0)
        assert guest.ask(FuseOpcode.FUSE_WRITE, node, body, data=b"data", room=8).error == errno.EINVAL
