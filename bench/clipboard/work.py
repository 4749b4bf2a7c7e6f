"""In the guest: a program on an X server that copies and pastes what the host says, over vsock. `work.py PORT`

A line says what: `copy MIME SIZE`, `paste MIME` (a byte when the next offer is read), `source SIZE`, `sink SIZE`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator

from subos_desktop.clipboard import CHUNK, Selection
from subos_desktop.clipboard.x11 import X11Clipboard

BLOCK = 64 << 10


async def given(size: int) -> AsyncIterator[bytes]:
    block = os.urandom(CHUNK)
    while size:
        yield block[:size]
        size -= min(size, CHUNK)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async with X11Clipboard(os.environ["DISPLAY"]) as clipboard:
        offers = clipboard.offers()
        writer.write(b"!")
        while line := await reader.readline():
            word, *arguments = line.decode().split()
            if word == "copy":
                mime, size = arguments[0], int(arguments[1])
                await clipboard.offer(Selection.CLIPBOARD, [mime], lambda _mime, size=size: given(size))
            elif word == "paste":
                async for offer in offers:
                    if arguments[0] in offer.formats:
                        break
                async for _ in clipboard.read(Selection.CLIPBOARD, arguments[0], offer.serial):
                    pass
                writer.write(b"!")
            elif word == "source":
                async for chunk in given(int(arguments[0])):
                    writer.write(chunk)
                    await writer.drain()
            else:
                left = int(arguments[0])
                while left:
                    left -= len(await reader.read(min(left, BLOCK)))
                writer.write(b"!")


async def main() -> None:
    listener = socket.socket(socket.AF_VSOCK)
    listener.bind((socket.VMADDR_CID_ANY, int(sys.argv[1])))
    listener.listen()
    listener.setblocking(False)
    connection, _ = await asyncio.get_running_loop().sock_accept(listener)
    reader, writer = await asyncio.open_connection(sock=connection)
    await serve(reader, writer)


asyncio.run(main())
