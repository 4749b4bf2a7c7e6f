"""One stream between a port of the guest and a port of the host, as a state machine without I/O (VIRTIO 1.3 §5.10.6).

    connection = Connection.from_guest(host_port=80, guest_port=40000, room=256 << 10, peer_room=header.buf_alloc)
    event = connection.receive(op, flags, length, buf_alloc, fwd_cnt)   # of each packet of the guest's
    connection.forwarded(n)           # the host has taken n bytes of what the guest sent
    while connection.due: …write a packet of connection.say()…
    connection.credit                 # bytes that may go to the guest now; then connection.sent(n)

Nothing that a guest claims is believed beyond what can do no harm:

- payload beyond the room that we gave is the end of the connection (BROKEN), so a backlog never outgrows its room;
- so is a `fwd_cnt` that counts bytes we never sent. One that runs backwards is stale, and ignored: Linux numbers its
  packets before it queues them, so two of its threads may hand them over the other way round;
- a `buf_alloc` may be anything. It bounds what we send, and that goes into the guest's own buffers.
"""

from __future__ import annotations

from enum import Enum, auto

from subos_protocol.vsock import Op, Shutdown

MASK = 0xFFFF_FFFF  # counters of bytes wrap at 2^32
HALF = 1 << 31  # counters that are less than this apart are in order

RCV, SEND = int(Shutdown.RCV), int(Shutdown.SEND)
BOTH = RCV | SEND
RW = int(Op.RW)


class Event(Enum):
    """What a packet of the guest's has led to."""

    NOTHING = auto()  # but perhaps `due` or `credit`
    DATA = auto()  # its payload is for the host
    OPENED = auto()  # the guest has accepted
    ENDED = auto()  # it sends or receives no more: see `guest_ended`
    GONE = auto()  # it has reset the connection
    BROKEN = auto()  # it broke the rules: reset it


