"""What can go wrong between a driver, a front end and a device.

TransportError (SubosError)
├── BadMessage       a vhost-user message that its state or the specification forbids: refused, the session lives
├── BadMemory        regions that cannot be mapped: refused, the session lives
└── RingError        the driver broke its ring: the queue ends until it is set up anew, the device lives
    └── BadChain     a descriptor chain that loops, is too long, or points outside guest memory
"""

from __future__ import annotations

from ..errors import SubosError


class TransportError(SubosError):
    """Between a driver, a front end and a device."""


class BadMessage(TransportError):
    """A vhost-user message that its state or the specification forbids."""


class BadMemory(TransportError):
    """Memory regions that cannot be mapped."""


class RingError(TransportError):
    """The driver broke its ring."""


class BadChain(RingError):
    """A descriptor chain that loops, is too long, or points outside guest memory."""
