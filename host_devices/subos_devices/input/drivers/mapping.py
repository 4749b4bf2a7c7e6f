"""What a person wants changed of a device's events, as data: read from the settings file, checked, and applied.

    map = { KEY_W = "ABS_Y-", KEY_SPACE = "BTN_SOUTH", ABS_Z = "BTN_TL2", "ABS_HAT0X-" = "BTN_DPAD_LEFT" }
    swap = [["BTN_SOUTH", "BTN_EAST"]]
    invert = ["ABS_RY"]
    dead_zone = { ABS_X = 0.1 }         of the way from the middle to the end
    turbo = { BTN_WEST = 10 }           presses a second, while it is held

Controls have the kernel's names, with a sign for one side of an axis, and are the host device's own but where
`map` leads to.
"""

from __future__ import annotations

from collections.abc import Mapping as Table
from typing import Any, NamedTuple

from subos_protocol.input_codes import Abs, Ev, Key

from ...errors import UserError, did_you_mean

MAX_TURBO = 50  # presses a second; a guest that draws 60 times a second sees no more
MAX_DEAD_ZONE = 0.9
KEYS = ("map", "swap", "invert", "dead_zone", "turbo")


class Control(NamedTuple):
    """A button (EV_KEY), an axis, or one side of an axis (`side` -1 or 1)."""

    type: int
    code: int
    side: int = 0

    def __str__(self) -> str:
        name = Key(self.code).name if self.type == Ev.EV_KEY else Abs(self.code).name
        return name + {-1: "-", 0: "", 1: "+"}[self.side]


class Mapping(NamedTuple):
    """`routes` lead from a control to another; the rest is by code."""

    routes: Table[Control, Control] = {}
    inverted: frozenset[int] = frozenset()
    dead_zones: Table[int, float] = {}
    turbo: Table[int, float] = {}


def parse_control(name: str, where: str) -> Control:
    """Raises UserError for what is no control's name."""
    side = {"-": -1, "+": 1}.get(name[-1:], 0)
    plain = name[:-1] if side else name
    if plain in Key.__members__ and Key[plain] != Key.KEY_RESERVED:
        if side:
            raise UserError(f"{where}: {plain} is a button, which has no sides", f"write {plain}")
        return Control(Ev.EV_KEY, Key[plain])
    if plain in Abs.__members__ and Abs[plain] < Abs.ABS_MT_SLOT:
        return Control(Ev.EV_ABS, Abs[plain], side)
    known = (*Key.__members__, *Abs.__members__)
    raise UserError(
        f"{where}: no control is called {name!r}",
        did_you_mean(plain, known, "KEY_A, BTN_SOUTH, ABS_X, ABS_X-: the kernel's own names"),
    )


def parse_mapping(table: Any, where: str) -> Mapping:
    """A mapping from a table of the settings file; `where` says which. Raises UserError."""
    _check(isinstance(table, dict), where, f"must be a table, not {table!r}", f"it has {', '.join(KEYS)}")
    for key in table:
        if key not in KEYS:
            raise UserError(f"{where}: there is no setting {key!r}", did_you_mean(key, KEYS))
    routes: dict[Control, Control] = {}
    for first, second in _pairs(table.get("swap", []), f"{where}.swap"):
        _route(routes, first, second, f"{where}.swap")
        _route(routes, second, first, f"{where}.swap")
    for name, target in _table(table, "map", where).items():
        _check(isinstance(target, str), f"{where}.map.{name}", f"must be a control's name, not {target!r}", "BTN_SOUTH")
        source, leads = parse_control(name, f"{where}.map"), parse_control(target, f"{where}.map")
        _route(routes, source, leads, f"{where}.map")
    return Mapping(
        routes,
        frozenset(_axis(name, f"{where}.invert") for name in _names(table.get("invert", []), f"{where}.invert")),
        {
            _axis(name, f"{where}.dead_zone"): _number(value, f"{where}.dead_zone.{name}", MAX_DEAD_ZONE)
            for name, value in _table(table, "dead_zone", where).items()
        },
        {
            _button(name, f"{where}.turbo"): _number(value, f"{where}.turbo.{name}", MAX_TURBO)
            for name, value in _table(table, "turbo", where).items()
        },
    )


def _route(routes: dict[Control, Control], source: Control, target: Control, where: str) -> None:
    if source in routes:
        raise UserError(f"{where}: {source} leads to two controls", "name it once")
    if source.side and target.type == Ev.EV_ABS:
        raise UserError(
            f"{where}: one side of an axis can become a button only, and {target} is none",
            f"map the whole axis: {Abs(source.code).name}",
        )
    if source.type == Ev.EV_ABS and not source.side and target.side:
        raise UserError(f"{where}: {source} is a whole axis, and {target} one side of one", "leave out the sign")
    sides = [Control(source.type, source.code, side) for side in ((0,) if source.side else (-1, 1))]
    if source.type == Ev.EV_ABS and any(side in routes for side in sides):
        raise UserError(f"{where}: {Abs(source.code).name} is mapped as a whole and by its sides", "choose one")
    routes[source] = target


def _check(good: bool, where: str, wrong: str, hint: str) -> None:
    if not good:
        raise UserError(f"{where} {wrong}", hint)


def _table(table: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    found = table.get(key, {})
    _check(isinstance(found, dict), f"{where}.{key}", f"must be a table, not {found!r}", f"{key} = {{ NAME = … }}")
    return dict(found)


def _names(found: Any, where: str) -> list[str]:
    good = isinstance(found, list) and all(isinstance(name, str) for name in found)
    _check(good, where, f"must be a list of names, not {found!r}", '["ABS_Y"]')
    return list(found)


def _pairs(found: Any, where: str) -> list[tuple[Control, Control]]:
    good = isinstance(found, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in found)
    _check(good, where, f"must be a list of pairs, not {found!r}", '[["BTN_SOUTH", "BTN_EAST"]]')
    pairs = []
    for pair in found:
        first, second = (parse_control(name, where) for name in _names(pair, where))
        if first.type != second.type or first.side or second.side:
            raise UserError(f"{where}: {first} and {second} are not two buttons or two axes", "use map for the rest")
        pairs.append((first, second))
    return pairs


def _axis(name: str, where: str) -> int:
    control = parse_control(name, where)
    _check(control.type == Ev.EV_ABS and not control.side, f"{where}:", f"{name} is not an axis", "ABS_X, say")
    return control.code


def _button(name: str, where: str) -> int:
    control = parse_control(name, where)
    _check(control.type == Ev.EV_KEY, f"{where}:", f"{name} is not a button", "BTN_SOUTH, say")
    return control.code


def _number(value: Any, where: str, most: float) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= most
    _check(good, where, f"must be a number above 0 and up to {most}, not {value!r}", "")
    return float(value)
