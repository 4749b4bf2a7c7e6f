"""The outputs of a Wayland compositor, in the places where its desktop has them.

Sources: wayland.xml (wl_output), xdg-output-unstable-v1.xml (wayland-protocols). Where the compositor has no
xdg-output, an output is as large as its mode, turned and divided by its scale.
"""

from __future__ import annotations

import asyncio
import os
from typing import AsyncIterator, Dict, Optional, Tuple

from subos_protocol.monitors import MAX_MONITORS, MAX_NAME, Area, Layout, Monitor, bounding

from ..clipboard.wayland.connection import Connection, Handler, Proxy
from ..clipboard.wayland.protocol import REGISTRY, Interface
from ..clipboard.wayland.wire import Argument

OUTPUT = Interface(
    "wl_output",
    (("release", ""),),
    (
        ("geometry", "iiiiissi"),
        ("mode", "uiii"),
        ("done", ""),
        ("scale", "i"),
        ("name", "s"),
        ("description", "s"),
    ),
)
XDG_OUTPUT = Interface(
    "zxdg_output_v1",
    (("destroy", ""),),
    (("logical_position", "ii"), ("logical_size", "ii"), ("done", ""), ("name", "s"), ("description", "s")),
)
XDG_OUTPUT_MANAGER = Interface("zxdg_output_manager_v1", (("destroy", ""), ("get_xdg_output", "no")), ())
OUTPUT_VERSION, XDG_OUTPUT_VERSION = 4, 3  # that we know
RELEASE_SINCE = 3
CURRENT = 1  # wl_output.mode
TURNED = 1  # in wl_output.transform: by a quarter, or three
MAX_OUTPUTS = 4 * MAX_MONITORS  # that are followed, on or off


class Output:
    """What the compositor has said of one."""

    def __init__(self, number: int, version: int) -> None:
        self.number = number
        self.version = min(OUTPUT_VERSION, version)
        self.proxy: Optional[Proxy] = None
        self.xdg: Optional[Proxy] = None
        self._said: Dict[str, Tuple[Argument, ...]] = {}

    def hear(self, event: str, arguments: Tuple[Argument, ...]) -> None:
        """Of wl_output or xdg_output: where both know a thing, they say the same."""
        if event != "mode" or int(arguments[0] or 0) & CURRENT:
            self._said[event] = arguments

    def monitor(self) -> Optional[Monitor]:
        """None where it shows nothing."""
        area = self._logical() if "logical_size" in self._said else self._physical()
        if area is None or area.width <= 0 or area.height <= 0:
            return None
        name = self._said.get("name", (f"output {self.number}",))[0]
        return Monitor(str(name)[:MAX_NAME], area)

    def _logical(self) -> Area:
        x, y, width, height = _numbers(*self._said.get("logical_position", (0, 0)), *self._said["logical_size"])
        return Area(x, y, width, height)

    def _physical(self) -> Optional[Area]:
        if "geometry" not in self._said or "mode" not in self._said:
            return None
        geometry, mode = self._said["geometry"], self._said["mode"]
        x, y, transform, width, height, scale = _numbers(
            geometry[0], geometry[1], geometry[7], mode[1], mode[2], self._said.get("scale", (1,))[0]
        )
        if transform & TURNED:
            width, height = height, width
        return Area(x, y, width // max(1, scale), height // max(1, scale))


class Outputs:
    """All of them; `changed` is set when something may be other than it was, or the compositor has gone."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.connection = Connection(lambda reason: self.changed.set())
        self._outputs: Dict[int, Output] = {}
        self._manager: Optional[Proxy] = None

    async def open(self, path: str) -> None:
        """Raises NoServer, Disconnected."""
        await self.connection.open(path)
        self._registry = self.connection.display.create("get_registry", REGISTRY, self._registry_event)
        await self.connection.sync()

    def layout(self) -> Optional[Layout]:
        """None where all is off."""
        found = [monitor for output in self._outputs.values() if (monitor := output.monitor()) is not None]
        monitors = tuple(found[:MAX_MONITORS])
        return Layout(bounding(tuple(monitor.area for monitor in found)), monitors) if found else None

    def _registry_event(self, event: str, arguments: Tuple[Argument, ...]) -> None:
        number = int(arguments[0] or 0)
        if event == "global_remove":
            self._remove(number)
        elif arguments[1] == OUTPUT.name and len(self._outputs) < MAX_OUTPUTS:
            self._add(number, int(arguments[2] or 0))
        elif arguments[1] == XDG_OUTPUT_MANAGER.name and self._manager is None:
            version = min(XDG_OUTPUT_VERSION, int(arguments[2] or 0))
            self._manager = self._bind(number, XDG_OUTPUT_MANAGER, version, None)
            for output in self._outputs.values():
                self._ask_logical(output)

    def _add(self, number: int, version: int) -> None:
        output = self._outputs[number] = Output(number, version)

        def hear(event: str, arguments: Tuple[Argument, ...]) -> None:
            output.hear(event, arguments)
            self.changed.set()

        output.proxy = self._bind(number, OUTPUT, output.version, hear)
        if self._manager is not None:
            self._ask_logical(output)

    def _ask_logical(self, output: Output) -> None:
        assert self._manager is not None
        assert output.proxy is not None
        output.xdg = self._manager.create("get_xdg_output", XDG_OUTPUT, output.proxy.handler, output.proxy.number)

    def _remove(self, number: int) -> None:
        output = self._outputs.pop(number, None)
        if output is None:
            return
        if output.xdg is not None:
            output.xdg.destroy()
        if output.proxy is not None:
            output.proxy.handler = None
            if output.version >= RELEASE_SINCE:
                output.proxy.request("release")
        self.changed.set()

    def _bind(self, number: int, interface: Interface, version: int, handler: Optional[Handler]) -> Proxy:
        made = self.connection.make(interface, handler)
        self._registry.request("bind", number, interface.name, version, made.number)
        return made


async def layouts(display: str, runtime_folder: Optional[str]) -> AsyncIterator[Layout]:
    """See `subos_desktop.monitors.layouts`."""
    outputs = Outputs()
    try:
        await outputs.open(os.path.join(runtime_folder or "/", display))
        last = None
        while True:
            outputs.changed.clear()
            await outputs.connection.sync()  # what belongs together has come together
            layout = outputs.layout()
            if layout is not None and layout != last:
                last = layout
                yield layout
            else:
                await outputs.changed.wait()
    finally:
        outputs.connection.close()


def _numbers(*arguments: Argument) -> Tuple[int, ...]:
    return tuple(argument if isinstance(argument, int) else 0 for argument in arguments)
