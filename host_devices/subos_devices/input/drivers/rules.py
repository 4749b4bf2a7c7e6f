"""Which devices of the host drive which of the guest's: rules, from words and from the settings file."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from subos_protocol.monitors import MAX_MONITORS

from ...errors import UserError, did_you_mean
from .host import Identity
from .kinds import POINTING
from .mapping import KEYS as MAPPING_KEYS
from .mapping import Mapping, parse_mapping

NEXT_PAD = "next-pad"
FORMS = """\
  NAME                     the device's name, or a part of it with * and ?, in any case: "*Xbox*"
  name:NAME, phys:PLACE    likewise; PLACE is where it is plugged
  id:VENDOR:PRODUCT        in hexadecimal, as lsusb says them: id:045e:028e
  /dev/input/…             that file, a link of /dev/input/by-id too
"""
_HINT = 'a name ("*Xbox*"), id:045e:028e, phys:usb-*, /dev/input/by-id/…, or next-pad'
MONITORS_HINT = "subos-devices status VM --json lists the guest's monitors, the first of which is 1"
_KEYS = ("device", "to", "grab", "monitor", "map", "swap", "invert", "dead_zone", "turbo")


class Rule(NamedTuple):
    """`by` and `what` say which devices of the host; `to` which of the guest's, by name or by kind, if it is said.

    `monitor`, from 1, is that of the guest's on which the device points; 0 where it points at the whole desktop.
    """

    by: str
    what: str
    to: str = ""
    grab: bool = False
    mapping: Mapping = Mapping()
    monitor: int = 0

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
    mapping = parse_mapping({key: value for key, value in table.items() if key in MAPPING_KEYS}, where)
    monitor = parse_monitor(table["monitor"], f"{where}.monitor") if "monitor" in table else 0
    return Rule(by, what, table.get("to", ""), table.get("grab", False), mapping, monitor)


def parse_monitor(number: object, where: str) -> int:
    """Raises UserError for what is no monitor's number."""
    if type(number) is not int or not 1 <= number <= MAX_MONITORS:
        raise UserError(f"{where} must be a number from 1 to {MAX_MONITORS}, not {number!r}", MONITORS_HINT)
    return number


def check_targets(rules: Sequence[Rule], there: Sequence[tuple[str, str]], where: str = "") -> None:
    """Raises UserError for a rule that none of the guest's devices, each a name and a kind, can follow. `where` is the
    list that the rules are of."""
    for number, rule in enumerate(rules, 1):
        prefix = f"{where}[{number}]: " if where else ""
        named = [device for device in there if rule.to in device] if rule.to else there
        if rule.to and not named:
            raise UserError(
                f"{prefix}the guest has no input device {rule.to!r}",
                f"there is {', '.join(sorted({word for device in there for word in device}))}",
            )
        if rule.monitor and not any(kind in POINTING for _, kind in named):
            wrong = f"{rule.to} points at no monitor" if rule.to else "nothing that the guest has points at a monitor"
            raise UserError(f"{prefix}{wrong}", "the mouse, the touch screen and the pen do")
