"""The virtio-input device that stands for the same pad, and that steps aside while we have it: its driver is unbound.

What is unbound is recorded, so that whoever comes after an agent that was killed gives it back.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
from pathlib import Path
from typing import Dict, Optional

DEVICES = "bus/virtio/devices"
DRIVER = "bus/virtio/drivers/virtio_input"
_DEVICE = re.compile(r"virtio[0-9]+")

log = logging.getLogger("subos-agent")


class Twins:
    def __init__(self, sysfs: Path = Path("/sys"), records: Path = Path("/run/subos/gamepads")) -> None:
        self._sysfs = sysfs
        self._driver = sysfs / DRIVER
        self._records = records

    def find(self, serial: str) -> Optional[str]:
        """The virtio device of the input device whose serial is `serial`, if the driver has one."""
        for uniq in sorted(self._driver.glob("virtio*/input/input*/uniq")):
            with contextlib.suppress(OSError):  # just gone
                if uniq.read_text("utf-8", "replace").rstrip("\n") == serial:
                    return uniq.parts[-4]
        return None

    def is_there(self, device: str) -> bool:
        """Whether `device` is plugged, with a driver or without."""
        return (self._sysfs / DEVICES / device).exists()

    def recorded(self) -> Dict[str, str]:
        """Serial → virtio device, of those that were unbound and not yet given back."""
        found = {}
        with contextlib.suppress(FileNotFoundError):
            for record in self._records.iterdir():
                if _DEVICE.fullmatch(record.name):
                    found[record.read_text("utf-8", "replace")] = record.name
        return found

    def part(self, serial: str, device: str) -> None:
        """Takes the driver away from `device`, if it has one. Raises OSError."""
        self._records.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._records / device).write_text(serial, "utf-8")
        if (self._driver / device).exists():
            _write(self._driver / "unbind", device)

    def give_back(self, device: str) -> None:
        """Gives `device` its driver again, if it is still there."""
        try:
            _write(self._driver / "bind", device)
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.EBUSY, errno.EEXIST):  # gone; bound already
                log.warning("%s does not get its driver again: %s", device, error.strerror)
        self._forget(device)

    def _forget(self, device: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self._records / device).unlink()


def _write(attribute: Path, text: str) -> None:
    """One write, as sysfs wants it."""
    fd = os.open(attribute, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
