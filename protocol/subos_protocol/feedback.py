"""What was done with a pad's effects: the state that it leads to, and what of it waits to be said.

Neither grows with what is done: a program may play and stop as often as it likes.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional

from .effects import FULL_GAIN, Effect, Erase, Feedback, Gain, Play, Stop, Upload

_FOR_EVER = float("inf")


class _Playing(NamedTuple):
    since: float
    times: int


class Effects:
    """The effects of one pad, by what was said of them. `now` is in seconds, of any clock that does not go back."""

    def __init__(self) -> None:
        self.gain = FULL_GAIN
        self._uploaded: Dict[int, Effect] = {}
        self._playing: Dict[int, _Playing] = {}

    def note(self, message: Feedback, now: float) -> bool:
        """Keeps what `message` leads to. False for what nobody need hear: of an effect that is not there."""
        if isinstance(message, Upload):
            self._uploaded[message.effect.id] = message.effect
        elif isinstance(message, Gain):
            self.gain = message.value
        elif message.id not in self._uploaded:
            return False
        elif isinstance(message, Play):
            self._playing[message.id] = _Playing(now, message.times)
        else:
            self._playing.pop(message.id, None)
            if isinstance(message, Erase):
                del self._uploaded[message.id]
        return True

    def all(self, now: float) -> List[Feedback]:
        """What brings a pad that knows nothing to where this one is."""
        return [
            *([] if self.gain == FULL_GAIN else [Gain(self.gain)]),
            *(Upload(effect) for effect in self._uploaded.values()),
            *(Play(number, left) for number in self._playing if (left := self._left(number, now))),
        ]

    def playing(self, now: float) -> List[int]:
        """The numbers of those that have not come to their end."""
        return [number for number in self._playing if self._left(number, now)]

    def clear(self) -> List[Feedback]:
        """Forgets all; what has a pad forget it, too."""
        said: List[Feedback] = [*map(Stop, self._playing), *map(Erase, self._uploaded)]
        if self.gain != FULL_GAIN:
            said.append(Gain(FULL_GAIN))
        self.gain = FULL_GAIN
        self._uploaded.clear()
        self._playing.clear()
        return said

    def _left(self, number: int, now: float) -> int:
        """How many times it still plays; a time that has begun counts."""
        since, times = self._playing[number]
        effect = self._uploaded[number]
        each = (effect.delay + effect.length) / 1000 if effect.length else _FOR_EVER
        return max(0, times - int((now - since) / each))


class _Waiting:
    """Of one effect, in the order in which it is said."""

    def __init__(self) -> None:
        self.erase = False
        self.upload: Optional[Upload] = None
        self.action: Optional[Feedback] = None


class Pending:
    """What nobody has been able to say yet. Of each effect only what counts is kept: `take` leads to where all that was
    `put` would have led."""

    def __init__(self) -> None:
        self._gain: Optional[Gain] = None
        self._waiting: Dict[int, _Waiting] = {}

    def __bool__(self) -> bool:
        return self._gain is not None or bool(self._waiting)

    def put(self, message: Feedback) -> None:
        if isinstance(message, Gain):
            self._gain = message
            return
        number = message.effect.id if isinstance(message, Upload) else message.id
        waiting = self._waiting.setdefault(number, _Waiting())
        if isinstance(message, Upload):
            waiting.upload = message
        elif isinstance(message, Erase):
            self._waiting[number] = erased = _Waiting()
            erased.erase = True
        else:
            waiting.action = message

    def take(self) -> List[Feedback]:
        """All of it."""
        said: List[Feedback] = [] if self._gain is None else [self._gain]
        for number, waiting in self._waiting.items():
            said += [Erase(number)] if waiting.erase else []
            said += [each for each in (waiting.upload, waiting.action) if each is not None]
        self.clear()
        return said

    def clear(self) -> None:
        self._gain = None
        self._waiting.clear()
