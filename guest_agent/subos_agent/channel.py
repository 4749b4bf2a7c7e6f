"""The way to the host: vsock, else the virtio-serial port. Opened again and again, for as long as the agent lives."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
from typing import Callable, List, Optional, Tuple

from subos_protocol.agent.peer import Peer

from .control import find_port

VSOCK_PORT = 252
"""Where the host listens for the agent. Below 1024: there it takes only callers with a port below 1024, too."""
SOURCE_PORTS = range(1023, 511, -1)
SERIAL_PORT = "org.subos.agent"
FIRST_RETRY = 0.2
LAST_RETRY = 2.0
"""Seconds between attempts to reach a host that does not answer."""
STEADY_SECONDS = 5.0
"""A connection that lasts so long was a good one: the next attempt after it comes soon."""
CONNECT_SECONDS = 10.0

log = logging.getLogger("subos-agent")

MakePeer = Callable[[bool], Peer]
"""Makes a peer; the argument says whether its transport outlives it (`shared`)."""


async def stay_connected(make: MakePeer, port: Optional[str] = None) -> None:
    """Keeps one peer connected, by virtio-serial `port` (a device) where it is given. Returns only when cancelled."""
    loop, wait, said = asyncio.get_running_loop(), FIRST_RETRY, ""
    while True:
        began = loop.time()
        try:
            peer = await _by_serial(make, port) if port else await _by_any(make)
        except OSError as error:
            if said != str(error):
                log.info("the host cannot be reached: %s", error)
            said = str(error)
        else:
            try:
                await peer.lost()
            finally:
                peer.close()
            if loop.time() - began > STEADY_SECONDS:
                wait, said = FIRST_RETRY, ""
        await asyncio.sleep(wait)
        wait = min(2 * wait, LAST_RETRY)


async def _by_any(make: MakePeer) -> Peer:
    try:
        return await _by_vsock(make)
    except OSError as error:
        try:
            port = find_port(SERIAL_PORT)
        except LookupError:
            raise error from None
        return await _by_serial(make, port)


async def _by_vsock(make: MakePeer) -> Peer:
    if not hasattr(socket, "AF_VSOCK"):
        raise OSError(errno.EAFNOSUPPORT, "this Python knows no vsock")
    sock = bound_socket()
    try:
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        await asyncio.wait_for(loop.sock_connect(sock, (socket.VMADDR_CID_HOST, VSOCK_PORT)), CONNECT_SECONDS)
        peer = make(False)
        await loop.create_connection(lambda: peer, sock=sock)
        return peer
    except asyncio.TimeoutError as error:
        sock.close()
        raise OSError(errno.ETIMEDOUT, "the host does not answer on vsock") from error
    except BaseException:
        sock.close()
        raise


def bound_socket() -> socket.socket:
    """A vsock socket with a port of the privileged ones. Raises OSError."""
    sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    try:
        for number in SOURCE_PORTS:
            try:
                sock.bind((socket.VMADDR_CID_ANY, number))
                return sock
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        raise OSError(errno.EADDRINUSE, "all privileged vsock ports are in use")
    except BaseException:
        sock.close()
        raise


async def _by_serial(make: MakePeer, port: str) -> Peer:
    """A port is a character device, which takes reading and writing by one descriptor; it can be opened once only."""
    descriptor = os.open(port, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISCHR(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENOTTY, "it is no character device", port)
        peer = make(True)
        transport = DeviceTransport(asyncio.get_running_loop(), descriptor, peer)
    except BaseException:
        os.close(descriptor)
        raise
    peer.connection_made(transport)
    return peer


class DeviceTransport(asyncio.Transport):
    """One descriptor of a character device, both ways. asyncio's own pipe transports want one for each."""

    READ_SIZE = 1 << 16

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: int, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._loop = loop
        self._descriptor = descriptor
        self._protocol = protocol
        self._waiting = bytearray()
        self._high = 1 << 16
        self._paused = False
        self._closed = False
        loop.add_reader(descriptor, self._read)

    def set_write_buffer_limits(self, high: Optional[int] = None, low: Optional[int] = None) -> None:
        self._high = 1 << 16 if high is None else high

    def get_write_buffer_size(self) -> int:
        return len(self._waiting)

    def get_write_buffer_limits(self) -> Tuple[int, int]:
        return self._high // 4, self._high

    def is_closing(self) -> bool:
        return self._closed

    def _read(self) -> None:
        if self._closed:
            return
        try:
            data = os.read(self._descriptor, self.READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error)
            return
        if data:
            self._protocol.data_received(data)
        else:
            self._end(None)  # the host has closed its end

    def write(self, data: bytes) -> None:  # type: ignore[override]
        if self._closed:
            return
        if not self._waiting:
            data = data[self._send(data) :]
            if not data or self._closed:
                return
            self._loop.add_writer(self._descriptor, self._write)
        self._waiting += data
        if len(self._waiting) > self._high and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def writelines(self, pieces: List[bytes]) -> None:  # type: ignore[override]
        self.write(b"".join(pieces))

    def _send(self, data: bytes) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._loop.call_soon(self._end, error)
            self._closed = True
            return 0

    def _write(self) -> None:
        del self._waiting[: self._send(bytes(self._waiting[: self.READ_SIZE]))]
        if not self._waiting and not self._closed:
            self._loop.remove_writer(self._descriptor)
        if self._paused and len(self._waiting) <= self._high // 4:
            self._paused = False
            self._protocol.resume_writing()

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.call_soon(self._end, None)

    def _end(self, error: Optional[Exception]) -> None:
        if self._descriptor < 0:
            return
        self._closed = True
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_writer(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1
        self._protocol.connection_lost(error)
