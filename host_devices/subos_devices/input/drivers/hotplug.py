"""Hears of input devices that come and go, by pyudev; nothing is looked at meanwhile."""

from __future__ import annotations

import os
from types import TracebackType

from ...errors import UserError
from .host import HINT

UDEV = "/run/udev/control"  # there where udevd runs


class Hotplug:
    """A context manager; `fd` is readable when something has changed, until `drain`.

    Raises UserError without pyudev.
    """

    def __init__(self) -> None:
        try:
            import pyudev

            context = pyudev.Context()
        except ImportError as error:  # the package, or libudev.so.1 that it loads
            raise UserError(f"devices that are plugged in cannot be heard of: {error}", HINT) from error
        # udevd speaks after it has set permissions; where there is none, the kernel's own word must do.
        self._monitor = pyudev.Monitor.from_netlink(context, source="udev" if os.path.exists(UDEV) else "kernel")
        self._monitor.filter_by("input")
        self._monitor.start()
        self.fd: int = self._monitor.fileno()

    def drain(self) -> None:
        """What has changed is found by looking: messages can be lost, the folder cannot."""
        while True:
            try:
                if self._monitor.poll(timeout=0) is None:
                    return
            except OSError:  # ENOBUFS: too many came at once
                continue

    def __enter__(self) -> Hotplug:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._monitor  # which closes its socket
