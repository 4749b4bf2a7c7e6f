"""What a simulated driver can find wrong with a device.

TestingError (SubosError)
├── NoAnswer         nothing came within the deadline
├── LostInterrupt    a chain was given back, the driver had asked for an interrupt, and none came
├── RingBroken       the device said on the ring's err eventfd that it has given the ring up
├── DeviceFault      the device broke the protocol: an unknown head, more bytes than there was room for, a bad reply
├── Refused          a message was answered with a failure
├── Disconnected     the back end closed the connection
└── RingFull         the driver has no descriptor left
"""

from __future__ import annotations

from ..errors import SubosError


class TestingError(SubosError):
    """Seen from the front end's side."""

    __test__ = False  # no test class, pytest


class NoAnswer(TestingError):
    """Nothing came within the deadline."""


class LostInterrupt(TestingError):
    """A chain was given back, the driver had asked for an interrupt, and none came: a guest would hang here."""


class RingBroken(TestingError):
    """The device has given the ring up, and said so on its err eventfd."""


class DeviceFault(TestingError):
    """The device broke the protocol."""


class Refused(TestingError):
    """A message was answered with a failure."""


class Disconnected(TestingError):
    """The back end closed the connection."""


class RingFull(TestingError):
    """The driver has no descriptor left for one more request."""
