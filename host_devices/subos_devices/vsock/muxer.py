"""Many streams over two queues: between host sockets and the guest's ring, fairly, and with bounded memory.

From guest to host data go by `sendmsg` on guest memory; only what the host's program does not take at once is kept, up
to the room that its connection was given. From host to guest they go by `recvmsg_into` into the guest's receive
buffers; what has no room there, or in the guest's socket, stays in the host's. Nothing here waits.

Streams that have something for the guest stand in one line (`_turns`), and each has its turn of a few packets. Resets
go first. They are the one thing that a guest can have us queue, so while too many wait, its packets do.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections import deque

from subos_protocol.vsock import PRIVILEGED_PORTS, VMADDR_CID_HOST, Op, Type

from ..vhost_user.device import Worker
from ..vhost_user.virtqueue import Virtqueue
from . import host
from .buffers import Header, ReceiveBuffer, ReceiveBuffers, read
from .connection import BOTH, RCV, RW, SEND, Connection, Event
from .known import MAX_CONNECTIONS, NOWHERE, OPEN, OPENED, REFUSED, TO_GUEST, TO_HOST, Known
from .stream import Stream, Waiting

WIDE, NARROW = 256 << 10, 16 << 10  # bytes of room of a connection; Linux has 256 KiB in the other direction
WIDE_CONNECTIONS = 256  # so many have the wide one: 124 MiB for all of them are the most that a guest can fill
PACKETS = 64  # of the guest, and turns of streams, before others have theirs
BURST = 16  # receive buffers that one stream may fill in its turn
MAX_RESETS = 256  # waiting for receive buffers, before the guest's packets wait, too
ACCEPTS = 64  # clients at once
FIRST_PORT = 1 << 30  # of the host's clients; Linux gives its own programs lower ones
EVENTS = 256  # of host sockets, likewise
MOST_PARTS = 1000  # of one packet that go into one system call (IOV_MAX is 1024)

HOLD = 0.005  # seconds, or a quarter of the queue, before transmit buffers are given back
MOST_HELD = 64 << 10  # bytes of payload, likewise
TICK = 0.5  # seconds between two looks at deadlines
LIMITS = {Waiting.FOR_LINE: 10.0, Waiting.FOR_GUEST: 10.0, Waiting.FOR_CREDIT: 1.0, Waiting.FOR_END: 10.0}  # seconds
STOPPED_PATIENCE = 10.0  # seconds without a ring, after which the guest is taken for gone

_READ = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
_READ_AND_WRITE = _READ | select.EPOLLOUT
_HUNG = select.EPOLLHUP | select.EPOLLERR
_ENDING = select.EPOLLRDHUP | _HUNG
_STREAM = int(Type.STREAM)


class Muxer:
    """`listener` is the socket at `path`; it stays the caller's. `limit` is how many connections there may be."""

    def __init__(self, listener: int, path: str, cid: int, limit: int, worker: Worker, known: Known) -> None:
        self._path, self._cid, self._limit = path, cid, min(limit, MAX_CONNECTIONS)
        self._worker, self._known, self._words = worker, known, known.words
        self._rx: ReceiveBuffers | None = None
        self._tx: Virtqueue | None = None
        self._served: list[int] = []  # heads of transmit buffers that the guest can have back
        self._held_parts = self._held_bytes = 0
        self._giving_back = False
        self._stopped: dict[int, int] = {}  # used index of a queue that was stopped
        self._stopped_at = 0.0
        self._streams: dict[int, Stream] = {}  # by host port << 32 | guest port
        self._sockets: dict[int, Stream] = {}  # by descriptor
        self._all: set[Stream] = set()
        self._timed: set[Stream] = set()
        self._wide = 0
        self._turns: deque[Stream] = deque()
        self._resets: deque[tuple[int, int, int, int]] = deque()  # host port, guest port, type, place in `known`
        self._next_port = FIRST_PORT | int.from_bytes(os.urandom(3), "little")
        self._ticking = False
        self._epoll = select.epoll()
        self._listener = socket.socket(fileno=os.dup(listener))
        self._listener.setblocking(False)
        self._listener.listen(host.BACKLOG)
        self._listening = False
        self._listen()
        worker.watch(self._epoll.fileno(), self._look)
        for place, host_port, guest_port in known.start():
            self._resets.append((host_port, guest_port, _STREAM, place))

    def close(self) -> None:
        for stream in list(self._all):
            self._drop(stream)
        self._worker.unwatch(self._epoll.fileno())
        self._listener.close()
        self._epoll.close()

    # --- queues

    def rx_started(self, queue: Virtqueue) -> None:
        self._resume(queue)
        self._rx = ReceiveBuffers(queue)

    def tx_started(self, queue: Virtqueue) -> None:
        self._resume(queue)
        self._tx = queue

    def stopped(self, queue: Virtqueue) -> None:
        """No view into guest memory is left. Whether the guest was reset or is only paused will be seen later."""
        if self._rx is not None and self._rx.queue is queue:
            self._rx = None
        if self._tx is queue:
            self._give_back()
            self._tx = None
        self._stopped[queue.index] = queue.used_index
        self._stopped_at = time.monotonic()
        self._tick_later()

    def _resume(self, queue: Virtqueue) -> None:
        """A ring that does not go on where it was is a new driver's, which knows of no connection."""
        if self._stopped.pop(queue.index, queue.used_index) != queue.used_index:
            for stream in list(self._all):
                if stream.connection is not None:
                    self._drop(stream)
            for *_, place in self._resets:
                self._known.forget(place)
            self._resets.clear()

    # --- from the guest

    def take(self, queue: Virtqueue) -> None:
        """Serves what the guest has sent. Raises RingError."""
        queue.more = False
        for _ in range(PACKETS):
            if len(self._resets) >= MAX_RESETS:
                break  # `fill` goes on here
            chain = queue.pop()
            if chain is None:
                break
            packet = read(chain.readable)
            if packet is not None:
                self._packet(*packet)
                self._held_bytes += packet[0][4]
            self._served.append(chain.head)
            self._held_parts += len(chain.readable)
        else:
            queue.more = True
        if self._held_parts * 4 >= queue.size or self._held_bytes > MOST_HELD:
            self._give_back()
        elif self._served and not self._giving_back:
            self._giving_back = True
            self._worker.alarm(HOLD, self._give_back_late)
        self._kick_rx()

    def _give_back(self) -> None:
        """The guest gets its transmit buffers back. They were held for a moment, so that it is interrupted once for
        many: it only frees them. But not for many bytes: Linux counts what it has not got back against the sender's
        SO_SNDBUF, and while half of that is used it wakes nobody who waits for credit."""
        queue = self._tx
        if queue is not None and self._served:
            for head in self._served:
                queue.push(head, 0)
            self._served.clear()
            self._held_parts = self._held_bytes = 0
            queue.signal()

    def _give_back_late(self) -> None:
        self._giving_back = False
        self._give_back()

    def _packet(self, header: Header, payload: list[memoryview]) -> None:
        src_cid, dst_cid, guest_port, host_port, length, kind, op, flags, buf_alloc, fwd_cnt = header
        if src_cid != self._cid or dst_cid != VMADDR_CID_HOST:
            return
        stream = self._streams.get(host_port << 32 | guest_port)
        if stream is None or kind != _STREAM:
            if op == Op.REQUEST and kind == _STREAM:
                self._connect(host_port, guest_port, buf_alloc)
            elif op != Op.RST:
                self._resets.append((host_port, guest_port, kind, NOWHERE))
            return
        connection = stream.connection
        assert connection is not None
        if op == RW and length > sum(map(len, payload)):
            event = Event.BROKEN
        else:
            event = connection.receive(op, flags, length, buf_alloc, fwd_cnt)
        if event is Event.DATA:
            self._deliver(stream, connection, payload, length)
        elif event is Event.OPENED:
            self._opened(stream, connection)
        elif event is Event.ENDED:
            self._settle(stream, connection)
        elif event is Event.GONE:
            self._leave(stream)
        elif event is Event.BROKEN:
            self._reset(stream)
        if stream.readable or connection.due:
            self._queue(stream)

    def _connect(self, host_port: int, guest_port: int, buf_alloc: int) -> None:
        """A program of the guest wants to reach a port of the host.

        Ports below 1024 of the host are for those of the guest's programs that may bind such a port themselves, as
        with rsh of old: so an ordinary user of the guest cannot pass for a service of it, the agent, say.
        """
        try:
            if host_port < PRIVILEGED_PORTS <= guest_port or len(self._all) >= self._limit:
                raise PermissionError
            sock = host.connect(self._path, host_port)
        except OSError:
            self._words[REFUSED] += 1
            self._resets.append((host_port, guest_port, _STREAM, NOWHERE))
            return
        stream = self._stream(sock, Waiting.FOR_NOTHING)
        self._bind(stream, Connection.from_guest(host_port, guest_port, self._room(stream), buf_alloc))
        self._words[OPENED] += 1

    def _deliver(self, stream: Stream, connection: Connection, payload: list[memoryview], length: int) -> None:
        """Hands the guest's data to the host's program; what it does not take now is kept."""
        self._words[TO_HOST] += length
        if stream.sock is None or connection.host_ended & RCV:
            connection.forwarded(length)
            return
        if sum(map(len, payload)) != length:
            payload = _first(payload, length)
        taken = 0
        if not stream.backlog:
            try:
                taken = stream.sock.sendmsg(payload[:MOST_PARTS])
            except BlockingIOError:
                pass
            except OSError:  # it reads no more
                connection.end(RCV)
                connection.forwarded(length)
                return
        if taken < length:
            self._keep(stream, payload, taken)
        connection.forwarded(taken)

    def _keep(self, stream: Stream, payload: list[memoryview], skip: int) -> None:
        if not stream.backlog and stream.sock is not None:
            self._epoll.modify(stream.sock, _READ_AND_WRITE)
        for part in payload:
            stream.backlog += part[skip:]
            skip = max(0, skip - len(part))

    def _flush(self, stream: Stream) -> None:
        """The host's program reads again."""
        assert stream.sock is not None
        try:
            taken = stream.sock.send(stream.backlog)
        except BlockingIOError:
            return
        except OSError:  # it never will
            taken = len(stream.backlog)
        del stream.backlog[:taken]
        if not stream.backlog:
            self._epoll.modify(stream.sock, _READ)
        connection = stream.connection
        if connection is not None:
            connection.forwarded(taken)
            self._settle(stream, connection)
        elif not stream.backlog:
            self._drop(stream)

    def _settle(self, stream: Stream, connection: Connection) -> None:
        """Passes on what the guest has ended, once all that it sent before has gone out."""
        ended = connection.guest_ended
        if stream.sock is not None:
            if ended & RCV:
                stream.readable = False
                _shut_down(stream.sock, socket.SHUT_RD)
            if ended & SEND and not stream.backlog:
                _shut_down(stream.sock, socket.SHUT_WR)
        if ended == BOTH and not stream.backlog:
            self._reset(stream)

    def _opened(self, stream: Stream, connection: Connection) -> None:
        """The guest's program has accepted the host's client."""
        assert stream.sock is not None
        self._words[OPENED] += 1
        self._wait(stream, Waiting.FOR_NOTHING)
        stream.readable = True
        with contextlib.suppress(OSError):  # of one that is gone: reading says so
            stream.sock.send(b"OK %d\n" % connection.host_port)

    # --- to the guest

    def fill(self, queue: Virtqueue) -> None:
        """Sends what is due, as far as the guest has given buffers. Raises RingError."""
        rx = self._rx
        if rx is None or rx.queue is not queue:
            return
        queue.more = False
        if self._resets:
            self._send_resets(rx)
        turns = self._turns
        for _ in range(PACKETS):
            if not turns:
                break
            stream = turns.popleft()
            stream.queued = False
            again = self._serve(stream, rx)
            if again is None:  # no buffers: its turn is still to come
                stream.queued = True
                turns.appendleft(stream)
                break
            if again and not stream.queued:
                self._queue(stream)
        else:
            queue.more = bool(turns)
        queue.signal()

    def _send_resets(self, rx: ReceiveBuffers) -> None:
        resets = self._resets
        while resets and (buffers := rx.take()):
            host_port, guest_port, kind, place = resets.popleft()
            rx.send(buffers[0], VMADDR_CID_HOST, self._cid, host_port, guest_port, 0, kind, Op.RST, 0, 0, 0)
            self._known.forget(place)
        if self._tx is not None and len(resets) < MAX_RESETS:
            self._tx.more = True  # its packets may have waited for this

    def _serve(self, stream: Stream, rx: ReceiveBuffers) -> bool | None:
        """One stream's turn. True where it has more for the guest, None where there were no buffers."""
        connection = stream.connection
        if connection is None:
            return False
        while connection.due:
            buffers = rx.take()
            if not buffers:
                return None
            op, flags = connection.say()
            self._send(rx, buffers[0], connection, op, flags, 0)
        if not stream.readable or stream.sock is None or not connection.is_open:
            return False
        return self._read(stream, stream.sock, connection, rx)

    def _read(self, stream: Stream, sock: socket.socket, connection: Connection, rx: ReceiveBuffers) -> bool | None:
        """Reads from the host's program into the guest's buffers, as `_serve`."""
        credit = connection.credit
        if not credit:
            if connection.guest_ended & RCV:
                stream.readable = False
                if stream.hung:
                    self._host_gone(stream, connection)
            elif stream.waiting is Waiting.FOR_NOTHING:
                self._wait(stream, Waiting.FOR_CREDIT)
            return False
        buffers = rx.take(stream.burst)
        if not buffers:
            return None
        places, room = _places(buffers, credit)
        try:
            count, _, flags, _ = sock.recvmsg_into(places)
        except BlockingIOError:
            rx.give_back(buffers)
            stream.readable = False
            return False
        except OSError:
            count, flags, stream.hung = 0, 0, True
        if not count:
            rx.give_back(buffers)
            return self._host_ended(stream, connection)
        connection.sent(count)
        self._words[TO_GUEST] += count
        used, left = 0, count
        while left:
            buffer = buffers[used]
            length = min(left, buffer.room)
            self._send(rx, buffer, connection, RW, 0, length)
            left -= length
            used += 1
        rx.give_back(buffers[used:])
        if count == room:
            stream.burst = min(2 * stream.burst, BURST)
            return True
        stream.burst = used
        # Less than there was room for: that was all, for now (epoll(7)). Descriptors beside the data cut it short.
        stream.readable = stream.ending or bool(flags & socket.MSG_CTRUNC)
        return stream.readable

    def _send(
        self, rx: ReceiveBuffers, buffer: ReceiveBuffer, connection: Connection, op: int, flags: int, length: int
    ) -> None:
        rx.send(
            *(buffer, VMADDR_CID_HOST, self._cid, connection.host_port, connection.guest_port),
            *(length, _STREAM, op, flags, *connection.stamp()),
        )

    def _host_ended(self, stream: Stream, connection: Connection) -> bool:
        """There is nothing more to be read from the host's program."""
        stream.readable = False
        if stream.hung:
            self._host_gone(stream, connection)
        else:
            connection.end(SEND)
        return connection.due

    def _host_gone(self, stream: Stream, connection: Connection) -> None:
        """The host's program has closed its socket: what the guest sent and it has not read is lost."""
        if connection.guest_ended == BOTH or not connection.is_open:
            self._reset(stream)
            return
        self._close_socket(stream)
        connection.forwarded(len(stream.backlog))
        stream.backlog.clear()
        connection.end(BOTH)
        self._wait(stream, Waiting.FOR_END)

    # --- host sockets

    def _look(self) -> None:
        """Takes in what has happened to the host's sockets."""
        for fd, events in self._epoll.poll(0, EVENTS):
            stream = self._sockets.get(fd)
            if stream is None:
                if fd == self._listener.fileno():
                    self._accept()
                continue
            stream.ending |= bool(events & _ENDING)
            stream.hung |= bool(events & _HUNG)
            if events & select.EPOLLOUT and stream.backlog:
                self._flush(stream)
            if stream not in self._all:
                continue
            if stream.waiting is Waiting.FOR_LINE:
                self._handshake(stream)
            elif stream.connection is None:
                if stream.hung:
                    self._drop(stream)
            elif stream.hung and not stream.connection.is_open:
                self._reset(stream)
            else:
                stream.readable = True
                self._queue(stream)
        self._kick_rx()

    def _accept(self) -> None:
        for _ in range(ACCEPTS):
            if len(self._all) >= self._limit:
                self._listen(False)  # those that come wait in its backlog
                return
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:  # no descriptors: a little later, perhaps
                self._listen(False)
                self._tick_later()
                return
            sock.setblocking(False)
            self._stream(sock, Waiting.FOR_LINE)

    def _handshake(self, stream: Stream) -> None:
        """What a client wants. One that does not say so in due form is turned away."""
        assert stream.sock is not None
        try:
            line = host.first_line(stream.sock)
            guest_port = None if line is None else host.parse_connect(line)
        except (OSError, ValueError):
            self._words[REFUSED] += 1
            self._drop(stream)
            return
        if guest_port is None:
            return
        host_port = self._next_port
        while host_port << 32 | guest_port in self._streams:
            host_port = _port_after(host_port)
        self._next_port = _port_after(host_port)
        self._bind(stream, Connection.to_guest(host_port, guest_port, self._room(stream)))
        self._wait(stream, Waiting.FOR_GUEST)

    def _stream(self, sock: socket.socket, waiting: Waiting) -> Stream:
        stream = Stream(sock)
        self._all.add(stream)
        self._sockets[sock.fileno()] = stream
        self._epoll.register(sock, _READ)
        self._wait(stream, waiting)
        return stream

    def _room(self, stream: Stream) -> int:
        """How much is kept of what the guest sends for this one."""
        stream.wide = self._wide < WIDE_CONNECTIONS
        self._wide += stream.wide
        return WIDE if stream.wide else NARROW

    def _bind(self, stream: Stream, connection: Connection) -> None:
        stream.connection = connection
        stream.place = self._known.note(connection.host_port, connection.guest_port)
        self._streams[connection.host_port << 32 | connection.guest_port] = stream
        self._words[OPEN] = len(self._streams)
        self._queue(stream)

    def _queue(self, stream: Stream) -> None:
        """It gets a turn."""
        if not stream.queued and stream in self._all:
            stream.queued = True
            self._turns.append(stream)
        if stream.waiting is Waiting.FOR_CREDIT:
            self._wait(stream, Waiting.FOR_NOTHING)

    def _kick_rx(self) -> None:
        if self._rx is not None and (self._turns or self._resets):
            self._worker.kick(self._rx.queue)

    def _listen(self, on: bool = True) -> None:
        if on and not self._listening:
            self._epoll.register(self._listener, select.EPOLLIN)
        elif self._listening and not on:
            self._epoll.unregister(self._listener)
        self._listening = on

    # --- ends

    def _leave(self, stream: Stream) -> None:
        """The guest has reset the connection. The host still gets what was sent before."""
        if stream.backlog and stream.sock is not None:
            self._unbind(stream)
            self._known.forget(stream.place)
            stream.place, stream.connection = NOWHERE, None
            _shut_down(stream.sock, socket.SHUT_RD)
        else:
            self._drop(stream)

    def _reset(self, stream: Stream) -> None:
        """The guest is told that the connection is over, if it has heard of it, and the host's socket is closed."""
        connection = stream.connection
        if connection is not None and connection.is_known and stream in self._all:
            self._resets.append((connection.host_port, connection.guest_port, _STREAM, stream.place))
            stream.place = NOWHERE
        self._drop(stream)

    def _drop(self, stream: Stream) -> None:
        """Nothing is left of it here."""
        if stream not in self._all:
            return
        self._all.discard(stream)
        self._timed.discard(stream)
        self._unbind(stream)
        self._known.forget(stream.place)
        self._wide -= stream.wide
        if stream.queued:
            self._turns.remove(stream)
        stream.backlog.clear()
        self._close_socket(stream)
        if not self._listening and len(self._all) < self._limit:
            self._listen()

    def _unbind(self, stream: Stream) -> None:
        connection = stream.connection
        if connection is not None:
            del self._streams[connection.host_port << 32 | connection.guest_port]
            self._words[OPEN] = len(self._streams)

    def _close_socket(self, stream: Stream) -> None:
        if stream.sock is not None:
            del self._sockets[stream.sock.fileno()]
            stream.sock.close()  # which takes it out of the epoll, too
            stream.sock = None
        stream.readable = False

    # --- time

    def _wait(self, stream: Stream, waiting: Waiting) -> None:
        stream.waiting = waiting
        limit = LIMITS.get(waiting)
        if limit is None:
            self._timed.discard(stream)
            return
        stream.deadline = time.monotonic() + limit
        self._timed.add(stream)
        self._tick_later()

    def _tick_later(self) -> None:
        if not self._ticking:
            self._ticking = True
            self._worker.alarm(TICK, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        now = time.monotonic()
        for stream in [stream for stream in self._timed if now > stream.deadline]:
            if stream.waiting is Waiting.FOR_CREDIT and stream.connection is not None:
                stream.connection.ask_for_credit()
                self._queue(stream)
            else:
                self._reset(stream)
        if self._stopped and now - self._stopped_at > STOPPED_PATIENCE:
            for stream in [stream for stream in self._all if stream.connection is not None]:
                self._reset(stream)  # goes out if it was a pause, after all
        elif self._stopped:
            self._tick_later()
        if not self._listening and len(self._all) < self._limit:
            self._listen()
        if self._timed:
            self._tick_later()
        self._kick_rx()


def _first(buffers: list[memoryview], length: int) -> list[memoryview]:
    """The first `length` bytes of what the buffers hold, in at least as many."""
    found = []
    for buffer in buffers:
        found.append(buffer[:length])
        length -= len(found[-1])
        if not length:
            break
    return found


def _places(buffers: list[ReceiveBuffer], credit: int) -> tuple[list[memoryview], int]:
    """Where payload may go, and how much."""
    room = 0
    places: list[memoryview] = []
    for buffer in buffers:
        places += buffer.payload
        room += buffer.room
    return (places, room) if room <= credit else (_first(places, credit), credit)


def _port_after(port: int) -> int:
    return port + 1 if port + 1 < 2 * FIRST_PORT else FIRST_PORT


def _shut_down(sock: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(how)
