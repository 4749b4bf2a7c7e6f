"""What the guest says back on the status queue (VIRTIO 1.3 §5.8.6.2): of that, the lights that the device has.

Sounds, autorepeat, MSC_TIMESTAMP and whatever else a guest may send are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable

from subos_protocol.input_codes import Ev, Led
from subos_protocol.virtio_input import VIRTIO_INPUT_EVENT


class Lights:
    """`state` is 0 or 1 for each light that the guest has spoken of, by the kernel's name."""

    def __init__(self, codes: Iterable[int]) -> None:
        self._names = {code: Led(code).name for code in codes}
        self.state: dict[str, int] = {}

    def hear(self, buffers: Iterable[memoryview]) -> None:
        """One status event, in the readable buffers of its chain; one of another length is ignored."""
        size = VIRTIO_INPUT_EVENT.size
        data = b""
        for buffer in buffers:
            data += buffer[: size + 1 - len(data)]
        if len(data) != size:
            return
        type_, code, value = VIRTIO_INPUT_EVENT.unpack_from(data)
        if type_ == Ev.EV_LED and code in self._names:
            self.state[self._names[code]] = int(value != 0)

    def go_out(self) -> None:
        """A driver begins in the guest, which has lit none of them."""
        self.state = dict.fromkeys(self.state, 0)
