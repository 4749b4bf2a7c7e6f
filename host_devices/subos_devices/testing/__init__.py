"""A simulated VM for testing vhost-user devices without one: see this folder's README."""

from .driver_queue import DriverQueue, Pending
from .errors import (
    DeviceFault,
    Disconnected,
    LostInterrupt,
    NoAnswer,
    Refused,
    RingBroken,
    RingFull,
    TestingError,
)
from .front_end import FrontEnd
from .ram import GuestRam
from .serving import Served, Supervised, serve, supervise

__all__ = [
    "DeviceFault",
    "Disconnected",
    "DriverQueue",
    "FrontEnd",
    "GuestRam",
    "LostInterrupt",
    "NoAnswer",
    "Pending",
    "Refused",
    "RingBroken",
    "RingFull",
    "Served",
    "Supervised",
    "TestingError",
    "serve",
    "supervise",
]
