"""In the guest: does what the host says, over one channel. `work.py vsock PORT | serial NAME`

A line says what: `echo N SIZE`, `sink SIZE` (a byte when all has come), `source SIZE`. Standard library alone.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

BLOCK = 64 << 10
SNDBUF = 1 << 20  # cut to twice net.core.wmem_max


class Channel:
    """A stream: `fd` is blocking."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def read(self, size: int) -> None:
        """Takes exactly `size` bytes."""
        while size:
            data = os.read(self.fd, min(size, BLOCK))
            if not data:
                sys.exit("the channel ended")
            size -= len(data)

    def line(self) -> str:
        text = b""
        while not text.endswith(b"\n"):
            byte = os.read(self.fd, 1)
            if not byte:
                sys.exit(0)
            text += byte
        return text.decode()

    def write(self, data: memoryview) -> None:
        while data:
            data = data[os.write(self.fd, data) :]


def opened(kind: str, name: str) -> Channel:
    if kind == "vsock":
        listener = socket.socket(socket.AF_VSOCK)
        listener.bind((socket.VMADDR_CID_ANY, int(name)))
        listener.listen()
        sock, _ = listener.accept()
        # As any program should that moves much: Linux wakes a sender only when less than half of this is on its way.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SNDBUF)
        return Channel(sock.detach())
    for port in Path("/sys/class/virtio-ports").iterdir():
        if (port / "name").read_text().strip() == name:
            return Channel(os.open(f"/dev/{port.name}", os.O_RDWR))
    sys.exit(f"no port is called {name}")


def serve(channel: Channel) -> None:
    block = memoryview(os.urandom(BLOCK))
    while True:
        what, *numbers = channel.line().split()
        sizes = list(map(int, numbers))
        if what == "echo":
            for _ in range(sizes[0]):
                channel.read(sizes[1])
                channel.write(block[: sizes[1]])
        elif what == "sink":
            channel.read(sizes[0])
            channel.write(block[:1])
        elif what == "source":
            left = sizes[0]
            while left:
                part = block[: min(left, BLOCK)]
                channel.write(part)
                left -= len(part)


serve(opened(sys.argv[1], sys.argv[2]))
