"""Finding the X server that DISPLAY names, and logging in (X(7), "Display Names")."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from typing import List, NamedTuple, Optional, Tuple

from . import setup
from .authority import COOKIE, MAX_FILE, Family, cookie
from .setup import Setup
from .wire import WireError

SOCKET = "/tmp/.X11-unix/X{}"
FIRST_PORT = 6000
_NAME = re.compile(
    r"(?:(?P<protocol>tcp|unix)/)?(?P<host>[-:.\w]*|\[[\w:.%]+\]):(?P<number>\d{1,5})(?:\.(?P<screen>\d{1,3}))?",
    re.ASCII,
)

Address = Tuple[Family, bytes]


class Display(NamedTuple):
    host: str  # empty for a Unix socket of this machine
    number: int
    screen: int


def parse(name: str) -> Display:
    """Raises ValueError."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"{name!r} is no display" if name else "DISPLAY is not set")
    protocol, host = found["protocol"], found["host"].strip("[]")
    number = int(found["number"])
    if protocol == "unix" or host == "unix":
        host = ""
    elif protocol == "tcp" and not host:
        raise ValueError(f"{name!r} names no host")
    if host and FIRST_PORT + number > 0xFFFF:
        raise ValueError(f"{name!r} is no display")
    return Display(host, number, int(found["screen"] or 0))


async def log_in(name: Optional[str]) -> Tuple[socket.socket, Setup]:
    """A connection that takes requests; `name` as in DISPLAY, which is taken where it is None.

    Raises ValueError (WireError is one) and OSError.
    """
    display = parse(os.environ.get("DISPLAY", "") if name is None else name)
    loop = asyncio.get_running_loop()
    opened = await (_connect_tcp(display) if display.host else _connect_unix(display))
    try:
        secret = cookie(_authority(), _addresses(opened), display.number)
        await loop.sock_sendall(opened, setup.pack_request(COOKIE if secret else b"", secret))
        header = await _receive(opened, setup.HEADER.size)
        rest = await _receive(opened, setup.rest_size(header))
        return opened, setup.unpack_answer(header, rest, display.screen)
    except BaseException:
        opened.close()
        raise


async def _connect_unix(display: Display) -> socket.socket:
    path = SOCKET.format(display.number)
    try:
        return await _connect(socket.AF_UNIX, path)
    except OSError as error:
        try:
            return await _connect(socket.AF_UNIX, "\0" + path)
        except OSError:
            raise error from None


async def _connect_tcp(display: Display) -> socket.socket:
    found = await asyncio.get_running_loop().getaddrinfo(
        display.host, FIRST_PORT + display.number, type=socket.SOCK_STREAM
    )
    failed: Optional[OSError] = None
    for family, _, _, _, address in found:
        try:
            opened = await _connect(family, address)
        except OSError as error:
            failed = failed or error
        else:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return opened
    raise failed or OSError(f"{display.host} has no address")


async def _connect(family: int, address: object) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(opened, address)  # type: ignore[arg-type]
    except BaseException:
        opened.close()
        raise
    return opened


async def _receive(opened: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        more = await loop.sock_recv(opened, size - len(data))
        if not more:
            raise WireError("it hangs up")
        data += more
    return data


def _authority() -> bytes:
    """The content of the Xauthority file; nothing where it cannot be read: some servers ask for none."""
    try:
        with open(os.environ.get("XAUTHORITY") or os.path.expanduser("~/.Xauthority"), "rb") as file:
            return file.read(MAX_FILE)
    except OSError:
        return b""


def _addresses(opened: socket.socket) -> List[Address]:
    """By what the server is known in an Xauthority file."""
    local = Family.Local, os.fsencode(socket.gethostname())
    if opened.family == socket.AF_UNIX:
        return [local]
    family = Family.Internet6 if opened.family == socket.AF_INET6 else Family.Internet
    address = socket.inet_pton(opened.family, opened.getpeername()[0].partition("%")[0])
    if family == Family.Internet6 and address.startswith(bytes(10) + b"\xff\xff"):
        family, address = Family.Internet, address[12:]
    # ssh forwards a display as localhost:10, and keeps its secret as this host's.
    loops = (address[0] == 127) if family == Family.Internet else address == bytes(15) + b"\x01"
    return [(family, address), *([local] if loops else [])]
