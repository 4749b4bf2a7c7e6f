"""A guest's vsock driver, over a simulated VM: it sends packets, gives receive buffers, and collects what comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from subos_devices.testing import FrontEnd, NoAnswer
from subos_protocol.vsock import HDR_SIZE, RXQ, TXQ, VIRTIO_VSOCK_HDR, VMADDR_CID_HOST, Type, virtio_vsock_hdr

CID = 3
BUFFER = 4096  # bytes, as Linux's are
BUFFERS = 64


@dataclass(frozen=True)
class Packet:
    src_cid: int
    dst_cid: int
    src_port: int
    dst_port: int
    type: int
    op: int
    flags: int
    buf_alloc: int
    fwd_cnt: int
    payload: bytes


class Driver:
    """`rx` and `tx` are the rings. All that comes is checked to be well formed."""

    def __init__(self, vm: FrontEnd, buffers: int = BUFFERS) -> None:
        self.vm = vm
        self.rx, self.tx = vm.queue(RXQ, 128), vm.queue(TXQ, 128)
        self.interrupts = 0
        self.packets = 0
        self._waiting: list[Packet] = []
        self.give(buffers)

    def again(self) -> None:
        """The guest was reset, and its driver begins anew."""
        self._waiting.clear()
        self.give(BUFFERS)

    # --- from the device

    def give(self, count: int, sizes: Sequence[int] = (BUFFER,)) -> None:
        """Gives receive buffers, each cut as `sizes` says."""
        for _ in range(count):
            self.rx.add(writable=sizes)
        self.rx.kick()

    def use_up(self) -> None:
        """Takes back no buffer that was given before the last one: resets that nobody waits for fill them."""
        for _ in range(BUFFERS):
            if len(self.rx.in_flight) == 1:
                return
            self.send(7, 1, 2)  # CREDIT_REQUEST of no connection
            self.next(give=False)

    def next(self, timeout: float | None = None, *, give: bool = True) -> Packet:
        """The next packet. Its buffer is given again unless `give` is False."""
        while not self._waiting:
            self._waiting.append(self._packet(self.rx.wait(timeout=timeout).buffers))
            if give:
                self.give(1)
        self.packets += 1
        return self._waiting.pop(0)

    def expect(self, op: int) -> Packet:
        """The next packet, which must say `op`; updates of credit before it are passed over."""
        packet = self.next()
        while packet.op != op and packet.op == 6:
            packet = self.next()
        assert packet.op == op, packet
        return packet

    def expect_credit(self, request: Packet, fwd_cnt: int) -> None:
        """Waits until the device has said that at least so many bytes were taken."""
        packet = self.next()
        while packet.src_port != request.src_port or packet.fwd_cnt < fwd_cnt:
            packet = self.next()

    def there(self) -> Iterator[Packet]:
        """What is there, without waiting."""
        yield from self._waiting
        self._waiting.clear()
        done = self.rx.collect()
        if done:
            self.give(len(done))
        for pending in done:
            yield self._packet(pending.buffers)

    def _packet(self, buffers: list[bytes]) -> Packet:
        data = b"".join(buffers)
        header = VIRTIO_VSOCK_HDR.unpack(data)
        assert len(data) == HDR_SIZE + header.len, header
        assert (header.src_cid, header.dst_cid) == (VMADDR_CID_HOST, CID)
        fields = header._asdict()
        del fields["len"]
        return Packet(**fields, payload=data[HDR_SIZE:])

    # --- to the device

    def send(
        self,
        op: int,
        src_port: int,
        dst_port: int,
        payload: bytes = b"",
        *,
        flags: int = 0,
        buf_alloc: int = 1 << 20,
        fwd_cnt: int = 0,
        type: int = Type.STREAM,
        src_cid: int = CID,
        dst_cid: int = VMADDR_CID_HOST,
        length: int | None = None,
        sizes: Sequence[int] = (),
        timeout: float | None = None,
    ) -> None:
        """One packet. `length` is what its header claims, `sizes` are its buffers' (default: the header, the rest)."""
        length = len(payload) if length is None else length
        header = virtio_vsock_hdr(src_cid, dst_cid, src_port, dst_port, length, type, op, flags, buf_alloc, fwd_cnt)
        data = VIRTIO_VSOCK_HDR.pack(header) + payload
        parts, start = [], 0
        for size in sizes or ((HDR_SIZE, len(payload)) if payload else (HDR_SIZE,)):
            parts.append(data[start : start + size])
            start += size
        self.send_raw(*parts, timeout=timeout)

    def send_raw(self, *parts: bytes, timeout: float | None = None) -> None:
        """Buffers with anything in them. Waits until the device has given them back, or fails."""
        pending = self.tx.add(parts)
        self.tx.kick()
        try:
            self.tx.wait(pending, timeout=timeout)
        except NoAnswer as error:
            raise AssertionError("the device does not take the packet") from error

    def reply(self, packet: Packet, op: int, payload: bytes = b"", **fields: int) -> None:
        """A packet of the connection that `packet` belongs to; `fields` as those of `send`."""
        self.send(op, packet.dst_port, packet.src_port, payload, **fields)
