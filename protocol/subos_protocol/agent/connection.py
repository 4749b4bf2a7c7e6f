"""The state of one end of the agent channel, without I/O: bytes in, events out; calls in, bytes out.

    connection = Connection(Hello("subos-agent", "0.1.0", ["exec"]), opener=True)
    for event in connection.receive(data): …        PeerIs, Lost, Requested, Received, Ended, …
    stream = connection.request({"op": "exec", …})
    data = connection.data_to_send()                whenever the transport takes some

Both ends are this class. The `opener` is the side that opened the transport (the guest on a virtio-serial port): its
streams have odd numbers, the other's even ones. No number is used twice.

Nothing that the other side sends makes it hold more than `Limits` say: a stream's DATA and EVENTs take credit, which
is given back by `consumed`; requests beyond `streams` are cancelled as busy; replies that wait are limited.
"""

from __future__ import annotations

import struct
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Deque, Dict, List, NamedTuple, Optional, Union

from ..errors import Malformed
from .frames import (
    MAXIMUM_PAYLOAD,
    PING_SIZE,
    WINDOW_SIZE,
    ZEROS,
    Frame,
    FrameType,
    Head,
    find_hello,
    pack_head,
    parse,
    unpack_head,
)
from .hello import Hello

WINDOW = 1 << 18
"""Bytes that may be on their way on a new stream, in each direction."""
CHUNK = 1 << 15
"""Bytes of one DATA frame that we send: what another stream waits for at most, on a slow line."""
MAXIMUM_CREDIT = 1 << 31
LAST_STREAM = (1 << 32) - 1


class Limits(NamedTuple):
    """What the other side may cost us."""

    streams: int = 64  # that it has opened and that are not over
    control: int = 1024  # answers that wait because it does not read


LIMITS = Limits()


class PeerIs(NamedTuple):
    """The other side is known, and has heard us: requests may go to it."""

    hello: Hello


class Lost(NamedTuple):
    """The other side is a new process: these streams are over."""

    streams: List[int]


class Requested(NamedTuple):
    """It has opened a stream."""

    stream: int
    head: Head


class Received(NamedTuple):
    """DATA, or an EVENT: the bytes of a head, which takes many times as much memory once it is unpacked. `cost` is what
    `consumed` is to give back."""

    stream: int
    part: int
    content: bytes
    cost: int
    event: bool = False


class Ended(NamedTuple):
    """It sends no more DATA on the stream that it opened."""

    stream: int


class Replied(NamedTuple):
    """Our stream is over, with this result."""

    stream: int
    head: Head


class Cancelled(NamedTuple):
    """The stream is over before its time."""

    stream: int
    head: Head


Event = Union[PeerIs, Lost, Requested, Received, Ended, Replied, Cancelled]


@dataclass
class _Stream:
    """`credit` is what the other side takes, `owed` what we still take, `eaten` what was not given back yet."""

    credit: int = WINDOW
    owed: int = WINDOW
    eaten: int = 0
    waiting: Deque[Frame] = field(default_factory=deque)
    queued: int = 0  # bytes in `waiting`


class NotReady(Exception):
    """A request before the other side was heard, or on a stream that is over."""


