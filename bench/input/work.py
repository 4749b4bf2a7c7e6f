"""In the guest: reports what event devices say, over vsock. `work.py PORT`. Standard library alone.

open NAME        "ok", once a device of that name, serial number or place is there
echo NAME        from now on a byte for each frame (what SYN_REPORT ends) of that device
count NAME…      from now on counts; `report` then says what there was, as JSON, and counts on
report
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import time
from pathlib import Path

EVENT = struct.Struct("@llHHi")  # struct input_event
EV_SYN, EV_KEY, EV_REL, EV_ABS, SYN_REPORT, SYN_DROPPED = 0, 1, 2, 3, 0, 3
PATIENCE = 60.0  # seconds until a device is there


class Seen:
    """What one device has reported."""

    def __init__(self) -> None:
        self.frames = self.dropped = 0
        self.presses: dict[int, int] = {}
        self.keys: dict[int, int] = {}
        self.axes: dict[int, int] = {}
        self.sums: dict[int, int] = {}

    def take(self, type_: int, code: int, value: int) -> None:
        if type_ == EV_SYN:
            self.frames += code == SYN_REPORT
            self.dropped += code == SYN_DROPPED
        elif type_ == EV_KEY:
            self.keys[code] = value
            self.presses[code] = self.presses.get(code, 0) + (value == 1)
        elif type_ == EV_ABS:
            self.axes[code] = value
        elif type_ == EV_REL:
            self.sums[code] = self.sums.get(code, 0) + value


def device(name: str) -> int:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for entry in Path("/sys/class/input").glob("event*"):
            if name in ((entry / "device" / what).read_text().strip() for what in ("name", "uniq", "phys")):
                return os.open(f"/dev/input/{entry.name}", os.O_RDONLY | os.O_NONBLOCK)
        time.sleep(0.1)
    raise SystemExit(f"no device is called {name}")


def serve(channel: socket.socket) -> None:
    opened: dict[str, int] = {}
    counted: dict[int, Seen] = {}
    echoed = -1
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    commands = channel.makefile("r")
    while True:
        for fd, _ in poll.poll():
            if fd != channel.fileno():
                events = list(EVENT.iter_unpack(os.read(fd, 64 * EVENT.size)))
                if fd == echoed:
                    ends = sum(event[2:4] == (EV_SYN, SYN_REPORT) for event in events)
                    channel.sendall(b"." * ends)
                if fd in counted:
                    for _, _, type_, code, value in events:
                        counted[fd].take(type_, code, value)
                continue
            word, _, rest = commands.readline().strip().partition(" ")
            if not word:
                return
            if word == "open":
                opened[rest] = device(rest)
                poll.register(opened[rest], select.POLLIN)
                channel.sendall(b"ok\n")
            elif word == "echo":
                echoed, counted = opened[rest], {}
                channel.sendall(b"ok\n")
            elif word == "count":
                echoed, counted = -1, {opened[name]: Seen() for name in rest.split("|")}
                channel.sendall(b"ok\n")
            else:
                names = {fd: name for name, fd in opened.items()}
                said = {names[fd]: vars(seen) for fd, seen in counted.items()}
                channel.sendall(json.dumps(said).encode() + b"\n")


listener = socket.socket(socket.AF_VSOCK)
listener.bind((socket.VMADDR_CID_ANY, int(sys.argv[1])))
listener.listen()
serve(listener.accept()[0])
