"""What can go wrong with a request to the other side.

ChannelError
├── RemoteError    it said no: a code for programs, a message and perhaps a hint for people
└── ChannelLost    it is gone, or a new process; what was under way may or may not have happened
"""

from __future__ import annotations

from typing import Any, Dict

from .frames import Head

MAXIMUM_TEXT = 4096


class ChannelError(Exception):
    """A request that did not come to its end."""


class RemoteError(ChannelError):
    """`code` is one word: "refused", "unknown-op", "not-found", "cancelled", "busy", "too-large", "failed", …"""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def head(self) -> Head:
        return {"error": self.code, "message": self.message[:MAXIMUM_TEXT], "hint": self.hint[:MAXIMUM_TEXT]}

    @classmethod
    def from_head(cls, head: Dict[str, Any]) -> RemoteError:
        """What the other side said, if in texts of bounded length; whoever shows them makes them printable."""
        code, message, hint = (head.get(name) for name in ("error", "message", "hint"))
        return cls(
            code[:64] if isinstance(code, str) else "failed",
            message[:MAXIMUM_TEXT] if isinstance(message, str) else "it does not say why",
            hint[:MAXIMUM_TEXT] if isinstance(hint, str) else "",
        )


class ChannelLost(ChannelError):
    """The other side is gone."""
