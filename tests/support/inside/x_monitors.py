"""Makes monitors on an X server, as `xrandr --setmonitor` does it (RRSetMonitor of RandR 1.5).

x_monitors.py DISPLAY MONITORS        a JSON object, {name: [x, y, width, height]}
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import sys
from collections.abc import AsyncIterator, Sequence

from subos_desktop.clipboard.x11 import requests, wire
from subos_desktop.clipboard.x11.connection import Connection
from subos_desktop.monitors import x11

RR_SET_CRTC_CONFIG, RR_GET_SCREEN_RESOURCES, RR_SET_MONITOR = 21, 25, 43
_SET_CRTC = struct.Struct("=BBHIIIhhIHxx")
_SET_MONITOR = struct.Struct("=BBHIIBBHhhHHII")


async def set_monitors(display: str, monitors: dict[str, Sequence[int]]) -> None:
    """{name: (x, y, width, height)}; the first one shows on the server's one output, and so is instead of its own."""
    async with _server(display) as (connection, randr):
        _, outputs = await _resources(connection, randr)
        for name, area in monitors.items():
            atom = await connection.ask(requests.intern_atom(name), wire.unpack_number)
            connection.send(
                _SET_MONITOR.pack(
                    *(randr, RR_SET_MONITOR, (_SET_MONITOR.size + 4 * len(outputs)) // 4, connection.root),
                    *(atom, False, False, len(outputs), *area, *area[2:]),
                )
                + requests.words(outputs)
            )
            outputs = []
        await connection.ask(requests.get_selection_owner(1), wire.unpack_number)  # by then it is done


async def switch_off(display: str) -> None:
    """The server's one CRTC."""
    async with _server(display) as (connection, randr):
        [crtc], _ = await _resources(connection, randr)
        await connection.ask(_SET_CRTC.pack(randr, RR_SET_CRTC_CONFIG, 7, crtc, 0, 0, 0, 0, 0, 1), lambda reply: None)


@contextlib.asynccontextmanager
async def _server(display: str) -> AsyncIterator[tuple[Connection, int]]:
    """A connection, and RandR's number."""
    connection = Connection(display, lambda event: None, lambda reason: None)
    await connection.open()
    try:
        yield connection, (await connection.ask(requests.query_extension(x11.RANDR), wire.unpack_extension)).major
    finally:
        connection.close()


async def _resources(connection: Connection, randr: int) -> tuple[list[int], list[int]]:
    """CRTCs, outputs."""

    def unpack(reply: wire.Reply) -> tuple[list[int], list[int]]:
        crtcs, outputs = struct.unpack_from("=16xHH", reply.head)
        found = list(struct.unpack_from(f"={crtcs + outputs}I", reply.body))
        return found[:crtcs], found[crtcs:]

    return await connection.ask(struct.pack("=BBHI", randr, RR_GET_SCREEN_RESOURCES, 2, connection.root), unpack)


if __name__ == "__main__":
    asyncio.run(set_monitors(sys.argv[1], json.loads(sys.argv[2])))
