"""Which devices of the host drive which of the guest's: rules, from words and from the settings file."""

from __future__ import annotations

import fnmatch
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import UserError, did_you_mean
from .host import Identity
from .mapping import Mapping, parse_mapping

NEXT_PAD = "next-pad"
FORMS = """\
  NAME                     the device's name, or a part of it with * and ?, in any case: "*Xbox*"
  name:NAME, phys:PLACE    likewise; PLACE is where it is plugged
  id:VENDOR:PRODUCT        in hexadecimal, as lsusb says them: id:045e:028e
  /dev/input/…             that file, a link of /dev/input/by-id too
"""
_HINT = 'a name ("*Xbox*"), id:045e:028e, phys:usb-*, /dev/input/by-id/…, or next-pad'
_KEYS = ("device", "to", "grab", "map", "swap", "invert", "dead_zone", "turbo")


class Rule(NamedTuple):
    """`by` and `what` say which devices of the host; `to` which of the guest's, by name or by kind, if it is said."""

    by: str
    what: str
    to: str = ""
    grab: bool = False
    mapping: Mapping = Mapping()

    def matches(self, identity: Identity, path: Path) -> bool:
        """Whether it is about that device. A rule for the next pad is about none by itself."""
        if self.by == "id":
            return self.what == f"{identity.vendor:04x}:{identity.product:04x}"
        if self.by == "path":
            return os.path.realpath(self.what) == os.fspath(path)
        if self.by == NEXT_PAD:
            return False
        text = identity.phys if self.by == "phys" else identity.name
        return fnmatch.fnmatchcase(text.lower(), self.what.lower())

    def __str__(self) -> str:
        return (
            NEXT_PAD if self.by == NEXT_PAD else self.what if self.by in ("path", "name") else f"{self.by}:{self.what}"
        )


def parse_device(text: str) -> tuple[str, str]:
    """`Rule.by` and `Rule.what`. Raises UserError."""
    if text == NEXT_PAD:
        return NEXT_PAD, ""
    if text.startswith("/"):
        return "path", text
    by, colon, what = text.partition(":")
    if not colon or by not in ("name", "id", "phys", "path"):
        by, what = "name", text
    if not what:
        raise UserError(f"{text!r} names no input device", _HINT)
    if by == "id":
        if not re.fullmatch(r"[0-9a-fA-F]{1,4}:[0-9a-fA-F]{1,4}", what):
            raise UserError(f"{text!r} is no id", "id:VENDOR:PRODUCT in hexadecimal, as lsusb says them: id:045e:028e")
        what = ":".join(f"{int(part, 16):04x}" for part in what.split(":"))
    return by, what


def parse_rules(tables: list[dict[str, Any]], where: str = "input") -> list[Rule]:
    """The rules of a settings file's [[input]]. Raises UserError."""
    return [_parse_rule(table, f"{where}[{number}]") for number, table in enumerate(tables, 1)]


def _parse_rule(table: dict[str, Any], where: str) -> Rule:
    for key in table:
        if key not in _KEYS:
            raise UserError(f"{where}: there is no setting {key!r}", did_you_mean(key, _KEYS))
    for key, kind, kind_name in (("device", str, "a text"), ("to", str, "a text"), ("grab", bool, "true or false")):
        if key in table and type(table[key]) is not kind:
            raise UserError(f"{where}: {key} must be {kind_name}, not {table[key]!r}", f"device: {_HINT}")
    if "device" not in table:
        raise UserError(f"{where} says no device", _HINT)
    by, what = parse_device(table["device"])
    mapping = parse_mapping({key: value for key, value in table.items() if key not in ("device", "to", "grab")}, where)
    return Rule(by, what, table.get("to", ""), table.get("grab", False), mapping)
