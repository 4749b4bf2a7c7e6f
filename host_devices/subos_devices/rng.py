"""virtio-rng: random bytes for the guest (VIRTIO 1.3 §5.4). The smallest whole device, and the example of one.

What a device model needs: a device id, how many queues, and `process`. One queue; the driver makes
writable buffers available, the device fills them. No configuration space, no features.
"""

from __future__ import annotations

import os

from subos_protocol.virtio import DeviceId

from .vhost_user.device import Device
from .vhost_user.virtqueue import Virtqueue, Words

LIMIT = 64 << 10  # bytes a request; a driver that asks for more is told how much it got


class RngDevice(Device):
    """Fills every buffer from the host's own generator."""

    device_id = DeviceId.RNG
    num_queues = 1

    def process(self, queue: Virtqueue) -> None:
        def fill(words: Words) -> int:
            _, buffers = queue.split(words)
            written = 0
            for buffer in buffers:
                data = os.urandom(min(len(buffer), LIMIT - written))
                buffer[: len(data)] = data
                written += len(data)
            return written

        queue.drain(fill)
