"""Rings that a guest's driver has broken: the front end is told, and they are counted."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import threading

from ..vhost_user.session import Vring

log = logging.getLogger("subos")


class Faults:
    """Those of the device `name`; `count` is how many there were."""

    def __init__(self, name: str) -> None:
        self.count = 0
        self._name = name
        self._telling = threading.Thread()

    def tell(self, vring: Vring, reason: str) -> None:
        """Its err eventfd is written. A worker that says so may be in the guest's hands."""
        self.count += 1
        log.error("%s: the guest's driver broke its ring: %s", self._name, reason)
        if vring.err >= 0 and not self._telling.is_alive():
            # On a thread: it is whatever descriptor the front end gave, and may fill up just before it is written to.
            self._telling = threading.Thread(target=_signal, args=(os.dup(vring.err),), daemon=True)
            self._telling.start()


def _signal(fd: int) -> None:
    """Writes 1 to an eventfd, or to what somebody said was one, and closes it; one that is full has said enough."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    with contextlib.suppress(OSError):
        if poll.poll(0):
            os.write(fd, (1).to_bytes(8, sys.byteorder))
    os.close(fd)
