"""The clipboard of a Wayland session, by the data-control protocol: no window, no focus, no other program."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import AsyncIterator, Dict, List, Optional, Sequence, Set, Tuple

from ..formats import MAX_FORMATS, MAX_NAME, from_targets, reader, to_targets, writer
from ..interface import Clipboard, ClipboardError, Disconnected, Provider, Selection, Unavailable
from ..streams import closing, recode
from . import pipes
from .connection import Connection, Proxy
from .protocol import DATA_CONTROLS, REGISTRY, SEAT, DataControl, Interface
from .wire import Argument

MAX_TRANSFERS = 64  # at once; more are refused
MAX_TARGETS = 4 * MAX_FORMATS  # of an offer that are looked at

SET = {Selection.CLIPBOARD: "set_selection", Selection.PRIMARY: "set_primary_selection"}
TOLD = {"selection": Selection.CLIPBOARD, "primary_selection": Selection.PRIMARY}

log = logging.getLogger(__name__)


class WaylandClipboard(Clipboard):
    name = "wayland"

    def __init__(self, display: str, runtime_folder: Optional[str] = None, marker: Optional[str] = None) -> None:
        """As in WAYLAND_DISPLAY and XDG_RUNTIME_DIR."""
        super().__init__(marker)
        self._path = os.path.join(runtime_folder or "/", display)
        self._connection: Optional[Connection] = None
        self._globals: Dict[str, Tuple[int, int]] = {}  # interface: (its name, its version)
        self._offered_by: Dict[Selection, Proxy] = {}
        self._offer_targets: Dict[int, List[str]] = {}  # of each offer of the compositor's that is alive
        self._targets: Dict[Selection, Dict[str, str]] = {}  # of the present offer: format → target to ask for
        self._sources: Dict[Selection, Proxy] = {}  # what we hold
        self._transfers: Set[asyncio.Task[None]] = set()

    # --- opening and closing -----------------------------------------------------------------------------------

    async def connect(self) -> None:
        await self.close()
        connection = Connection(self._disconnected)
        await connection.open(self._path)
        self._lost, self._connection = None, connection
        self._globals.clear()
        try:
            self._registry = connection.display.create("get_registry", REGISTRY, self._registry_event)
            await connection.sync()
            self._control, version = self._find_control()
            self._selections = [
                selection
                for selection in Selection
                if selection is not Selection.PRIMARY or version >= self._control.primary_since
            ]
            seat = self._registry_bind(connection, SEAT.name, SEAT, 1)
            self._manager = self._registry_bind(connection, self._control.manager.name, self._control.manager, version)
            self._device = self._manager.create(
                "get_data_device", self._control.device, self._device_event, seat.number
            )
            await connection.sync()
        except Disconnected as error:
            raise Unavailable(error.message) from error
        except BaseException:
            await self.close()
            raise
        primary = "" if Selection.PRIMARY in self._selections else ", without the primary selection"
        self.detail = f"{self._control.manager.name} version {version}{primary}"

    def _find_control(self) -> Tuple[DataControl, int]:
        """The best data control there is, and the version of it to use. Raises Unavailable."""
        for name, control in DATA_CONTROLS.items():
            if name in self._globals and SEAT.name in self._globals:
                return control, min(control.version, self._globals[name][1])
        raise Unavailable(
            "the Wayland compositor offers no data-control",
            "GNOME's does not: there the clipboard goes by XWayland, which DISPLAY names",
        )

    def _registry_bind(self, connection: Connection, name: str, interface: Interface, version: int) -> Proxy:
        made = connection.make(interface, None)
        self._registry.request("bind", self._globals[name][0], name, version, made.number)
        return made

    def _registry_event(self, event: str, arguments: Tuple[Argument, ...]) -> None:
        wanted = (SEAT.name, *DATA_CONTROLS)
        if event == "global" and arguments[1] in wanted:
            number, interface, version = arguments
            self._globals.setdefault(str(interface), (int(number or 0), int(version or 0)))

    async def close(self) -> None:
        connection = self._connection
        if connection is not None:
            connection.close()

    def _disconnected(self, reason: Disconnected) -> None:
        self._connection = None
        for task in self._transfers:
            task.cancel()
        self._sources.clear()
        self._offered_by.clear()
        self._offer_targets.clear()
        self._lose(reason)

    def _connected(self) -> Connection:
        if self._connection is None:
            raise self._lost or Disconnected("there is no connection to the Wayland compositor")
        return self._connection

    # --- what others hold --------------------------------------------------------------------------------------

    def _device_event(self, event: str, arguments: Tuple[Argument, ...]) -> None:
        connection = self._connected()
        if event == "data_offer":
            self._introduce(connection, arguments[0])
        elif event in TOLD:
            self._changed(connection, TOLD[event], arguments[0])
        elif event == "finished":
            connection.close()

    def _introduce(self, connection: Connection, number: Argument) -> None:
        """A new offer; its formats follow, then what selection it is for."""
        assert isinstance(number, int)
        targets: List[str] = []

        def receive(event: str, arguments: Tuple[Argument, ...]) -> None:
            if len(targets) < MAX_TARGETS and isinstance(arguments[0], str) and len(arguments[0]) <= MAX_NAME:
                targets.append(arguments[0])

        connection.make(self._control.offer, receive, number)
        self._offer_targets[number] = targets

    def _changed(self, connection: Connection, selection: Selection, number: Argument) -> None:
        old = self._offered_by.pop(selection, None)
        if old is not None and old not in self._offered_by.values():
            self._offer_targets.pop(old.number, None)
            old.destroy()
        offer = connection.find(number)
        targets = self._offer_targets.get(offer.number, []) if offer is not None else []
        if offer is not None:
            self._offered_by[selection] = offer
        if self.marker in targets:
            self._forget(selection)
        elif offer is not None or self._offers.get(selection) is not None:
            self._targets[selection] = from_targets(targets)
            self._announce(selection, tuple(self._targets[selection]))

    async def read(self, selection: Selection, mime: str, serial: Optional[int] = None) -> AsyncIterator[bytes]:
        self._offered(selection, mime, serial)
        self._connected()
        target = self._targets[selection][mime]
        ours, theirs = pipes.pipe()
        self._offered_by[selection].request("receive", target, theirs)
        async with closing(recode(pipes.read(ours), reader(target))) as chunks:
            async for chunk in chunks:
                yield chunk

    # --- what we hold ------------------------------------------------------------------------------------------

    async def offer(self, selection: Selection, formats: Sequence[str], provider: Provider) -> None:
        connection = self._connected()
        if selection not in self._selections:
            return
        targets = to_targets(formats)
        source = self._manager.create("create_data_source", self._control.source, None)

        def receive(event: str, arguments: Tuple[Argument, ...]) -> None:
            if event == "cancelled":
                if self._sources.get(selection) is source:
                    del self._sources[selection]
                source.destroy()
            else:
                target, fd = arguments
                assert isinstance(target, str)
                assert isinstance(fd, int)
                self._send(target, targets.get(target), provider, fd)

        source.handler = receive
        for target in (self.marker, *targets):
            source.request("offer", target)
        self._sources[selection] = source
        self._device.request(SET[selection], source.number)
        await connection.sync()
        if self._sources.get(selection) is source:
            self._forget(selection)

    def _send(self, target: str, mime: Optional[str], provider: Provider, fd: int) -> None:
        """Another program pastes: it reads the other end of `fd`."""
        if mime is None or len(self._transfers) >= MAX_TRANSFERS:
            os.close(fd)
            return
        _, recoder = writer(target)
        task = asyncio.get_running_loop().create_task(self._write(fd, mime, recode(provider(mime), recoder)))
        self._transfers.add(task)
        task.add_done_callback(self._transfers.discard)

    async def _write(self, fd: int, mime: str, chunks: AsyncIterator[bytes]) -> None:
        try:
            await pipes.write(fd, chunks)
        except ClipboardError as error:
            log.warning("a paste of %s was broken off: %s", mime, error)  # the program sees an early end

    async def release(self, selection: Selection) -> None:
        connection = self._connected()
        if self._sources.pop(selection, None) is not None:
            self._device.request(SET[selection], None)
            await connection.sync()
