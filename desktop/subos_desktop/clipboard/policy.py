"""What may pass between two clipboards: what a bridge asks before it offers, gives or takes anything."""

from __future__ import annotations

from typing import Protocol

OUT, IN = "out", "in"
"""Directions, as this side sees them: what is copied here and pasted there, and the reverse."""


class Policy(Protocol):
    """What may pass. All of it is asked with the direction, OUT or IN, and a MIME type."""

    logs: bool
    """Whether `record` wants the digest, which under emulation costs more than the way."""

    def allows(self, direction: str, mime: str) -> bool:
        """Whether the format is offered at all. Asked again with every chunk: the answer may change on the way."""

    def limit(self, mime: str) -> int:
        """Bytes at most."""

    async def approve(self, direction: str, mime: str, copy: int) -> bool:
        """Asked when somebody pastes; may ask a person. `copy` is another number for each thing that was copied."""

    def record(self, direction: str, mime: str, size: int, digest: str, complete: bool) -> None:
        """So much has passed; `digest` is its SHA-256, where it `logs`. Not `complete`: then it was broken off."""


class AllowAll:
    """The guest's: what is to be kept apart is the host's decision."""

    logs = False

    def __init__(self, limit: int = 256 << 20) -> None:
        self._limit = limit

    def allows(self, direction: str, mime: str) -> bool:
        return True

    def limit(self, mime: str) -> int:
        return self._limit

    async def approve(self, direction: str, mime: str, copy: int) -> bool:
        return True

    def record(self, direction: str, mime: str, size: int, digest: str, complete: bool) -> None:
        pass
