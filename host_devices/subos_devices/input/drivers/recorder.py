"""Writes down what a device of this host does."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from ...errors import UserError
from ..evemu import HEADER, RecordedFrame, describe, write_frame
from .frames import FrameReader
from .host import PERMISSION_HINT, HostDevice, paths
from .rules import Rule
from .state import DeviceState


def find(rule: Rule | None) -> list[HostDevice]:
    """The devices that `rule` is about, or all that may be read. Raises UserError where there is none."""
    found = []
    forbidden = 0
    for path in paths():
        try:
            device = HostDevice(path)
        except PermissionError:
            forbidden += 1
            continue
        except OSError:
            continue
        if rule is None or rule.matches(device.identity, device.path):
            found.append(device)
        else:
            device.close()
    if not found:
        what = "no input device" if rule is None else f"no input device {rule}"
        raise UserError(
            f"{what} of this host can be read",
            PERMISSION_HINT if forbidden else "subos-devices input devices lists them",
        )
    return found


class Recorder:
    """Of the one of `devices` that does something first; they are closed in the end.

    Lives on the running event loop.
    """

    def __init__(self, devices: list[HostDevice], say: Callable[[str], None]) -> None:
        self._say = say
        self._devices = devices
        self._chosen = False  # whether the one that is left is recorded
        self._file: TextIO
        self._began: int | None = None
        self._end: asyncio.Future[None]
        self.frames = 0

    async def run(self, file: TextIO) -> None:
        """Records until it is cancelled, or the device is gone."""
        self._file = file
        loop = asyncio.get_running_loop()
        self._end = loop.create_future()
        readers = {device: FrameReader(device) for device in self._devices}
        for device, reader in readers.items():
            loop.add_reader(device.fd, self._read, device, reader)
        try:
            if len(self._devices) == 1:
                self._begin(self._devices[0], readers[self._devices[0]])
            else:
                self._say("the first device on which something happens is recorded")
            await self._end
        finally:
            self._keep_only(None)
            file.flush()

    def _keep_only(self, device: HostDevice | None) -> None:
        for other in self._devices.copy():
            if other is not device:
                self._leave(other)

    def _leave(self, device: HostDevice) -> None:
        self._devices.remove(device)
        asyncio.get_running_loop().remove_reader(device.fd)
        device.close()

    def _begin(self, device: HostDevice, reader: FrameReader) -> None:
        self._chosen = True
        self._keep_only(device)
        self._file.write(HEADER + describe(device.capabilities))
        # Not after it is said: who asks the kernel for the keys is told no more of those that were pressed before.
        place = DeviceState().difference(DeviceState(axes=reader.begin().axes))
        self._say(f"recording {device}; Ctrl-C ends it")
        if place:  # where its axes are when it begins, as its first event
            self._write(RecordedFrame(0, place))

    def _read(self, device: HostDevice, reader: FrameReader) -> None:
        if device not in self._devices:  # an event of the round in which another one was chosen
            return
        try:
            for frame in reader.read():
                if not self._chosen:
                    self._begin(device, reader)
                if self._began is None:
                    self._began = frame.time
                self._write(frame._replace(time=max(0, frame.time - self._began)))
            self._file.flush()
        except OSError as error:
            if not self._chosen and len(self._devices) > 1:
                self._leave(device)
            else:
                self._finish(device, error)

    def _write(self, frame: RecordedFrame) -> None:
        self._file.write(write_frame(frame))
        self.frames += 1

    def _finish(self, device: HostDevice, error: OSError) -> None:
        if self._end.done():
            return
        if error.errno == errno.ENODEV:
            self._say(f"{device} is gone")
            self._end.set_result(None)
        else:
            self._end.set_exception(error)


def open_file(path: Path) -> TextIO:
    """A new file; nothing is written over. Raises UserError."""
    try:
        return path.open("x", encoding="utf-8")
    except FileExistsError as error:
        raise UserError(f"{path} is there already", "choose another name, or remove it first") from error
    except OSError as error:
        raise UserError(f"{path} cannot be made: {error.strerror}") from error
