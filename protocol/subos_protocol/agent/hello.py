"""HELLO: what each side says of itself, first."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from ..errors import Malformed
from .frames import Head

VERSION = 1
"""Of the frames. Whatever is added later is a capability, so that this need not change."""
SPEAKS = "subos-agent"
MAXIMUM_NAME = 256
MAXIMUM_CAPABILITIES = 256


@dataclass(frozen=True)
class Hello:
    """`software` and `release` are shown to people; `capabilities` are operations that this side answers, and names of
    what it understands beyond them. Unknown ones are ignored, unknown fields too.

    `instance` is drawn anew by each process: another one means that all streams are gone. `seen` is the other side's
    instance, None before it was heard.
    """

    software: str
    release: str
    capabilities: List[str] = field(default_factory=list)
    version: int = VERSION
    instance: str = field(default_factory=lambda: secrets.token_hex(8))
    seen: Optional[str] = None

    def head(self, seen: Optional[str]) -> Head:
        return {
            "speaks": SPEAKS,
            "version": self.version,
            "software": self.software,
            "release": self.release,
            "capabilities": self.capabilities,
            "instance": self.instance,
            "seen": seen,
        }

    @classmethod
    def from_head(cls, head: Dict[str, Any]) -> Hello:
        """Raises Malformed."""
        if head.get("speaks") != SPEAKS:
            raise Malformed("a HELLO of another protocol")
        version = head.get("version")
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise Malformed("a HELLO without a version")
        capabilities = head.get("capabilities", [])
        if not isinstance(capabilities, list) or len(capabilities) > MAXIMUM_CAPABILITIES:
            raise Malformed("capabilities that are not a list")
        seen = head.get("seen")
        return cls(
            software=_name(head, "software"),
            release=_name(head, "release"),
            capabilities=[name for name in capabilities if isinstance(name, str) and len(name) <= MAXIMUM_NAME],
            version=version,
            instance=_name(head, "instance"),
            seen=None if seen is None else _name(head, "seen"),
        )


def _name(head: Dict[str, Any], field_name: str) -> str:
    value = head.get(field_name)
    if not isinstance(value, str) or not 0 < len(value) <= MAXIMUM_NAME:
        raise Malformed(f"a HELLO without {field_name}")
    return value
