"""Effects of a guest's games, played on a gamepad of this host: for a host driver, whose device says `{"ff": …}`.

    rumble = PadRumble(Path("/dev/input/event7"), can=frozenset({Ff.FF_RUMBLE}))
    rumble.feel(said["ff"])     # for each packet that has it
    rumble.silence()            # whenever the line to the device breaks: nobody would stop what plays
    rumble.close()

The kernel ends what plays when the process dies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from pathlib import Path
from typing import Any

from subos_protocol.effects import (
    Constant,
    Effect,
    Erase,
    Feedback,
    Force,
    Gain,
    Periodic,
    Play,
    Rumble,
    Upload,
    from_object,
)
from subos_protocol.errors import Malformed
from subos_protocol.feedback import Pending
from subos_protocol.ff_effect import EVIOCRMFF, EVIOCSFF, to_kernel
from subos_protocol.input_codes import Ev, Ff
from subos_protocol.input_event import pack_event


class PadRumble:
    """Plays on the event device `path`, whose codes of EV_FF are `can`. Raises OSError where we may not write to it.

    In a thread of its own: a pad answers an upload when its driver does, and one that is made by uinput when a program
    does. What is done meanwhile is kept, as far as it counts.
    """

    def __init__(self, path: Path, can: frozenset[int]) -> None:
        self._can = can
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._numbers: dict[int, int] = {}  # the guest's of each effect → this kernel's
        self._changed = threading.Condition()
        self._pending = Pending()
        self._silenced = self._closed = False
        self._thread = threading.Thread(target=self._run, name="rumble", daemon=True)
        self._thread.start()

    def feel(self, said: Any) -> None:
        """What the device said of effects; what means nothing is ignored."""
        with contextlib.suppress(Malformed), self._changed:
            self._pending.put(from_object(said))
            self._changed.notify()

    def silence(self) -> None:
        """There are no effects any more."""
        with self._changed:
            self._pending.clear()
            self._silenced = True
            self._changed.notify()

    def close(self) -> None:
        """As `silence`, for good. It does not wait: the pad may take its time."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    # --- in the thread

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._pending or self._silenced or self._closed)
                    if self._closed:
                        return
                    silenced, self._silenced = self._silenced, False
                    messages = self._pending.take()
                if silenced:
                    self._erase_all()
                for message in messages:
                    self._perform(message)
        except OSError:  # ENODEV: the pad is gone, which its reader finds out, too
            pass
        finally:
            os.close(self._fd)  # which ends what plays

    def _erase_all(self) -> None:
        for number in list(self._numbers):
            self._perform(Erase(number))
        self._perform(Gain(0xFFFF))

    def _perform(self, message: Feedback) -> None:
        """Raises OSError where the pad is gone."""
        try:
            if isinstance(message, Upload):
                self._upload(message.effect)
            elif isinstance(message, Gain):
                if Ff.FF_GAIN in self._can:
                    self._write(Ff.FF_GAIN, message.value)
            elif message.id not in self._numbers:
                pass  # the pad did not take it
            elif isinstance(message, Erase):
                fcntl.ioctl(self._fd, EVIOCRMFF, self._numbers.pop(message.id))
            else:
                self._write(self._numbers[message.id], message.times if isinstance(message, Play) else 0)
        except OSError as error:
            if error.errno == errno.ENODEV:
                raise

    def _upload(self, effect: Effect) -> None:
        force = self._for_pad(effect.force)
        said = to_kernel(effect._replace(force=force), number=self._numbers.get(effect.id, -1))
        fcntl.ioctl(self._fd, EVIOCSFF, said)
        self._numbers[effect.id] = said.id

    def _for_pad(self, force: Force) -> Force:
        """The same, or what this pad has that feels most like it."""
        if isinstance(force, Constant) and Ff.FF_CONSTANT not in self._can:
            return _rumble(force.level)
        if isinstance(force, Periodic) and force.waveform not in self._can:
            return force._replace(waveform=Ff.FF_SINE) if Ff.FF_SINE in self._can else _rumble(force.magnitude)
        return force

    def _write(self, code: int, value: int) -> None:
        os.write(self._fd, pack_event(Ev.EV_FF, code, value))


def _rumble(strength: int) -> Rumble:
    """Of a signed strength."""
    magnitude = min(0xFFFF, 2 * abs(strength))
    return Rumble(magnitude, magnitude)
