"""One device of the host on its way to one of the guest's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from subos_protocol.input_codes import Abs, Ev
from subos_protocol.virtio_input import virtio_input_event

from ..capabilities import Capabilities
from ..driver_socket import FORCE, LED, LEDS
from ..monitors import Reach
from ..paced import Paced
from ..pad_extras import PadExtras
from ..rumble import PadRumble
from .chord import Chord
from .frames import FrameReader
from .host import HostDevice, lights_of
from .link import Link
from .mapper import Mapper
from .mapping import Mapping
from .pads import pad_routes
from .rules import Rule
from .state import DeviceState
from .translation import Translation

BATTERY_SECONDS = 20.0
"""How often a pad's battery is looked at."""

LIGHT_SECONDS = 1 / 30
"""How often a pad's lights are set at most: a guest's programs may change them much more often."""


class Target(NamedTuple):
    """A device of the guest, and the socket for its drivers."""

    name: str
    kind: str
    path: Path
    capabilities: Capabilities


class Owner(NamedTuple):
    """What a forwarding tells of."""

    chord: Callable[[], None]
    unplugged: Callable[[Forwarding, OSError], None]
    """It cannot be read any more, and why: ENODEV where it is gone."""
    unserved: Callable[[Forwarding, str], None]
    """The guest's device is gone, and why."""
    warn: Callable[[str], None]


class Forwarding:
    """Reads `device` on the running event loop. It forwards while it is active, which it is not at first."""

    def __init__(self, device: HostDevice, rule: Rule, target: Target, owner: Owner) -> None:
        self.device = device
        self.rule = rule
        self.target = target
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._chord = Chord()
        self._reader = FrameReader(device)
        self._wants_grab = False
        self._reach: Reach | None = None
        self._link: Link | None = None
        self._tick: asyncio.TimerHandle | None = None
        self._rumble: PadRumble | None = None
        self._lights: dict[int, int] = {}  # as the guest wants them
        self._extras = PadExtras(device.path)
        self._extra_lights = Paced(self._show, LIGHT_SECONDS)
        self._battery: asyncio.TimerHandle | None = None
        self._has_warned = False
        self._mapper: Mapper
        self._translation: Translation
        self._loop.add_reader(device.fd, self._read)

    def activate(self) -> None:
        """Begins to forward. What is held by now was pressed for somebody else. Raises OSError where the device is
        gone."""
        axes = self._reader.begin().axes
        self._lights = {}
        self._mapper = Mapper(self.device.capabilities, self._mapping())
        self._translation = Translation(self._mapper.capabilities, self.target.capabilities)
        self._link = Link(self.target.path, self._hear, self._silence, self._lose_target)
        self._forward(DeviceState().difference(DeviceState(axes=axes)))
        self._wants_grab = self.rule.grab
        self._grab_when_idle()
        if self.target.capabilities.battery:
            self._tell_battery()

    @property
    def active(self) -> bool:
        return self._link is not None

    def aim(self, reach: Reach) -> None:
        """From now on it points at a monitor that lies there; what it points at already, too."""
        if reach == self._reach:
            return
        self._reach = reach
        places = DeviceState().difference(self._reader.known)
        self._forward([event for event in places if event.type == Ev.EV_ABS and event.code != Abs.ABS_MT_TRACKING_ID])

    def _mapping(self) -> Mapping:
        """The rule's own; where it moves no control, what one make of pad has otherwise than the other."""
        mapping = self.rule.mapping
        if mapping.routes:
            return mapping
        return mapping._replace(routes=pad_routes(self.device.capabilities, self.target.capabilities))

    def pause(self) -> None:
        """Gives the device back to the host; the guest's is released."""
        self._wants_grab = False
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        if self._battery is not None:
            self._battery.cancel()
            self._battery = None
        if self._link is not None:
            self._link.close()
            self._link = None
        self._silence()
        self._extra_lights.cancel()
        self._extras.restore()
        self.device.release()

    def close(self) -> None:
        """The end; the host's device is closed."""
        self.pause()
        self._loop.remove_reader(self.device.fd)
        if self._rumble is not None:
            self._rumble.close()
        self.device.close()

    # --- from the host

    def _read(self) -> None:
        try:
            for frame in self._reader.read():
                self._happened(frame.events)
            self._grab_when_idle()
        except OSError as error:
            self._owner.unplugged(self, error)

    def _happened(self, frame: Sequence[virtio_input_event]) -> None:
        chords = [self._chord.note(event) for event in frame]
        self._forward(frame)
        if any(chords):
            self._owner.chord()

    def _grab_when_idle(self) -> None:
        """A key that is down when we grab would stay down for the host: it never hears of the release."""
        if not self._wants_grab or self._reader.known.keys:
            return
        self._wants_grab = False
        try:
            self.device.grab()
        except OSError as error:
            self._owner.warn(f"{self.device} cannot be grabbed: {error.strerror}; another program has it")
        self._light()

    # --- to the guest

    def _forward(self, frame: Sequence[virtio_input_event]) -> None:
        if self._link is None:
            return
        self._send(self._mapper.frame(frame, self._loop.time()))
        self._set_tick()

    def _send(self, frame: Sequence[virtio_input_event]) -> None:
        translated = self._translation.frame(frame)
        if self._reach is not None:
            translated = self._reach.place(translated)
        if translated and self._link is not None:
            self._link.send(translated)

    def _set_tick(self) -> None:
        when = self._mapper.next_tick
        if self._tick is not None:
            self._tick.cancel()
        self._tick = None if when is None else self._loop.call_at(when, self._on_tick)

    def _on_tick(self) -> None:
        self._send(self._mapper.tick(self._loop.time()))
        self._set_tick()

    def _tell_battery(self) -> None:
        battery = self._extras.battery()
        if battery and self._link is not None:
            self._link.send(battery)
        self._battery = self._loop.call_later(BATTERY_SECONDS, self._tell_battery)

    # --- from the guest

    def _hear(self, said: dict[str, Any]) -> None:
        lights = said.get(LEDS)
        if isinstance(lights, dict):
            self._lights = lights_of(lights)
            self._light()
        if FORCE in said:
            self._feel(said[FORCE])
        if LED in said:
            self._extra_lights.put(said[LED])

    def _show(self, said: object) -> None:
        try:
            self._extras.show(said)
        except OSError as error:
            self._warn_once(f"the colour of {self.device} cannot be set: {error.strerror}")

    def _light(self) -> None:
        """A grabbed device's lights are the guest's, otherwise they are the host's."""
        if self.device.grabbed:
            try:
                self.device.light(self._lights)
            except OSError as error:
                self._warn_once(f"the lights of {self.device} cannot be set: {error.strerror}")

    def _feel(self, said: object) -> None:
        can = self.device.capabilities.of(Ev.EV_FF)
        try:
            if self._rumble is None and can:
                self._rumble = PadRumble(self.device.path, can)
        except OSError as error:
            self._warn_once(f"{self.device} cannot rumble: {error.strerror}")
        if self._rumble is not None:
            self._rumble.feel(said)

    def _warn_once(self, message: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._owner.warn(message)

    def _silence(self) -> None:
        """Nobody is there who would end what plays."""
        if self._rumble is not None:
            self._rumble.silence()

    def _lose_target(self, reason: str) -> None:
        self._owner.unserved(self, reason)
