"""How a benchmark reaches its program in a booted guest."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from subos_devices.errors import SubosError
from subos_devices.vsock import client


def reached(path: Path, port: int, timeout: float) -> socket.socket:
    """A stream to the program that listens on `port`, or is just starting: within `timeout` seconds. Raises
    SubosError."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return client.connect(path, port)
        except SubosError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
