"""QEMU's own input devices, driven as people drive them: over VNC, and by QMP."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peers import BenchError

AXIS_MAX = 32767  # of QEMU's absolute axes, and of ours
Move = Callable[[int, int, bool], None]
"""Has the pointer stand at (x, y), 0 to AXIS_MAX each, with the left button down or up: one frame in the guest."""


class Vnc:
    """A client of QEMU's VNC server (RFB 3.8) that sends pointer events and takes no pictures."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(os.fspath(path))
        if not self._read(12).startswith(b"RFB 003."):
            raise BenchError("QEMU's VNC server does not speak RFB 3")
        self._socket.sendall(b"RFB 003.008\n")
        if 1 not in self._read(self._read(1)[0]):
            raise BenchError("QEMU's VNC server wants a password")
        self._socket.sendall(b"\x01")  # no security
        if any(self._read(4)):
            raise BenchError("QEMU's VNC server refuses")
        self._socket.sendall(b"\x01")  # shared
        self._width, self._height, *_, name = struct.unpack(">HH16sI", self._read(24))
        self._read(name)
        # Without SetEncodings QEMU may take the pointer for a relative one.
        self._socket.sendall(struct.pack(">BxHii", 2, 2, 0, -257))

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += self._socket.recv(size - len(data)) or self._ended()
        return data

    def _ended(self) -> bytes:
        raise BenchError("QEMU's VNC server hangs up")

    @property
    def steps(self) -> tuple[int, int]:
        """The positions that a pointer event can name: by two, the axes are coarser than the devices'."""
        return self._width, self._height

    def move(self, x: int, y: int, pressed: bool = False) -> None:
        place = x * (self._width - 1) // AXIS_MAX, y * (self._height - 1) // AXIS_MAX
        self._socket.sendall(struct.pack(">BBHH", 5, int(pressed), *place))

    def close(self) -> None:
        self._socket.close()


class Monitor:
    """A QMP client that waits for each answer, as any does."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(os.fspath(path))
        self._file = self._socket.makefile("rb")
        self._file.readline()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: object) -> Any:
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            said = json.loads(self._file.readline())
            if "error" in said:
                raise BenchError(f"QEMU: {said['error']['desc']}")
            if "return" in said:
                return said["return"]

    def move(self, x: int, y: int, pressed: bool = False) -> None:
        events: list[dict[str, object]] = [
            {"type": "abs", "data": {"axis": axis, "value": value}} for axis, value in (("x", x), ("y", y))
        ]
        events.append({"type": "btn", "data": {"button": "left", "down": pressed}})
        self.execute("input-send-event", events=events)

    def drive(self, name: str) -> None:
        """The absolute pointer that VNC and QMP move from now on, by QEMU's name for it."""
        mice = self.execute("query-mice")
        index = next((mouse["index"] for mouse in mice if mouse["name"] == name), None)
        if index is None:
            raise BenchError(f"QEMU has no pointer {name!r}, only {[mouse['name'] for mouse in mice]}")
        self.execute("human-monitor-command", **{"command-line": f"mouse_set {index}"})

    def close(self) -> None:
        self._file.close()
        self._socket.close()