class Connection:
    """`room` is how many bytes of the guest's we are ready to keep for a host that does not read."""

    __slots__ = (
        "_due_op",
        "_due_shutdown",
        "_due_update",
        "_peer_fwd_cnt",
        "_peer_room",
        "_received",
        "_sent",
        "_told_fwd_cnt",
        "fwd_cnt",
        "guest_ended",
        "guest_port",
        "host_ended",
        "host_port",
        "is_open",
        "room",
    )

    def __init__(self, host_port: int, guest_port: int, room: int) -> None:
        self.host_port, self.guest_port, self.room = host_port, guest_port, room
        self.is_open = False
        self.guest_ended = 0
        """What the guest will do no more, as it says itself: Shutdown flags."""
        self.host_ended = 0
        """What the host will do no more, likewise."""
        self.fwd_cnt = 0
        """Bytes of the guest's that the host has taken; `_told_fwd_cnt` of them as the guest knows."""
        self._told_fwd_cnt = self._received = 0
        self._peer_room = self._peer_fwd_cnt = self._sent = 0
        self._due_op: Op | None = None
        self._due_shutdown = self._due_update = False

    @classmethod
    def to_guest(cls, host_port: int, guest_port: int, room: int) -> Connection:
        """A client of the host wants to reach the guest's port: a REQUEST is due."""
        connection = cls(host_port, guest_port, room)
        connection._due_op = Op.REQUEST
        return connection

    @classmethod
    def from_guest(cls, host_port: int, guest_port: int, room: int, peer_room: int) -> Connection:
        """The guest's REQUEST is granted: a RESPONSE is due."""
        connection = cls(host_port, guest_port, room)
        connection._due_op, connection.is_open, connection._peer_room = Op.RESPONSE, True, peer_room
        return connection

    # --- from the guest

    def receive(self, op: int, flags: int, length: int, buf_alloc: int, fwd_cnt: int) -> Event:
        """Takes in a packet of the guest's, whose fields may be anything. `length` bytes are really there."""
        if op == Op.RST:
            return Event.GONE
        if not self._heed(buf_alloc, fwd_cnt):
            return Event.BROKEN
        if op == RW:
            return self._payload(length)
        if op == Op.RESPONSE and not self.is_open and self._due_op is None:
            self.is_open = True
            return Event.OPENED
        if not self.is_open:
            return Event.BROKEN
        if op == Op.CREDIT_UPDATE:
            return Event.NOTHING
        if op == Op.CREDIT_REQUEST:
            self._due_update = True
            return Event.NOTHING
        if op == Op.SHUTDOWN:
            self.guest_ended |= flags & BOTH
            return Event.ENDED
        return Event.BROKEN

    def _heed(self, buf_alloc: int, fwd_cnt: int) -> bool:
        """Keeps what the guest says of its room. False where it has received what was never sent."""
        self._peer_room = buf_alloc
        if (fwd_cnt - self._peer_fwd_cnt) & MASK < HALF:
            if (self._sent - fwd_cnt) & MASK >= HALF:
                return False
            self._peer_fwd_cnt = fwd_cnt
        return True

    def _payload(self, length: int) -> Event:
        if not self.is_open or self.guest_ended & SEND:
            return Event.BROKEN
        if length > self.room - ((self._received - self.fwd_cnt) & MASK):
            return Event.BROKEN
        self._received = (self._received + length) & MASK
        return Event.DATA

    # --- from the host

    def forwarded(self, count: int) -> None:
        """`count` more bytes of the guest's are done with. It is told when it may think that half its room is used.

        Linux (6.12.95, say) has no more on its way than its own buffer holds, whatever room it is given; so a smaller
        buffer of the guest's counts as the room, or it would wait for good.
        """
        self.fwd_cnt = (self.fwd_cnt + count) & MASK
        room = min(self.room, self._peer_room)
        if (self._received - self._told_fwd_cnt) & MASK >= room >> 1 and not self.guest_ended & SEND:
            self._due_update = self.fwd_cnt != self._told_fwd_cnt

    def end(self, flags: int) -> None:
        """The host will send (SEND) or receive (RCV) no more. What it sent before must have gone out by `sent`."""
        if flags & ~self.host_ended:
            self.host_ended |= flags
            self._due_shutdown = True

    def ask_for_credit(self) -> None:
        """A CREDIT_REQUEST is due, if nothing else is: for a guest that has not said for long that it has room."""
        if self._due_op is None:
            self._due_op = Op.CREDIT_REQUEST

    # --- to the guest

    @property
    def credit(self) -> int:
        """How many bytes the guest has room for, 0 before it is open and after it receives no more."""
        if not self.is_open or self.guest_ended & RCV:
            return 0
        credit = self._peer_room - ((self._sent - self._peer_fwd_cnt) & MASK)
        return credit if credit > 0 else 0

    @property
    def due(self) -> bool:
        """Whether there is a packet without payload to be sent."""
        return self._due_op is not None or self._due_update or (self._due_shutdown and self.is_open)

    @property
    def is_known(self) -> bool:
        """Whether the guest has heard of the connection."""
        return self._due_op is not Op.REQUEST

    def say(self) -> tuple[int, int]:
        """The next packet without payload: op, flags. There must be one due."""
        if self._due_op is not None:
            op, self._due_op = self._due_op, None
            return op, 0
        if self._due_update:
            return Op.CREDIT_UPDATE, 0
        self._due_shutdown = False
        return Op.SHUTDOWN, self.host_ended

    def sent(self, count: int) -> None:
        """`count` bytes of payload, at most `credit`, are on their way."""
        self._sent = (self._sent + count) & MASK

    def stamp(self) -> tuple[int, int]:
        """`buf_alloc` and `fwd_cnt` for the header of a packet that goes out now."""
        self._told_fwd_cnt = self.fwd_cnt
        self._due_update = False
        return self.room, self.fwd_cnt
