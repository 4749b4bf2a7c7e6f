"""A pad of the host's as a HID device of this guest's: the kernel's own driver makes its event devices, its lights and
its battery. Each stream for one of the event devices has a `Port` to it.

The kernel's driver has effects of its own, of which the device hears how strong each motor turns from now on. The host
is told that as one effect, number 0 and without end, which is replaced, played and stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import select
import shutil
import subprocess
from pathlib import Path
from time import monotonic
from typing import Callable, Dict, List, Optional, Sequence, Union

from subos_protocol.effects import Effect, Play, Rumble, Stop, Upload
from subos_protocol.hid_pad import PAD, Hid, Light
from subos_protocol.virtio_input import virtio_input_devids

from .hid_port import Port, Said
from .hid_reports import Reports
from .hidraw import Repeats, node_of
from .playstation import MODELS, Told, mac_of
from .uhid import DEVICE, QUEUE, Asked, GetReport, HidIds, Output, SetReport, Uhid, UhidEvent

COME_UP = 4.0
"""Seconds in which the kernel's driver has made all of it."""
DRIVER = "playstation"
MODULES = ("uhid", "hid-playstation")
LOOK = 0.02
"""Seconds between two looks at it meanwhile."""
CUT = 2000
"""Milliseconds of a rumble whose end may have been lost."""
_PATCHED = 0x8000  # of the version: what the driver adds
_EVENT_DEVICES = 3
_FULL = 257  # a motor's 255 is an effect's 65535
_DARK = Light((0, 0, 0), 0)

log = logging.getLogger("subos-agent")


