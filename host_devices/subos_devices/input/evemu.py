"""evemu's text format: what an input device is, and what it did. Versions 1.0 to 1.3.

    # EVEMU 1.3
    N: Some Mouse                           its name
    I: 0003 046d c52b 0111                  bus, vendor, product, version
    P: 00 00 00 00 00 00 00 00              bits of INPUT_PROP_*, eight bytes a line
    B: 01 00 00 00 00 00 00 00 00           event type, and bits of its codes, likewise
    A: 00 0 1000 0 0 0                      axis, min, max, fuzz, flat, resolution (not in 1.0 and 1.1)
    E: 0.000001 0001 0110 1                 seconds, type, code, value

Numbers without a point are hexadecimal, but for those of A after the axis and for the value.
Source: https://gitlab.freedesktop.org/libevdev/evemu, README.md and src/evemu.c.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from subos_protocol.input_codes import ABS_MAX, EV_MAX, INPUT_PROP_MAX, KEY_MAX, Ev, Syn, code_name
from subos_protocol.virtio_input import (
    pack_bitmap,
    unpack_bitmap,
    virtio_input_absinfo,
    virtio_input_devids,
    virtio_input_event,
)

from ..errors import UserError
from .capabilities import SYN_REPORT, Capabilities

HEADER = "# EVEMU 1.3\n"
MAX_LINE = 1024  # bytes
MAX_DESCRIPTION = 10_000  # lines before the first event
MAX_FRAME = 1024  # events; the kernel's own frames are far shorter
WIDTH = 8  # bytes of a bitmap on a line

_HEX, _INT = r"([0-9a-fA-F]{1,4})", r"(-?[0-9]{1,11})"
_BYTES = r"((?: [0-9a-fA-F]{2}){8})"
_LINES = {
    "N": re.compile(r"N: (.+)"),
    "I": re.compile(rf"I: {_HEX} {_HEX} {_HEX} {_HEX}"),
    "P": re.compile(rf"P:{_BYTES}"),
    "B": re.compile(rf"B: {_HEX}{_BYTES}"),
    "A": re.compile(rf"A: {_HEX} {_INT} {_INT} {_INT} {_INT}(?: {_INT})?"),
    "L": re.compile(rf"L: {_HEX} {_INT}"),
    "S": re.compile(rf"S: {_HEX} {_INT}"),
    "E": re.compile(rf"E: ([0-9]{{1,12}})\.([0-9]{{6}}) {_HEX} {_HEX} {_INT}"),
}
_INT32 = range(-(1 << 31), 1 << 31)


class RecordedFrame(NamedTuple):
    """`time` is in microseconds; `events` are without their SYN_REPORT."""

    time: int
    events: list[virtio_input_event]


# --- writing


def describe(device: Capabilities) -> str:
    """The lines that say what `device` is."""
    lines = [
        f"N: {' '.join(device.name.split()) or 'unnamed'}\n",
        "I: {:04x} {:04x} {:04x} {:04x}\n".format(*device.ids),
    ]
    lines += [f"P:{row}\n" for row in _rows(device.props) or [" 00" * WIDTH]]
    lines.append("B: 00 0b 00 00 00 00 00 00 00\n")  # EV_SYN, as evemu itself writes it
    for type_ in range(1, EV_MAX + 1):
        lines += [f"B: {type_:02x}{row}\n" for row in _rows(device.of(type_))]
    lines += [f"A: {code:02x} {' '.join(map(str, axis))}\n" for code, axis in sorted(device.axes.items())]
    return "".join(lines)


def write_frame(frame: RecordedFrame) -> str:
    """The lines of one frame, its SYN_REPORT too; the names are for people."""
    seconds, micros = divmod(frame.time, 1_000_000)
    return "".join(
        f"E: {seconds}.{micros:06} {type_:04x} {code:04x} {value}\t# {code_name(type_, code)}\n"
        for type_, code, value in (*frame.events, SYN_REPORT)
    )


def _rows(codes: frozenset[int]) -> list[str]:
    bitmap = pack_bitmap(codes)
    parts = [bitmap[start : start + WIDTH].ljust(WIDTH, b"\0") for start in range(0, len(bitmap), WIDTH)]
    return ["".join(f" {byte:02x}" for byte in part) for part in parts]


# --- reading


def _codes(bits: bytearray) -> frozenset[int]:
    return frozenset(unpack_bitmap(bytes(bits)))


class Reader:
    """A recording in `file`, called `name` in what is raised: UserError, with the number of the line.

    `device` is there at once; `frames` reads on as far as it is asked.
    """

    def __init__(self, file: BinaryIO, name: Path | str) -> None:
        self._file = file
        self._name = name
        self._line = 0
        self._codes: dict[int, bytearray] = {}
        self._props = bytearray()
        self._axes: dict[int, virtio_input_absinfo] = {}
        self._device_name = ""
        self._ids: virtio_input_devids | None = None
        self._event: tuple[str, ...] | None = None
        self.device = self._read_device()

    def frames(self) -> Iterator[RecordedFrame]:
        """Whole ones; a last one without its SYN_REPORT is left out, since its device was stopped in the middle."""
        frame: list[virtio_input_event] = []
        while (found := self._event) is not None:
            time, event = self._parse_event(found)
            self._event = self._next_event()
            if event.type != Ev.EV_SYN:
                if len(frame) == MAX_FRAME:
                    raise self._wrong(f"a frame of more than {MAX_FRAME} events")
                frame.append(event)
            elif event.code == Syn.SYN_REPORT:
                yield RecordedFrame(time, frame)
                frame = []

    # --- inside

    def _wrong(self, what: str) -> UserError:
        return UserError(
            f"{self._name}, line {self._line}: {what}", "it must be a recording of evemu or of input record"
        )

    def _next(self) -> tuple[str, tuple[str, ...]] | None:
        """The next line that is no comment: its letter and its fields."""
        while line := self._file.readline(MAX_LINE + 1):
            self._line += 1
            if len(line) > MAX_LINE:
                raise self._wrong(f"a line of more than {MAX_LINE} bytes")
            text = line.decode("utf-8", "replace").strip()
            if self._line == 1 and (version := re.match(r"# EVEMU ([0-9]+)\.", text)) and version[1] != "1":
                raise self._wrong(f"its format is version {version[1]}, of which we know nothing")
            if not text.startswith("N:"):
                text = text.partition("#")[0].rstrip()
            if not text:
                continue
            pattern = _LINES.get(text[0])
            fields = pattern.fullmatch(text) if pattern else None
            if fields is None:
                raise self._wrong(f"{text[:60]!r} is not understood")
            return text[0], tuple(field or "" for field in fields.groups())
        return None

    def _read_device(self) -> Capabilities:
        while (found := self._next()) is not None:
            letter, fields = found
            if letter == "E":
                self._event = fields
                break
            if self._line > MAX_DESCRIPTION:
                raise self._wrong(f"a description of more than {MAX_DESCRIPTION} lines")
            self._take(letter, fields)
        if self._ids is None or not self._device_name:
            raise self._wrong("it does not say what its device is: there is no line N: or I:")
        codes = {
            type_: frozenset(unpack_bitmap(bytes(bits))) for type_, bits in self._codes.items() if type_ != Ev.EV_ABS
        }
        return Capabilities(
            self._device_name, self._ids, codes, self._axes, frozenset(unpack_bitmap(bytes(self._props)))
        )

    def _take(self, letter: str, fields: tuple[str, ...]) -> None:
        if letter == "N":
            self._device_name = fields[0]
        elif letter == "I":
            self._ids = virtio_input_devids(*(int(field, 16) for field in fields))
        elif letter == "P":
            self._extend(self._props, fields[0], INPUT_PROP_MAX)
        elif letter == "B":
            type_ = self._within(int(fields[0], 16), EV_MAX, "an event type")
            self._extend(self._codes.setdefault(type_, bytearray()), fields[1], KEY_MAX)
        elif letter == "A":
            code = self._within(int(fields[0], 16), ABS_MAX, "an axis")
            numbers = [self._int32(field or "0") for field in fields[1:]]
            if numbers[0] > numbers[1]:
                raise self._wrong(f"axis {code:02x} begins at {numbers[0]} and ends at {numbers[1]}")
            self._axes[code] = virtio_input_absinfo(*numbers)

    def _next_event(self) -> tuple[str, ...] | None:
        found = self._next()
        if found is not None and found[0] != "E":
            raise self._wrong(f"a line {found[0]}: after the first event")
        return found[1] if found is not None else None

    def _parse_event(self, fields: tuple[str, ...]) -> tuple[int, virtio_input_event]:
        seconds, micros, type_, code, value = fields
        event = virtio_input_event(
            self._within(int(type_, 16), EV_MAX, "an event type"),
            self._within(int(code, 16), KEY_MAX, "a code"),
            self._int32(value),
        )
        return int(seconds) * 1_000_000 + int(micros), event

    def _extend(self, bits: bytearray, row: str, most: int) -> None:
        bits += bytes.fromhex(row)
        if len(bits) > (most // 8 // WIDTH + 1) * WIDTH:
            raise self._wrong("too many bits")

    def _within(self, number: int, most: int, what: str) -> int:
        if number > most:
            raise self._wrong(f"{number:#x} is not {what}")
        return number

    def _int32(self, field: str) -> int:
        number = int(field)
        if number not in _INT32:
            raise self._wrong(f"{number} does not fit into 32 bits")
        return number
