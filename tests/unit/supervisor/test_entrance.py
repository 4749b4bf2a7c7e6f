"""Connections that are taken by one who dies before he has said so."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from pathlib import Path

import pytest

from subos_devices.runtime import listen
from subos_devices.supervisor.entrance import Corridor, Entrance
from support.processes import descriptors


def test_a_connection_is_there_until_it_is_noted(tmp_path: Path) -> None:
    before = descriptors()

    async def main() -> None:
        path = tmp_path / "s"
        corridor = Corridor(listen(path))
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            first.connect(os.fspath(path))
            first.send(b"first")
            dies, next_one = Entrance(corridor.outlet.dup()), Entrance(corridor.outlet.dup())
            with await dies.next() as lost:
                assert lost.recv(9) == b"first"
            dies.close()
            first.send(b"again")
            with await next_one.next() as taken:
                assert taken.recv(9) == b"again"
                for _ in range(2):  # as a successor does who does not know whether the last one has
                    next_one.noted(taken)
                second.connect(os.fspath(path))
                second.send(b"second")
                with await next_one.next() as other:
                    next_one.noted(taken)
                    assert other.recv(9) == b"second"
                with await next_one.next() as other:
                    next_one.noted(other)
            assert first.recv(9) == b""
            next_one.close()
        corridor.close()

    asyncio.run(main())
    assert descriptors() == before


def test_one_that_listens_takes_what_comes(tmp_path: Path) -> None:
    async def main() -> None:
        entrance = Entrance(listen(tmp_path / "s"))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(tmp_path / "s"))
            with await entrance.next() as connection:
                entrance.noted(connection)
        entrance.close()

    asyncio.run(main())


def test_a_corridor_without_room_for_descriptors_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        corridor = Corridor(listen(tmp_path / "s"))
        entrance = Entrance(corridor.outlet.dup())
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(tmp_path / "s"))
            await asyncio.sleep(0.1)
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
            try:
                with pytest.raises(OSError, match="Too many open files"):
                    await entrance.next()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            with await entrance.next() as connection:
                entrance.noted(connection)
        entrance.close()
        corridor.close()
        closed = Entrance(corridor_end())
        with pytest.raises(ConnectionAbortedError):
            await closed.next()
        closed.close()

    asyncio.run(main())


def corridor_end() -> socket.socket:
    """Of which the other end is gone."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    return ours