def load_modules(sysfs: Path = Path("/sys"), device: Path = DEVICE) -> None:
    """Has the kernel load what is needed, as far as it is not there and can be."""
    if device.exists() and (sysfs / "bus/hid/drivers" / DRIVER).exists():
        return
    program = shutil.which("modprobe", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is not None:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run([program, "-qab", *MODULES], timeout=10, stdin=subprocess.DEVNULL, capture_output=True)


class HidPad:
    """The HID device of `hid`. Raises OSError where this guest cannot have one."""

    def __init__(
        self,
        hid: Hid,
        ids: virtio_input_devids,
        sysfs: Path = Path("/sys"),
        uhid: Callable[[], Uhid] = Uhid,
        dev: Path = Path("/dev"),
    ) -> None:
        if hid.model not in MODELS:
            raise OSError(errno.ENODEV, "no such kind of HID device is known here")
        if not (sysfs / "bus/hid/drivers" / DRIVER).exists():
            raise OSError(errno.ENODEV, "the kernel has no hid-playstation")
        self._name = hid.name
        self._model = MODELS[hid.model]
        self._ids = HidIds(ids.bustype, ids.vendor, ids.product, ids.version & ~_PATCHED)
        self._mac = mac_of(hid.pad)
        self._phys = f"subos/{hid.pad}"
        self._sysfs = sysfs
        self._dev = dev
        self._uhid = uhid()
        self._reports = Reports(self._model, self._uhid.input)
        self._motors = (0, 0)
        self._certain = True
        """Whether the motors do what we heard last: the kernel may have had more to say than it keeps."""
        self._light: Optional[Light] = None
        self._ports: Dict[str, Port] = {}
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._folder: Optional[Path] = None
        """The device in sysfs, once it has been found."""
        self._coming_up: Optional[asyncio.TimerHandle] = None
        self._repeats: Optional[Repeats] = None

    # --- its life

    def create(self) -> None:
        """Returns once the driver has made all of it and has heard the first report, which takes some tenths of a
        second. Raises OSError; TimeoutError where it takes too long."""
        uniq = ":".join(f"{byte:02x}" for byte in self._mac)
        self._uhid.create(self._name, self._phys, uniq, self._ids, self._model.descriptor)
        deadline = monotonic() + COME_UP
        poll = select.poll()
        poll.register(self._uhid.fd, select.POLLIN)
        while not self._is_up():
            if monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "hid-playstation does not take it")
            poll.poll(LOOK * 1000)
            self._answer(self._uhid.read())

    def _is_up(self) -> bool:
        """Whether the driver has made all of it and has heard a report; where it has not, that is said again.

        Until its probe is over the kernel drops reports in silence. The battery is there before that, and what it does
        is unknown until the driver has read one (ps_device_register_battery, dualsense_parse_report)."""
        folder = self._folder = self._folder or self._find()
        if (
            folder is None
            or os.path.basename(os.path.realpath(folder / "driver")) != DRIVER
            or len(list(folder.glob("input/input*/event*"))) < _EVENT_DEVICES
        ):
            return False
        for status in folder.glob("power_supply/*/status"):
            with contextlib.suppress(OSError):  # just gone
                if status.read_text().strip() != "Unknown":
                    return True
                self._reports.report()
        return False

    def _find(self) -> Optional[Path]:
        """The device in sysfs."""
        for uevent in (self._sysfs / "bus/hid/devices").glob("*/uevent"):
            with contextlib.suppress(OSError):
                if f"HID_PHYS={self._phys}" in uevent.read_text("utf-8", "replace").splitlines():
                    return uevent.parent
        return None

    def listen(self) -> None:
        """Answers the kernel from now on, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._uhid.fd, self._read)
        self._begin_to_repeat()

    def deafen(self) -> None:
        """Before `close`: what the ports are told from now on is lost."""
        for port in self._ports.values():
            port.end()
        self._ports.clear()
        if self._loop is not None:
            self._loop.remove_reader(self._uhid.fd)
            self._loop = None
        self._stop_timers()

    def _come_up_again(self, deadline: float) -> None:
        """Another driver begins, which knows nothing yet."""
        if self._loop is None:
            return
        if self._is_up():
            self._begin_to_repeat()
        elif monotonic() < deadline:
            self._coming_up = self._loop.call_later(LOOK, self._come_up_again, deadline)

    def _begin_to_repeat(self) -> None:
        """From now on those who read hidraw always hear something."""
        node = None if self._folder is None else node_of(self._folder, self._dev)
        if node is not None:
            try:
                self._repeats = Repeats(self._reports, node)
            except OSError as error:
                log.info("who reads %s is not known: %s", node, error.strerror)

    def _stop_timers(self) -> None:
        if self._coming_up is not None:
            self._coming_up.cancel()
            self._coming_up = None
        if self._repeats is not None:
            self._repeats.end()
            self._repeats = None

    def close(self) -> None:
        """All of it is gone."""
        self._uhid.close()

    # --- its ports

    def attach(self, part: str) -> Port:
        """For the event device `part`."""
        port = self._ports[part] = Port(self._reports, part, self._state() if part == PAD else [])
        return port

    def has(self, port: Port) -> bool:
        return self._ports.get(port.part) is port

    def detach(self, port: Port) -> bool:
        """Whether that was the last one."""
        if self.has(port):
            del self._ports[port.part]
        return not self._ports

    def _state(self) -> List[Said]:
        """What brings a host that knows nothing to where lights and motors are."""
        light: List[Said] = [] if self._light is None else [self._light]
        return light + (self._turning() if any(self._motors) else [])

    # --- what the kernel says

    def _read(self) -> None:
        said = self._answer(self._uhid.read())
        if said and PAD in self._ports:
            self._ports[PAD].say(said)

    def _answer(self, asked: Sequence[Union[Asked, UhidEvent]]) -> List[Said]:
        """What the host is to know of it."""
        said: List[Said] = []
        flooded = len(asked) >= QUEUE
        spoken_of = self._certain  # whether there is reason to think that the motors still turn
        for one in asked:
            if isinstance(one, GetReport):
                self._uhid.reply(one, self._model.feature(one.number, self._mac))
            elif isinstance(one, SetReport):
                self._uhid.refuse(one)
            elif isinstance(one, Output):
                told = self._model.told(one.data)
                spoken_of = spoken_of or told.motors is not None
                said += self._told(told, certain=not flooded)
            elif one in (UhidEvent.UHID_START, UhidEvent.UHID_STOP):
                said += self._rest()
                self._stop_timers()
                if one == UhidEvent.UHID_START and self._loop is not None:
                    self._coming_up = self._loop.call_later(LOOK, self._come_up_again, monotonic() + COME_UP)
        if flooded and spoken_of and any(self._motors) and not any(isinstance(one, Play) for one in said):
            self._certain = False
            said += self._turning()
        return said

    def _rest(self) -> List[Said]:
        """A driver begins or ends: what another one has left turning or lit, nobody would end. The kernel's does not
        stop the motors when it goes."""
        said: List[Said] = [Stop(0)] if any(self._motors) else []
        self._motors, self._certain = (0, 0), True
        if self._light not in (None, _DARK):
            self._light = _DARK
            said.append(_DARK)
        return said

    def _told(self, told: Told, certain: bool) -> List[Said]:
        said: List[Said] = []
        if told.motors is not None and (told.motors != self._motors or (certain and not self._certain)):
            self._motors, self._certain = told.motors, certain
            said += self._turning()
        before = self._light or _DARK
        light = Light(
            before.rgb if told.rgb is None else told.rgb, before.players if told.players is None else told.players
        )
        if light != before:
            self._light = light
            said.append(light)
        return said

    def _turning(self) -> List[Said]:
        """What the motors do now. That they stop is the one thing that must not be missed."""
        if not any(self._motors):
            return [Stop(0)]
        strong, weak = (motor * _FULL for motor in self._motors)
        return [Upload(Effect(0, 0 if self._certain else CUT, 0, 0, Rumble(strong, weak))), Play(0, 1)]
