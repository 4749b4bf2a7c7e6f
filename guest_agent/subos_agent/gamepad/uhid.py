"""/dev/uhid: a HID device of a program's, and what the kernel's driver asks of it. Source: the kernel's
include/uapi/linux/uhid.h, Documentation/hid/uhid.rst, drivers/hid/uhid.c.

Whoever asks for a report waits in the kernel until it is answered, five seconds at most.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from enum import IntEnum
from pathlib import Path
from typing import List, NamedTuple, Union

DEVICE = Path("/dev/uhid")
QUEUE = 31
"""Events that the kernel keeps until they are read; what comes then is lost (drivers/hid/uhid.c, UHID_BUFSIZE)."""
MAX_DESCRIPTOR = 4096  # linux/hid.h, HID_MAX_DESCRIPTOR_SIZE
DATA_MAX = 4096  # UHID_DATA_MAX

_TYPE = struct.Struct("=I")
_CREATE2 = struct.Struct("=128s64s64sHHIIII")  # struct uhid_create2_req, less its descriptor
_REQUEST = struct.Struct("=IBB")  # uhid_get_report_req; uhid_set_report_req begins so
_REPLY = struct.Struct("=IHH")  # uhid_get_report_reply_req, less its data
_SET_REPLY = struct.Struct("=IH")  # uhid_set_report_reply_req
_SIZE = struct.Struct("=H")
_EVENT_SIZE = _TYPE.size + _CREATE2.size + MAX_DESCRIPTOR  # the longest


class UhidEvent(IntEnum):
    """enum uhid_event_type, but for what is obsolete."""

    UHID_DESTROY = 1  # ours: the device goes
    UHID_START = 2  # a driver has it
    UHID_STOP = 3
    UHID_OPEN = 4  # somebody listens
    UHID_CLOSE = 5
    UHID_OUTPUT = 6  # a report for the device
    UHID_GET_REPORT = 9  # the kernel's: a report is wanted
    UHID_GET_REPORT_REPLY = 10
    UHID_CREATE2 = 11  # ours: the device comes
    UHID_INPUT2 = 12  # ours: a report of the device
    UHID_SET_REPORT = 13  # the kernel's: a report for the device, and whoever sends it waits
    UHID_SET_REPORT_REPLY = 14


class ReportType(IntEnum):
    """enum uhid_report_type."""

    UHID_FEATURE_REPORT = 0
    UHID_OUTPUT_REPORT = 1
    UHID_INPUT_REPORT = 2


class HidIds(NamedTuple):
    """`bus` is BUS_*."""

    bus: int
    vendor: int
    product: int
    version: int


class Output(NamedTuple):
    """A report for the device, its number first."""

    data: bytes


class GetReport(NamedTuple):
    """The report `number` is wanted, by the request `id`."""

    id: int
    number: int
    type: int


class SetReport(NamedTuple):
    """A report for the device, whose sender waits."""

    id: int
    number: int
    type: int


Asked = Union[Output, GetReport, SetReport]


def pack_create2(name: str, phys: str, uniq: str, ids: HidIds, descriptor: bytes) -> bytes:
    """Raises ValueError for what is too long."""
    called, at, known = name.encode(), phys.encode(), uniq.encode()
    if len(called) > 127 or len(at) > 63 or len(known) > 63 or len(descriptor) > MAX_DESCRIPTOR:
        raise ValueError("a HID device beyond the limits")
    fields = _CREATE2.pack(called, at, known, len(descriptor), ids.bus, ids.vendor, ids.product, ids.version, 0)
    return _TYPE.pack(UhidEvent.UHID_CREATE2) + fields + descriptor


def pack_input2(report: bytes) -> bytes:
    return _TYPE.pack(UhidEvent.UHID_INPUT2) + _SIZE.pack(len(report)) + report


def pack_get_report_reply(id: int, error: int, data: bytes = b"") -> bytes:
    return _TYPE.pack(UhidEvent.UHID_GET_REPORT_REPLY) + _REPLY.pack(id, error, len(data)) + data


def pack_set_report_reply(id: int, error: int) -> bytes:
    return _TYPE.pack(UhidEvent.UHID_SET_REPORT_REPLY) + _SET_REPLY.pack(id, error)


def unpack(event: bytes) -> Union[Asked, UhidEvent, None]:
    """What the kernel says; None for what we do not know. A short event ends in zeros."""
    (type_,) = _TYPE.unpack_from(event)
    event = event.ljust(_EVENT_SIZE, b"\0")
    if type_ == UhidEvent.UHID_OUTPUT:
        (size,) = _SIZE.unpack_from(event, _TYPE.size + DATA_MAX)
        return Output(event[_TYPE.size : _TYPE.size + min(size, DATA_MAX)])
    if type_ == UhidEvent.UHID_GET_REPORT:
        return GetReport(*_REQUEST.unpack_from(event, _TYPE.size))
    if type_ == UhidEvent.UHID_SET_REPORT:
        return SetReport(*_REQUEST.unpack_from(event, _TYPE.size))
    return UhidEvent(type_) if type_ in UhidEvent.__members__.values() else None


class Uhid:
    """One HID device. Raises OSError where there is no /dev/uhid, or none for us."""

    def __init__(self, path: Path = DEVICE) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def create(self, name: str, phys: str, uniq: str, ids: HidIds, descriptor: bytes) -> None:
        """The kernel looks for its driver, which asks for reports: see `read`."""
        self._write(pack_create2(name, phys, uniq, ids, descriptor))

    def close(self) -> None:
        """The device is gone."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def read(self) -> List[Union[Asked, UhidEvent]]:
        """What the kernel has said since the last time, QUEUE events and a few more at most."""
        said: List[Union[Asked, UhidEvent]] = []
        with contextlib.suppress(BlockingIOError):
            for _ in range(2 * QUEUE):
                event = unpack(os.read(self.fd, _EVENT_SIZE))
                if event is not None:
                    said.append(event)
        return said

    def input(self, report: bytes) -> None:
        self._write(pack_input2(report))

    def reply(self, request: GetReport, data: bytes) -> None:
        """Without data: there is no such report."""
        self._write(pack_get_report_reply(request.id, 0 if data else errno.EIO, data))

    def refuse(self, request: SetReport) -> None:
        self._write(pack_set_report_reply(request.id, errno.EIO))

    def _write(self, event: bytes) -> None:
        os.write(self.fd, event)
