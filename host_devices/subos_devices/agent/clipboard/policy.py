"""What of a clipboard may pass between host and guest, by rules such as `from-guest.image=deny`.

DIRECTION[.TYPE]=ACTION   direction: to-guest, from-guest or both; type: text, html, image, files or other
limit[.TYPE]=SIZE         what may pass at once (64K, 256M, 4G)
primary=DIRECTION         which way what is marked with the mouse may pass, by the same rules; off: neither way

Actions: allow, deny, ask (a person is asked when somebody pastes) and, without a type, text-only. Later rules win.

What is marked passes from the guest alone, unless a rule says more. A guest may read at once what it is offered, and
nobody who marks a line, perhaps to overwrite it, thinks of showing it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ...errors import UserError

TO_GUEST, FROM_GUEST = "to-guest", "from-guest"
DIRECTIONS = (TO_GUEST, FROM_GUEST)
TYPES = ("text", "html", "image", "files", "other")
ACTIONS = ("allow", "deny", "ask")
FILES = "application/x-subos-files"
DEFAULT_LIMIT = 256 << 20  # bytes
DEFAULT = {"text": "allow", "html": "allow", "image": "allow", "files": "ask", "other": "deny"}
PRIMARY = ("both", TO_GUEST, FROM_GUEST, "off")
DEFAULT_PRIMARY = FROM_GUEST
FORM = "DIRECTION[.TYPE]=ACTION"
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30}


def type_of(mime: str) -> str:
    """The type, as rules name it, of a MIME type."""
    name = mime.partition(";")[0].strip().lower()
    if name == FILES:
        return "files"
    if name in ("text/html", "text/rtf"):
        return "html"
    if name == "text/plain":
        return "text"
    return "image" if name.startswith("image/") else "other"


@dataclass
class Rules:
    """`actions` by (direction, type); `limits` in bytes, by type; `primary` one of PRIMARY."""

    on: bool = True
    actions: dict[tuple[str, str], str] = field(
        default_factory=lambda: {(way, kind): action for way in DIRECTIONS for kind, action in DEFAULT.items()}
    )
    limits: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TYPES, DEFAULT_LIMIT))
    primary: str = DEFAULT_PRIMARY

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Rules:
        """Raises UserError."""
        rules = cls()
        for text in texts:
            rules.apply(text)
        return rules

    def apply(self, text: str) -> None:
        """One more rule; `on` and `off` too. Raises UserError."""
        if text in ("on", "off"):
            self.on = text == "on"
            return
        left, equals, action = text.partition("=")
        if equals and left == "primary":
            self._set_primary(action)
            return
        where, _, kind = left.partition(".")
        if not equals or kind not in ("", *TYPES) or where not in (*DIRECTIONS, "both", "limit"):
            raise UserError(
                f"{text!r} is no rule for a clipboard",
                f"write on, off, {FORM}, limit[.TYPE]=SIZE or primary=DIRECTION; directions: to-guest, from-guest, "
                f"both; types: {', '.join(TYPES)}",
            )
        kinds = (kind,) if kind else TYPES
        if where == "limit":
            self.limits.update(dict.fromkeys(kinds, _size(action)))
            return
        for way in DIRECTIONS if where == "both" else (where,):
            self._set(way, kind, kinds, action)

    def _set_primary(self, ways: str) -> None:
        if ways not in PRIMARY:
            raise UserError(f"{ways!r} is no direction for what is marked", f"there are {', '.join(PRIMARY)}")
        self.primary = ways

    def _set(self, way: str, kind: str, kinds: tuple[str, ...], action: str) -> None:
        if action == "text-only" and not kind:
            self.actions.update({(way, each): "allow" if each == "text" else "deny" for each in TYPES})
        elif action in ACTIONS:
            self.actions.update({(way, each): action for each in kinds})
        else:
            raise UserError(f"{action!r} is no action", f"there are {', '.join(ACTIONS)}, and text-only without a type")

    def action(self, direction: str, mime: str, primary: bool = False) -> str:
        """allow, deny or ask; `primary`: for what is marked, not copied."""
        if not self.on or (primary and self.primary not in ("both", direction)):
            return "deny"
        return self.actions[direction, type_of(mime)]

    def limit(self, mime: str) -> int:
        """Bytes."""
        return self.limits[type_of(mime)]

    def table(self) -> dict[str, object]:
        """What `subos-devices clipboard VM policy --json` prints."""
        return {
            "on": self.on,
            **{way: {kind: self.actions[way, kind] for kind in TYPES} for way in DIRECTIONS},
            "limits": dict(self.limits),
            "primary": self.primary,
        }

    def texts(self) -> list[str]:
        """Rules that make the same of the default ones."""
        return [
            *(f"{way}.{kind}={action}" for (way, kind), action in self.actions.items()),
            *(f"limit.{kind}={size}" for kind, size in self.limits.items()),
            f"primary={self.primary}",
            "on" if self.on else "off",
        ]


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMG]?)", text.strip().upper())
    if match is None:
        raise UserError(f"{text!r} is no size", "write it as 64K, 256M or 4G")
    return int(match[1]) << _UNITS[match[2]]
