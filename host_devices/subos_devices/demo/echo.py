"""A program of the guest that sends back whatever it gets over vsock, and streams of the host's to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from ..launcher.devices import vsock_path
from .scene import CheckFailed, Scene, begin

SECONDS = 20  # that an answer may take
PROGRAM = """
import socket, sys, threading
def echo(client):
    with client:
        while data := client.recv(1 << 16):
            client.sendall(data)
listener = socket.socket(socket.AF_VSOCK)
listener.bind((socket.VMADDR_CID_ANY, int(sys.argv[1])))
listener.listen()
print("listening", flush=True)
while True:
    threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()
"""


async def listen(scene: Scene, port: int) -> None:
    """Has the program listen at a port of the guest that has none yet."""
    await begin(scene, f"/run/subos-demo-echo-{port}", PROGRAM, str(port))


@contextlib.asynccontextmanager
async def stream(scene: Scene, port: int) -> AsyncIterator[Stream]:
    """Raises CheckFailed where the device refuses it."""
    reader, writer = await asyncio.open_unix_connection(vsock_path(scene.vm.folder))
    try:
        writer.write(b"CONNECT %d\n" % port)
        if not (answer := await asyncio.wait_for(reader.readline(), SECONDS)).startswith(b"OK "):
            raise CheckFailed(f"the device answered {answer!r}")
        yield Stream(reader, writer)
    finally:
        writer.close()


class Stream:
    """One that is open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def echoed(self, data: bytes) -> bytes:
        """As many bytes as are sent."""
        self._writer.write(data)
        return await asyncio.wait_for(self._reader.readexactly(len(data)), SECONDS)

    async def rest(self) -> bytes:
        """What comes until its end."""
        return await asyncio.wait_for(self._reader.read(), SECONDS)
