"""Which inodes somebody in this guest watches, by inotify or fanotify: it stands in /proc/PID/fdinfo."""

from __future__ import annotations

import os
import re
import threading
import time
from typing import FrozenSet, Optional, Set

FRESH = 0.1  # seconds for which a look at all processes is believed
_INODES = re.compile(rb"^(?:inotify wd:\S+|fanotify) ino:([0-9a-f]+) ", re.MULTILINE)
_EVERYWHERE = re.compile(rb"^fanotify mnt_id:|^fanotify sdev:", re.MULTILINE)
_GROUPS = ("anon_inode:inotify", "anon_inode:[fanotify]")


def watched_inodes() -> Optional[FrozenSet[int]]:
    """Inode numbers, of whatever file system; None where somebody watches a whole mount."""
    found: Set[int] = set()
    for process in os.listdir("/proc"):
        if not process.isdigit():
            continue
        try:
            descriptors = os.listdir("/proc/%s/fd" % process)
        except OSError:
            continue
        for descriptor in descriptors:
            try:
                if os.readlink("/proc/%s/fd/%s" % (process, descriptor)) not in _GROUPS:
                    continue
                with open("/proc/%s/fdinfo/%s" % (process, descriptor), "rb") as file:
                    said = file.read()
            except OSError:
                continue
            if _EVERYWHERE.search(said):
                return None
            found.update(int(number, 16) for number in _INODES.findall(said))
    return frozenset(found)


class Watches:
    """What is watched, as far as that is known to be so now. Looks at the processes in a thread of its own, and only
    when it is asked; until it knows, everything is watched."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._inodes: Optional[FrozenSet[int]] = None
        self._looking = False

    def nobody(self, *inodes: int) -> bool:
        """True where none of the inodes is watched."""
        with self._lock:
            fresh = time.monotonic() - self._looked < FRESH
            if not fresh and not self._looking:
                self._looking = True
                threading.Thread(target=self._look, daemon=True).start()
            return fresh and self._inodes is not None and self._inodes.isdisjoint(inodes)

    def _look(self) -> None:
        begun = time.monotonic()
        inodes = watched_inodes()
        with self._lock:
            self._looked, self._inodes, self._looking = begun, inodes, False