class Connection:
    """`shared`: the transport outlives its users (a virtio-serial port). What was left in it before the other side came
    is skipped, up to a HELLO after zeros; and ours has zeros before it."""

    def __init__(self, hello: Hello, *, opener: bool, shared: bool = False, limits: Limits = LIMITS) -> None:
        self.hello = hello
        self.peer: Optional[Hello] = None
        self._limits = limits
        self._parity = 1 if opener else 0
        self._next = 1 if opener else 2
        self._highest = 0
        self._streams: Dict[int, _Stream] = {}
        self._control: Deque[Frame] = deque()
        self._turns: OrderedDict[int, None] = OrderedDict()
        """Streams that have something waiting, in the order of their turns."""
        self._heard = bytearray()
        self._shared = self._hunting = shared
        self._ready = False
        self._told: Optional[str] = None
        """The instance that our last HELLO has named as seen."""
        if opener:
            self.say_hello()

    # --- what we want

    @property
    def is_ready(self) -> bool:
        """Whether the other side is known, and has heard us."""
        return self._ready

    def say_hello(self) -> None:
        """Says HELLO without being asked: first, or again since nothing has answered. It will be answered."""
        self._control = deque(frame for frame in self._control if frame.type != FrameType.HELLO)
        self._say(FrameType.HELLO, 0, pack_head(self.hello.head(None)))

    def ping(self) -> None:
        """Asks for a sign of life, unless that waits to be sent already."""
        if not any(frame.type == FrameType.PING for frame in self._control):
            self._say(FrameType.PING, 0, bytes(PING_SIZE))

    def request(self, head: Head) -> int:
        """Opens a stream. Raises NotReady, Malformed (too long)."""
        if not self._ready:
            raise NotReady("the other side has not said who it is")
        payload = pack_head(head)
        stream, self._next = self._next, self._next + 2
        if stream > LAST_STREAM:
            raise NotReady("this connection has used up its streams")
        self._streams[stream] = _Stream()
        self._queue(stream, Frame(FrameType.REQUEST, stream, payload))
        return stream

    def send(self, stream: int, data: bytes, part: int = 0) -> None:
        """Queues DATA, whatever credit there is; see `queued`. Raises NotReady."""
        if len(data) <= CHUNK:
            self._queue(stream, Frame(FrameType.DATA, stream, data, part))
            return
        view = memoryview(data)
        for start in range(0, len(data), CHUNK):
            self._queue(stream, Frame(FrameType.DATA, stream, bytes(view[start : start + CHUNK]), part))

    def event(self, stream: int, head: Head) -> None:
        """Queues an EVENT. Raises NotReady, Malformed (too long)."""
        self._queue(stream, Frame(FrameType.EVENT, stream, pack_head(head)))

    def end(self, stream: int) -> None:
        """No more DATA from us on a stream that we opened. Raises NotReady."""
        self._queue(stream, Frame(FrameType.END, stream, b""))

    def reply(self, stream: int, head: Head) -> None:
        """The last word on a stream that the other side opened. Raises NotReady, Malformed (too long)."""
        self._queue(stream, Frame(FrameType.REPLY, stream, pack_head(head)))

    def cancel(self, stream: int, head: Head) -> None:
        """Ends a stream at once; what is queued on it is dropped. A stream that is over stays so."""
        if self._forget(stream):
            self._say(FrameType.CANCEL, stream, pack_head(head))

    def consumed(self, stream: int, cost: int) -> None:
        """What was Received has left our memory: the other side may send as much again."""
        state = self._streams.get(stream)
        if state is not None:
            state.eaten += cost
            if state.eaten >= WINDOW // 2:
                state.owed += state.eaten
                self._say(FrameType.WINDOW, stream, struct.pack("<I", state.eaten))
                state.eaten = 0

    def queued(self, stream: int) -> int:
        """Bytes that wait on a stream, 0 where it is over."""
        state = self._streams.get(stream)
        return state.queued if state else 0

    def is_open(self, stream: int) -> bool:
        return stream in self._streams

    def data_to_send(self, limit: int = 1 << 16) -> bytes:
        """What goes out next: some more than `limit` bytes at most, empty if nothing can go.

        Control goes first, then each stream a frame in turn, so that a large one does not hold up the small ones.
        """
        out = bytearray()
        while self._control and len(out) < limit:
            frame = self._control.popleft()
            if frame.type == FrameType.HELLO and self._shared:
                out += ZEROS
            out += frame.pack()
        blocked = 0
        while len(out) < limit and blocked < len(self._turns):
            number, _ = self._turns.popitem(last=False)
            state = self._streams.get(number)
            if state is None or not state.waiting:
                continue
            frame = state.waiting[0]
            cost = _cost(frame)
            if cost > state.credit:
                self._turns[number] = None
                blocked += 1
                continue
            blocked = 0
            state.waiting.popleft()
            state.credit -= cost
            state.queued -= len(frame.payload)
            out += frame.pack()
            if frame.type == FrameType.REPLY:
                del self._streams[number]
            elif state.waiting:
                self._turns[number] = None
        return bytes(out)

    # --- what we hear

    def receive(self, data: bytes) -> List[Event]:
        """What the bytes mean. Raises Malformed: the connection is of no more use."""
        self._heard += data
        events: List[Event] = []
        start = 0
        if self._hunting:
            start, found = find_hello(self._heard)
            self._hunting = not found
        try:
            while not self._hunting:
                frame, start = parse(self._heard, start)
                if frame is None:
                    break
                self._take(frame, events)
        finally:
            del self._heard[:start]
        return events

    def _take(self, frame: Frame, events: List[Event]) -> None:
        if frame.type == FrameType.HELLO:
            self._take_hello(Hello.from_head(unpack_head(frame.payload)), events)
        elif not self._ready:
            return  # meant for our predecessor
        elif frame.type == FrameType.PING:
            if len(frame.payload) != PING_SIZE:
                raise Malformed("a PING that is not 8 bytes")
            self._answer(FrameType.PONG, 0, frame.payload)
        elif frame.type == FrameType.REQUEST:
            self._take_request(frame, events)
        elif frame.stream in self._streams:
            self._take_on_stream(frame, self._streams[frame.stream], events)

    def _take_hello(self, hello: Hello, events: List[Event]) -> None:
        """Each side says in `seen` whom it has heard; whoever is seen is ready. An answer is given to one who has not
        seen us, or may not know that we have seen it."""
        if self.peer is None or self.peer.instance != hello.instance:
            if self.peer is not None and not self._shared:
                raise Malformed("a second process on a transport of one")
            if self._streams:
                events.append(Lost(sorted(self._streams)))
            self._streams.clear()
            self._turns.clear()
            self._control.clear()
            self._highest = 0
            self._ready = False
            self.peer = hello
        if hello.seen != self.hello.instance or self._told != hello.instance:
            self._answer(FrameType.HELLO, 0, pack_head(self.hello.head(hello.instance)))
            self._told = hello.instance
        if hello.seen == self.hello.instance and not self._ready:
            self._ready = True
            events.append(PeerIs(hello))

    def _take_request(self, frame: Frame, events: List[Event]) -> None:
        if frame.stream % 2 == self._parity or frame.stream <= self._highest:
            raise Malformed(f"a REQUEST as stream {frame.stream}")
        self._highest = frame.stream
        head = unpack_head(frame.payload)
        theirs = sum(1 for number in self._streams if number % 2 != self._parity)
        if theirs >= self._limits.streams:
            busy = {"error": "busy", "message": f"{theirs} requests are under way"}
            self._answer(FrameType.CANCEL, frame.stream, pack_head(busy))
            return
        self._streams[frame.stream] = _Stream()
        events.append(Requested(frame.stream, head))

    def _take_on_stream(self, frame: Frame, state: _Stream, events: List[Event]) -> None:
        number, mine = frame.stream, frame.stream % 2 == self._parity
        if frame.type in (FrameType.DATA, FrameType.EVENT):
            cost = _cost(frame)
            state.owed -= cost
            if state.owed < 0:
                raise Malformed(f"more on stream {number} than was granted")
            events.append(Received(number, frame.part, frame.payload, cost, frame.type == FrameType.EVENT))
        elif frame.type == FrameType.END and not mine:
            events.append(Ended(number))
        elif frame.type == FrameType.REPLY and mine:
            head = unpack_head(frame.payload)
            self._forget(number)
            events.append(Replied(number, head))
        elif frame.type == FrameType.CANCEL:
            head = unpack_head(frame.payload)
            self._forget(number)
            events.append(Cancelled(number, head))
        elif frame.type == FrameType.WINDOW:
            if len(frame.payload) != WINDOW_SIZE:
                raise Malformed("a WINDOW that is not 4 bytes")
            state.credit += struct.unpack("<I", frame.payload)[0]
            if state.credit > MAXIMUM_CREDIT:
                raise Malformed("more credit than there can be")

    # --- queues

    def _answer(self, kind: FrameType, stream: int, payload: bytes) -> None:
        if len(self._control) >= self._limits.control:
            raise Malformed("it asks on and on, and does not read the answers")
        self._say(kind, stream, payload)

    def _say(self, kind: FrameType, stream: int, payload: bytes) -> None:
        self._control.append(Frame(kind, stream, payload))

    def _queue(self, stream: int, frame: Frame) -> None:
        state = self._streams.get(stream)
        if state is None:
            raise NotReady("the stream is over")
        if not state.waiting:
            self._turns[stream] = None
        state.waiting.append(frame)
        state.queued += len(frame.payload)

    def _forget(self, stream: int) -> bool:
        self._turns.pop(stream, None)
        return self._streams.pop(stream, None) is not None


def _cost(frame: Frame) -> int:
    """The credit that a frame takes: an empty one takes some too, or it could be sent without end."""
    return max(len(frame.payload), 64) if frame.type in (FrameType.DATA, FrameType.EVENT) else 0


assert CHUNK <= MAXIMUM_PAYLOAD <= WINDOW
