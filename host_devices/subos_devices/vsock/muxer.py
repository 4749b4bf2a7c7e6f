"""Many streams over two queues: between host sockets and the guest's ring, fairly, and with bounded memory.

From guest to host data go by `sendmsg` on guest memory; only what the host's program does not take at once is kept, up
to the room that its connection was given. From host to guest they go by `recvmsg_into` into the guest's receive
buffers; what has no room there, or in the guest's socket, stays in the host's. Nothing here waits.

Streams that have something for the guest stand in one line, and each has its turn of a few packets. Resets go first.
They are the one thing that a guest can have us queue, so while too many wait, its packets do.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable

from subos_protocol.vsock import PRIVILEGED_PORTS, VMADDR_CID_HOST, Op

from ..vhost_user.device import Worker
from ..vhost_user.virtqueue import Virtqueue
from .buffers import Header, ReceiveBuffer, ReceiveBuffers, TransmitBuffers, read
from .clients import Clients
from .connection import BOTH, RCV, RW, SEND, Connection, Event
from .known import NOWHERE, OPENED, REFUSED, TO_GUEST, TO_HOST, Known
from .stream import Stream, Waiting
from .table import READ, READ_AND_WRITE, STREAM, Table

PACKETS = 64  # of the guest, and turns of streams, before others have theirs
BURST = 16  # receive buffers that one stream may fill in its turn
MAX_RESETS = 256  # waiting for receive buffers, before the guest's packets wait, too
EVENTS = 256  # of host sockets, before others have their turn
MOST_PARTS = 1000  # of one packet that go into one system call (IOV_MAX is 1024)

TICK = 0.5  # seconds between two looks at deadlines
STOPPED_PATIENCE = 10.0  # seconds without a ring, after which the guest is taken for gone

_HUNG = select.EPOLLHUP | select.EPOLLERR
_ENDING = select.EPOLLRDHUP | _HUNG


class Muxer:
    """`listener` is the socket for clients; it stays the caller's. `connect` leads to a port of the host, or raises
    OSError. `limit` is how many connections there may be."""

    def __init__(
        self,
        listener: int,
        connect: Callable[[int], socket.socket],
        cid: int,
        limit: int,
        worker: Worker,
        known: Known,
    ) -> None:
        self._connect_host, self._cid = connect, cid
        self._worker, self._known, self._words = worker, known, known.words
        self._rx: ReceiveBuffers | None = None
        self._tx: TransmitBuffers | None = None
        self._stopped: dict[int, int] = {}  # used index of a queue that was stopped
        self._stopped_at = 0.0
        self._ticking = False
        self.table = Table(known, limit, self._tick_later)
        self._clients = Clients(listener, self.table)
        worker.watch(self.table.epoll.fileno(), self._look)

    def close(self) -> None:
        self._worker.unwatch(self.table.epoll.fileno())
        self.table.close()
        self._clients.close()

    # --- queues

    def rx_started(self, queue: Virtqueue) -> None:
        self._resume(queue)
        self._rx = ReceiveBuffers(queue)

    def tx_started(self, queue: Virtqueue) -> None:
        self._resume(queue)
        self._tx = TransmitBuffers(queue, self._worker.alarm)

    def stopped(self, queue: Virtqueue) -> None:
        """No view into guest memory is left. Whether the guest was reset or is only paused will be seen later."""
        if self._rx is not None and self._rx.queue is queue:
            self._rx = None
        if self._tx is not None and self._tx.queue is queue:
            self._tx.give_back()
            self._tx = None
        self._stopped[queue.index] = queue.used_index
        self._stopped_at = time.monotonic()
        self._tick_later()

    def front_end_gone(self) -> None:
        """There is no guest to come back."""
        self._stopped.clear()
        self.table.forget_guest()

    def _resume(self, queue: Virtqueue) -> None:
        """A ring that does not go on where it was is a new driver's, which knows of no connection."""
        if self._stopped.pop(queue.index, queue.used_index) != queue.used_index:
            self.table.forget_guest()

    # --- from the guest

    def take(self, queue: Virtqueue) -> None:
        """Serves what the guest has sent. Raises RingError."""
        tx = self._tx
        if tx is None or tx.queue is not queue:
            return
        queue.more = False
        for _ in range(PACKETS):
            if len(self.table.resets) >= MAX_RESETS:
                break  # `_send_resets` has this go on
            buffers = tx.take()
            if buffers is None:
                break
            packet = read(buffers)
            if packet is not None:
                self._packet(*packet)
        else:
            queue.more = True
        tx.settle()
        self._kick_rx()

    def _packet(self, header: Header, payload: list[memoryview]) -> None:
        src_cid, dst_cid, guest_port, host_port, length, kind, op, flags, buf_alloc, fwd_cnt = header
        if src_cid != self._cid or dst_cid != VMADDR_CID_HOST:
            return
        stream = self.table.between(host_port, guest_port)
        if stream is None or kind != STREAM:
            if op == Op.REQUEST and kind == STREAM:
                self._connect(host_port, guest_port, buf_alloc)
            elif op != Op.RST:
                self.table.resets.append((host_port, guest_port, kind, NOWHERE))
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
            self.table.leave(stream)
        elif event is Event.BROKEN:
            self.table.reset(stream)
        if stream.readable or connection.due:
            self.table.queue(stream)

    def _connect(self, host_port: int, guest_port: int, buf_alloc: int) -> None:
        """A program of the guest wants to reach a port of the host.

        Ports below 1024 of the host are for those of the guest's programs that may bind such a port themselves, as
        with rsh of old: so an ordinary user of the guest cannot pass for a service of it, the agent, say.
        """
        try:
            if host_port < PRIVILEGED_PORTS <= guest_port or self.table.full:
                raise PermissionError
            sock = self._connect_host(host_port)
        except OSError:
            self._words[REFUSED] += 1
            self.table.resets.append((host_port, guest_port, STREAM, NOWHERE))
            return
        stream = self.table.add(sock, Waiting.FOR_NOTHING)
        self.table.bind(stream, Connection.from_guest(host_port, guest_port, self.table.room(stream), buf_alloc))
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
            self.table.epoll.modify(stream.sock, READ_AND_WRITE)
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
            self.table.epoll.modify(stream.sock, READ)
        connection = stream.connection
        if connection is not None:
            connection.forwarded(taken)
            self._settle(stream, connection)
        elif not stream.backlog:
            self.table.drop(stream)

    def _settle(self, stream: Stream, connection: Connection) -> None:
        """Passes on what the guest has ended, once all that it sent before has gone out."""
        ended = connection.guest_ended
        if stream.sock is not None:
            if ended & RCV:
                stream.readable = False
                stream.shut_down(socket.SHUT_RD)
            if ended & SEND and not stream.backlog:
                stream.shut_down(socket.SHUT_WR)
        if ended == BOTH and not stream.backlog:
            self.table.reset(stream)

    def _opened(self, stream: Stream, connection: Connection) -> None:
        """The guest's program has accepted the host's client."""
        assert stream.sock is not None
        self._words[OPENED] += 1
        self.table.wait(stream, Waiting.FOR_NOTHING)
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
        if self.table.resets:
            self._send_resets(rx)
        turns = self.table.turns
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
                self.table.queue(stream)
        else:
            queue.more = bool(turns)
        queue.signal()

    def _send_resets(self, rx: ReceiveBuffers) -> None:
        resets = self.table.resets
        while resets and (buffers := rx.take()):
            host_port, guest_port, kind, place = resets.popleft()
            rx.send(buffers[0], VMADDR_CID_HOST, self._cid, host_port, guest_port, 0, kind, Op.RST, 0, 0, 0)
            self._known.forget(place)
        if self._tx is not None and len(resets) < MAX_RESETS:
            self._tx.queue.more = True  # its packets may have waited for this

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
                self.table.wait(stream, Waiting.FOR_CREDIT)
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
            *(length, STREAM, op, flags, *connection.stamp()),
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
            self.table.reset(stream)
            return
        self.table.close_socket(stream)
        connection.forwarded(len(stream.backlog))
        stream.backlog.clear()
        connection.end(BOTH)
        self.table.wait(stream, Waiting.FOR_END)

    # --- host sockets

    def _look(self) -> None:
        """Takes in what has happened to the host's sockets."""
        for fd, events in self.table.epoll.poll(0, EVENTS):
            stream = self.table.of_socket(fd)
            if stream is None:
                if fd == self._clients.fileno():
                    self._clients.accept()
                continue
            stream.ending |= bool(events & _ENDING)
            stream.hung |= bool(events & _HUNG)
            if events & select.EPOLLOUT and stream.backlog:
                self._flush(stream)
            if stream not in self.table:
                continue
            if stream.waiting is Waiting.FOR_LINE:
                self._clients.hear(stream)
            elif stream.connection is None:
                if stream.hung:
                    self.table.drop(stream)
            elif stream.hung and not stream.connection.is_open:
                self.table.reset(stream)
            else:
                stream.readable = True
                self.table.queue(stream)
        self._clients.listen()
        self._kick_rx()

    def _kick_rx(self) -> None:
        if self._rx is not None and (self.table.turns or self.table.resets):
            self._worker.kick(self._rx.queue)

    # --- time

    def _tick_later(self) -> None:
        if not self._ticking:
            self._ticking = True
            self._worker.alarm(TICK, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        now = time.monotonic()
        self.table.expire(now)
        stopped_for = now - self._stopped_at if self._stopped else 0.0
        if stopped_for > STOPPED_PATIENCE:
            self.table.reset_all()  # goes out if it was a pause, after all
        if self.table.timed or 0 < stopped_for <= STOPPED_PATIENCE:
            self._tick_later()
        self._clients.listen()
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
