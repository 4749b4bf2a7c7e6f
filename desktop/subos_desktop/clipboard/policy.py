"""What may pass between two clipboards: what a bridge asks before it offers, gives or takes anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .interface import Selection

OUT, IN = "out", "in"
"""Directions, as this side sees them: what is copied here and pasted there, and the reverse."""


@dataclass(frozen=True)
class Passed:
    """`size` bytes have passed, with this SHA-256, where the policy `logs`. Not `complete`: it was broken off."""

    direction: str
    selection: Selection
    mime: str
    copy: int
    size: int
    digest: str
    complete: bool


class Policy(Protocol):
    """What may pass. All of it is asked with the direction, OUT or IN, a selection and a MIME type.

    `copy` is another number for each thing that was copied.
    """

    logs: bool
    """Whether `record` wants the digest, which under emulation costs more than the way."""

    def allows(self, direction: str, selection: Selection, mime: str) -> bool:
        """Whether the format is offered at all. Asked again with every chunk: the answer may change on the way."""

    def limit(self, mime: str) -> int:
        """Bytes at most."""

    async def approve(self, direction: str, selection: Selection, mime: str, copy: int) -> bool:
        """Asked when somebody pastes; may ask a person, or make those wait who paste too often."""

    def over(self, copy: int) -> None:
        """Something else was copied since: nobody pastes this any more."""

    def record(self, passed: Passed) -> None:
        """Of this copy; also after it is over, where it was on its way then."""


class AllowAll:
    """The guest's: what is to be kept apart is the host's decision."""

    logs = False

    def __init__(self, limit: int = 256 << 20) -> None:
        self._limit = limit

    def allows(self, direction: str, selection: Selection, mime: str) -> bool:
        return True

    def limit(self, mime: str) -> int:
        return self._limit

    async def approve(self, direction: str, selection: Selection, mime: str, copy: int) -> bool:
        return True

    def over(self, copy: int) -> None:
        pass

    def record(self, passed: Passed) -> None:
        pass
