"""One input device made by uinput, with force feedback. Source: the kernel's include/uapi/linux/uinput.h, input.h.

A program that uploads or erases an effect waits, in the kernel, until we have answered: that is done at once, whatever
becomes of the effect.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import os
from pathlib import Path
from typing import Callable, Iterable, List, Optional, Set, Tuple

from subos_protocol.effects import MAX_EFFECTS, Erase, Feedback, Gain, Play, Stop, Upload
from subos_protocol.ff_effect import ff_effect, from_kernel
from subos_protocol.gamepad import Pad
from subos_protocol.input_codes import Ev, Ff
from subos_protocol.input_event import INPUT_EVENT, pack_event
from subos_protocol.virtio_input import virtio_input_event

DEVICE = Path("/dev/uinput")
EV_UINPUT = 0x0101
UI_FF_UPLOAD, UI_FF_ERASE = 1, 2
_REQUESTS = 16  # drivers/input/misc/uinput.c, UINPUT_NUM_REQUESTS: so many wait for an answer at most
_READ = 64  # events, more than uinput keeps

_u16, _u32, _s32 = ctypes.c_uint16, ctypes.c_uint32, ctypes.c_int32


class uinput_ff_upload(ctypes.Structure):
    _fields_ = [("request_id", _u32), ("retval", _s32), ("effect", ff_effect), ("old", ff_effect)]


class uinput_ff_erase(ctypes.Structure):
    _fields_ = [("request_id", _u32), ("retval", _s32), ("effect_id", _u32)]


class uinput_setup(ctypes.Structure):
    _fields_ = [
        ("bustype", _u16),
        ("vendor", _u16),
        ("product", _u16),
        ("version", _u16),
        ("name", ctypes.c_char * 80),
        ("ff_effects_max", _u32),
    ]


class uinput_abs_setup(ctypes.Structure):
    _fields_ = [
        ("code", _u16),
        ("value", _s32),
        ("minimum", _s32),
        ("maximum", _s32),
        ("fuzz", _s32),
        ("flat", _s32),
        ("resolution", _s32),
    ]


def _ioc(direction: int, number: int, size: int) -> int:
    """_IOC(direction, 'U', number, size)."""
    return direction << 30 | size << 16 | ord("U") << 8 | number


_WRITE, _BOTH = 1, 3
UI_DEV_CREATE = _ioc(0, 1, 0)
UI_DEV_SETUP = _ioc(_WRITE, 3, ctypes.sizeof(uinput_setup))
UI_ABS_SETUP = _ioc(_WRITE, 4, ctypes.sizeof(uinput_abs_setup))
UI_SET_EVBIT = _ioc(_WRITE, 100, 4)
UI_SET_PHYS = _ioc(_WRITE, 108, ctypes.sizeof(ctypes.c_void_p))
UI_SET_PROPBIT = _ioc(_WRITE, 110, 4)
UI_SET_BIT = {
    Ev.EV_KEY: _ioc(_WRITE, 101, 4),
    Ev.EV_REL: _ioc(_WRITE, 102, 4),
    Ev.EV_ABS: _ioc(_WRITE, 103, 4),
    Ev.EV_MSC: _ioc(_WRITE, 104, 4),
    Ev.EV_FF: _ioc(_WRITE, 107, 4),
}
UI_BEGIN_FF_UPLOAD = _ioc(_BOTH, 200, ctypes.sizeof(uinput_ff_upload))
UI_END_FF_UPLOAD = _ioc(_WRITE, 201, ctypes.sizeof(uinput_ff_upload))
UI_BEGIN_FF_ERASE = _ioc(_BOTH, 202, ctypes.sizeof(uinput_ff_erase))
UI_END_FF_ERASE = _ioc(_WRITE, 203, ctypes.sizeof(uinput_ff_erase))

Request = Tuple[int, int]
"""UI_FF_UPLOAD or UI_FF_ERASE, and a number."""


class UinputPad:
    """`pad` as an input device; it is there from `create` to `close`. Raises OSError."""

    def __init__(self, pad: Pad, device: Path = DEVICE) -> None:
        self._answered: Set[Request] = set()
        self._suspects: Set[Request] = set()
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self.fd = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._set_up(pad)
        except BaseException:
            self.close()
            raise

    def _set_up(self, pad: Pad) -> None:
        codes = {**pad.codes, Ev.EV_ABS: frozenset(pad.axes), Ev.EV_FF: pad.ff if pad.effects else frozenset()}
        for type_, listed in codes.items():
            if listed:
                fcntl.ioctl(self.fd, UI_SET_EVBIT, type_)
            for code in listed:
                fcntl.ioctl(self.fd, UI_SET_BIT[Ev(type_)], code)
        for prop in pad.props:
            fcntl.ioctl(self.fd, UI_SET_PROPBIT, prop)
        for code, axis in pad.axes.items():
            low, high, fuzz, flat, resolution = axis.info
            fcntl.ioctl(self.fd, UI_ABS_SETUP, uinput_abs_setup(code, axis.neutral, low, high, fuzz, flat, resolution))
        phys = ctypes.create_string_buffer(f"subos/{pad.serial}".encode())
        _ioctl_pointer(self.fd, UI_SET_PHYS, phys)
        effects = pad.effects if pad.ff else 0
        fcntl.ioctl(self.fd, UI_DEV_SETUP, uinput_setup(*pad.ids, pad.name.encode(), effects))

    def create(self) -> None:
        fcntl.ioctl(self.fd, UI_DEV_CREATE)

    def close(self) -> None:
        """The device is gone; who waits for an answer gets ENODEV."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def listen(self, heard: Callable[[], None]) -> None:
        """`heard` is called when there is feedback, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.fd, heard)

    def deafen(self) -> None:
        """Before `close`, where it listens."""
        if self._loop is not None:
            self._loop.remove_reader(self.fd)
            self._loop = None

    def write(self, events: Iterable[virtio_input_event]) -> None:
        """The kernel ignores what the device does not have."""
        os.write(self.fd, b"".join(pack_event(*event) for event in events))

    def feedback(self) -> List[Feedback]:
        """What programs have done with effects since the last time, each request answered."""
        said: List[Feedback] = []
        with contextlib.suppress(BlockingIOError):
            for _sec, _usec, type_, code, value in INPUT_EVENT.iter_unpack(os.read(self.fd, _READ * INPUT_EVENT.size)):
                if type_ == EV_UINPUT:
                    said += self._answer((code, value))
                elif type_ == Ev.EV_FF and code == Ff.FF_GAIN:
                    said.append(Gain(min(max(value, 0), 0xFFFF)))
                elif type_ == Ev.EV_FF and code < MAX_EFFECTS:
                    said.append(Play(code, value) if value > 0 else Stop(code))
        return said

    def overlooked(self) -> List[Feedback]:
        """As `feedback`, and answers what it was not told of, twice in a row: uinput keeps 16 events, of which it shows
        none when they are all new. Whoever made such a request would wait for half a minute.

        No request may be answered twice: it lies on the stack of its program, which goes on at the first answer.
        """
        said = self.feedback()
        suspects, answered = self._suspects, self._answered
        self._suspects, self._answered = set(), set()
        for request in [(code, number) for code in (UI_FF_UPLOAD, UI_FF_ERASE) for number in range(_REQUESTS)]:
            if request in answered or not self._waits(request):
                continue
            if request in suspects:
                said += self._answer(request)
            else:
                self._suspects.add(request)
        return said

    @property
    def suspicious(self) -> bool:
        """Whether `overlooked` is to be called again."""
        return bool(self._suspects)

    def _waits(self, request: Request) -> bool:
        code, number = request
        try:
            if code == UI_FF_UPLOAD:
                fcntl.ioctl(self.fd, UI_BEGIN_FF_UPLOAD, uinput_ff_upload(request_id=number))
            else:
                fcntl.ioctl(self.fd, UI_BEGIN_FF_ERASE, uinput_ff_erase(request_id=number))
        except OSError:
            return False
        return True

    def _answer(self, request: Request) -> List[Feedback]:
        """Nothing where there is no such request any more."""
        code, number = request
        self._answered.add(request)
        with contextlib.suppress(OSError):
            if code == UI_FF_UPLOAD:
                return self._upload(number)
            if code == UI_FF_ERASE:
                return self._erase(number)
        return []

    def _upload(self, request: int) -> List[Feedback]:
        upload = uinput_ff_upload(request_id=request)
        fcntl.ioctl(self.fd, UI_BEGIN_FF_UPLOAD, upload)
        effect = from_kernel(upload.effect)
        upload.retval = 0 if effect else -errno.EINVAL
        fcntl.ioctl(self.fd, UI_END_FF_UPLOAD, upload)
        return [Upload(effect)] if effect else []

    def _erase(self, request: int) -> List[Feedback]:
        erase = uinput_ff_erase(request_id=request)
        fcntl.ioctl(self.fd, UI_BEGIN_FF_ERASE, erase)
        number = erase.effect_id
        fcntl.ioctl(self.fd, UI_END_FF_ERASE, erase)
        return [Erase(number)] if number < MAX_EFFECTS else []


def _ioctl_pointer(fd: int, request: int, target: ctypes.Array[ctypes.c_char]) -> None:
    """An ioctl whose argument is itself a pointer."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ioctl(fd, ctypes.c_ulong(request), ctypes.byref(target)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
