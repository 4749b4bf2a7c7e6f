"""Which backend fits this desktop, found by trying."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Callable, Dict, List, Mapping, Optional

from .interface import Clipboard, ClipboardError, NoServer, Unavailable

Environment = Mapping[str, str]


@dataclass(frozen=True)
class Choice:
    """A connected clipboard, and why it is this one."""

    clipboard: Clipboard
    reason: str


@dataclass(frozen=True)
class Finding:
    """What came of trying a backend."""

    name: str
    works: bool
    detail: str
    hint: str = ""


def _wayland(environment: Environment, marker: Optional[str]) -> Clipboard:
    if not environment.get("WAYLAND_DISPLAY"):
        raise NoServer("WAYLAND_DISPLAY is not set", "start it from within the session")
    from .wayland import WaylandClipboard

    return WaylandClipboard(environment["WAYLAND_DISPLAY"], environment.get("XDG_RUNTIME_DIR"), marker)


def _x11(environment: Environment, marker: Optional[str]) -> Clipboard:
    if not environment.get("DISPLAY"):
        raise NoServer("DISPLAY is not set", "start it from within the session")
    from .x11 import X11Clipboard

    return X11Clipboard(environment["DISPLAY"], marker)


def _pyperclip(environment: Environment, marker: Optional[str]) -> Clipboard:
    from .polling import PyperclipClipboard

    return PyperclipClipboard(marker)


def _memory(environment: Environment, marker: Optional[str]) -> Clipboard:
    from .memory import MemoryClipboard

    return MemoryClipboard(marker)


BACKENDS: Dict[str, Callable[[Environment, Optional[str]], Clipboard]] = {
    "wayland": _wayland,
    "x11": _x11,
    "pyperclip": _pyperclip,
    "memory": _memory,
}
DISPLAY_SERVERS = 2  # of them: Wayland and X11
BY_ITSELF = ("wayland", "x11", "pyperclip")  # in this order; memory is nobody's desktop


async def choose(
    name: Optional[str] = None, marker: Optional[str] = None, environment: Optional[Environment] = None
) -> Choice:
    """Connects the backend of this name, else the best that works. Raises Unavailable, which names every obstacle.

    Under a Wayland compositor without data-control (GNOME's Mutter) that is the X server XWayland, whose
    clipboard such a compositor keeps equal to its own.
    """
    environment = os.environ if environment is None else environment
    if name is not None:
        if name not in BACKENDS:
            raise Unavailable(f"there is no clipboard backend {name!r}", f"there are {', '.join(BACKENDS)}")
        return Choice(await _connected(name, environment, marker), "asked for")
    obstacles: List[str] = []
    missing = 0
    for name in BY_ITSELF:
        try:
            if missing == DISPLAY_SERVERS:  # pyperclip would take a server that is gone for an empty clipboard
                raise NoServer("no display server answers", "is this a desktop session?")
            clipboard = await _connected(name, environment, marker)
        except NoServer as error:
            missing += 1
            obstacles.append(f"{name}: {error.message}")
        except ClipboardError as error:
            obstacles.append(f"{name}: {error.message}")
        else:
            return Choice(clipboard, "; ".join([*obstacles, f"{name} works"]))
    raise Unavailable(f"no clipboard: {'; '.join(obstacles)}", "is this a desktop session?")


async def probe(environment: Optional[Environment] = None) -> List[Finding]:
    """What came of trying each backend but memory. Nothing is left behind."""
    environment = os.environ if environment is None else environment
    findings: List[Finding] = []
    for name in BY_ITSELF:
        try:
            clipboard = await _connected(name, environment, None)
        except ClipboardError as error:
            findings.append(Finding(name, False, error.message, error.hint))
        else:
            findings.append(Finding(name, True, clipboard.detail))
            await clipboard.close()
    return findings


async def _connected(name: str, environment: Environment, marker: Optional[str]) -> Clipboard:
    clipboard = BACKENDS[name](environment, marker)
    await clipboard.connect()
    return clipboard
