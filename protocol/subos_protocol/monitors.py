"""Where a desktop has its monitors, so that the host can point at one of them.

    → REQUEST {"op": "monitors"}
    ← EVENT {"desktop": [0, 0, 3840, 1080], "monitors": [{"name": "DP-1", "area": [0, 0, 1920, 1080]}, …]}
      one at once, then one after each change, until the stream is cancelled

Areas are [x, y, width, height] in the desktop's own pixels. `desktop` is what an absolute pointer reaches from the one
end of its axes to the other: an X server's whole screen, or what a Wayland compositor's outputs cover together.
"""

from __future__ import annotations

from typing import Any, Dict, NamedTuple, Tuple

from .errors import Malformed

OPERATION = "monitors"
MAX_MONITORS = 16
MAX_NAME = 64  # characters
MAX_SIDE = 1 << 16  # pixels; X has 16 bits for it
_PLACE = range(-MAX_SIDE, MAX_SIDE)
_SIDE = range(1, MAX_SIDE + 1)


class Area(NamedTuple):
    x: int
    y: int
    width: int
    height: int

    def holds(self, other: Area) -> bool:
        """Whether no part of `other` lies outside."""
        return (
            self.x <= other.x
            and self.y <= other.y
            and other.x + other.width <= self.x + self.width
            and other.y + other.height <= self.y + self.height
        )


class Monitor(NamedTuple):
    name: str
    area: Area


class Layout(NamedTuple):
    """`monitors` in the desktop's own order; none where all are off."""

    desktop: Area
    monitors: Tuple[Monitor, ...]


def pack_layout(layout: Layout) -> Dict[str, Any]:
    """For JSON. Raises Malformed for a layout beyond the limits."""
    said = {
        "desktop": list(layout.desktop),
        "monitors": [{"name": monitor.name, "area": list(monitor.area)} for monitor in layout.monitors],
    }
    unpack_layout(said)
    return said


def unpack_layout(said: Any) -> Layout:
    """Raises Malformed."""
    if not isinstance(said, dict):
        raise Malformed("a layout that is none")
    desktop, monitors = _area(said.get("desktop")), said.get("monitors")
    if not isinstance(monitors, list) or len(monitors) > MAX_MONITORS:
        raise Malformed(f"a layout without monitors, or with more than {MAX_MONITORS}")
    layout = Layout(desktop, tuple(map(_monitor, monitors)))
    if not all(desktop.holds(monitor.area) for monitor in layout.monitors):
        raise Malformed("a monitor outside its desktop")
    return layout


def _monitor(said: Any) -> Monitor:
    name = said.get("name") if isinstance(said, dict) else None
    if not isinstance(name, str) or len(name) > MAX_NAME:
        raise Malformed("a monitor's name that is none")
    return Monitor(name, _area(said.get("area")))


def _area(said: Any) -> Area:
    if not isinstance(said, list) or len(said) != 4 or any(type(number) is not int for number in said):
        raise Malformed("an area that is none")
    area = Area(*said)
    if area.x not in _PLACE or area.y not in _PLACE or area.width not in _SIDE or area.height not in _SIDE:
        raise Malformed("an area that no desktop has")
    return area


def bounding(areas: Tuple[Area, ...]) -> Area:
    """The smallest that holds all of them, of which there is one at least."""
    left, top = min(area.x for area in areas), min(area.y for area in areas)
    right, bottom = max(area.x + area.width for area in areas), max(area.y + area.height for area in areas)
    return Area(left, top, right - left, bottom - top)
