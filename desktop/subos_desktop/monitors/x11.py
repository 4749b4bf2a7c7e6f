"""The monitors of an X server, by RandR 1.5: what it calls monitors is what desktops show windows on.

Sources: The X Resize, Rotate and Reflect Extension 1.6 (randrproto.txt); GetGeometry of the core protocol.
"""

from __future__ import annotations

import asyncio
import struct
from typing import AsyncIterator, List, NamedTuple, Tuple

from subos_protocol.monitors import MAX_MONITORS, MAX_NAME, Area, Layout, Monitor

from ..clipboard.interface import Unavailable
from ..clipboard.x11 import requests, wire
from ..clipboard.x11.connection import Connection
from ..clipboard.x11.wire import Reply, WireError, XError

RANDR = "RANDR"
RANDR_VERSION = 1, 5
NOTICES = 2  # kinds of events: RRScreenChangeNotify, RRNotify
_GET_GEOMETRY = 14
_QUERY_VERSION, _SELECT_INPUT, _GET_MONITORS = 0, 4, 42
_CHANGES = 1 << 0 | 1 << 1 | 1 << 2  # of the screen, its CRTCs, its outputs

_RESOURCE = struct.Struct("=BxHI")
_VERSION = struct.Struct("=BBHII")
_SELECT = struct.Struct("=BBHIHxx")
_MONITORS = struct.Struct("=BBHIB3x")
_VERSIONS = struct.Struct("=8xII")
_GEOMETRY = struct.Struct("=16xHH")
_COUNTS = struct.Struct("=12xII")  # monitors, outputs
_MONITOR = struct.Struct("=IBBHhhHHII")  # name, primary, automatic, outputs, place, size, size in mm


class Found(NamedTuple):
    """A monitor, and the atom of its name."""

    name: int
    area: Area


def get_geometry(drawable: int) -> bytes:
    return _RESOURCE.pack(_GET_GEOMETRY, 2, drawable)


def query_version(major: int) -> bytes:
    return _VERSION.pack(major, _QUERY_VERSION, 3, *RANDR_VERSION)


def select_input(major: int, window: int) -> bytes:
    """For every change of the screen and of what shows it."""
    return _SELECT.pack(major, _SELECT_INPUT, 3, window, _CHANGES)


def get_monitors(major: int, window: int) -> bytes:
    """Those that are on."""
    return _MONITORS.pack(major, _GET_MONITORS, 3, window, True)


def unpack_version(reply: Reply) -> Tuple[int, int]:
    major, minor = _VERSIONS.unpack(reply.head[: _VERSIONS.size])
    return major, minor


def unpack_geometry(reply: Reply) -> Area:
    """A window's size."""
    return Area(0, 0, *_GEOMETRY.unpack_from(reply.head))


def unpack_monitors(reply: Reply) -> List[Found]:
    """The first MAX_MONITORS. Raises WireError."""
    count, _ = _COUNTS.unpack_from(reply.head)
    found, place = [], 0
    for _ in range(min(count, MAX_MONITORS)):
        if place + _MONITOR.size > len(reply.body):
            raise WireError("a monitor goes beyond its reply")
        name, _, _, outputs, *area, _, _ = _MONITOR.unpack_from(reply.body, place)
        found.append(Found(name, Area(*area)))
        place += _MONITOR.size + 4 * outputs
    return found


async def layouts(display: str) -> AsyncIterator[Layout]:
    """See `subos_desktop.monitors.layouts`."""
    changed = asyncio.Event()
    connection = Connection(display, lambda event: changed.set(), lambda reason: changed.set())
    await connection.open()
    try:
        major = await _extend(connection)
        last = None
        while True:
            changed.clear()
            layout = await _layout(connection, major)
            if layout != last:
                last = layout
                yield layout
            else:
                await changed.wait()
    except (XError, WireError) as error:
        raise Unavailable(f"the X server's RandR does not work: {error}") from error
    finally:
        connection.close()


async def _extend(connection: Connection) -> int:
    """Has the server tell of changes; the extension's number. Raises Unavailable, XError, Disconnected."""
    found = await connection.ask(requests.query_extension(RANDR), wire.unpack_extension)
    version = await connection.ask(query_version(found.major), unpack_version) if found.present else (0, 0)
    if version < RANDR_VERSION:
        raise Unavailable("the X server lacks RandR 1.5, which tells of monitors", "a newer X server has it")
    connection.expect(range(found.first_event, found.first_event + NOTICES))
    connection.send(select_input(found.major, connection.root))
    return found.major


async def _layout(connection: Connection, major: int) -> Layout:
    """Raises XError, Disconnected."""
    screen, found = await asyncio.gather(
        connection.ask(get_geometry(connection.root), unpack_geometry),
        connection.ask(get_monitors(major, connection.root), unpack_monitors),
    )
    names = await asyncio.gather(
        *(connection.ask(requests.get_atom_name(monitor.name), wire.unpack_name) for monitor in found)
    )
    monitors = (Monitor(name[:MAX_NAME], monitor.area) for name, monitor in zip(names, found))
    return Layout(screen, tuple(monitor for monitor in monitors if screen.holds(monitor.area)))
