"""Rules, the places that devices have by them, the chord, and what kind a device is."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from subos_devices.errors import UserError
from subos_devices.input.capabilities import Capabilities
from subos_devices.input.drivers.chord import Chord
from subos_devices.input.drivers.forwarding import Target
from subos_devices.input.drivers.host import Identity
from subos_devices.input.drivers.kinds import kind_of
from subos_devices.input.drivers.places import Places
from subos_devices.input.drivers.rules import Rule, check_targets, parse_device, parse_rules
from subos_devices.input.gamepad import profiles
from subos_devices.input.keyboard import KEYBOARD
from subos_devices.input.mouse import MOUSE
from subos_devices.input.pen import PEN
from subos_devices.input.pointer import POINTER
from subos_devices.input.touch import TOUCH
from subos_protocol.input_codes import Abs, Ev, Key, Prop, Rel
from subos_protocol.virtio_input import virtio_input_absinfo, virtio_input_devids, virtio_input_event

PATH = Path("/dev/input/event5")


def pad(uniq: str = "", phys: str = "usb-1/input0", name: str = "Xbox Pad") -> Identity:
    return Identity(name, 0x45E, 0x28E, uniq, phys)


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("Xbox Pad", True),
        ("*XBOX*", True),
        ("Xbox", False),
        ("name:xbox p?d", True),
        ("id:045e:028e", True),
        ("id:45E:28e", True),
        ("id:045e:028f", False),
        ("phys:usb-1/*", True),
        ("phys:usb-2/*", False),
        ("/dev/input/event5", True),
        ("path:/dev/input/event5", True),
        ("/dev/input/event6", False),
        ("next-pad", False),
        ("Some: colon", False),
    ],
)
def test_which_devices_a_rule_is_about(text: str, matches: bool) -> None:
    assert Rule(*parse_device(text)).matches(pad(), PATH) is matches


def test_a_link_names_the_device_that_it_leads_to(tmp_path: Path) -> None:
    link = tmp_path / "by-id"
    link.symlink_to(PATH)
    assert Rule(*parse_device(str(link))).matches(pad(), PATH)


@pytest.mark.parametrize("text", ["", "id:", "id:xyz:1", "id:12345:1", "name:"])
def test_what_names_no_device(text: str) -> None:
    with pytest.raises(UserError):
        parse_device(text)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "input[1] says no device"),
        ({"device": 5}, "input[1]: device must be a text, not 5"),
        ({"device": "pad", "grab": 1}, "input[1]: grab must be true or false, not 1"),
        ({"device": "pad", "too": "mouse"}, "input[1]: there is no setting 'too'"),
        ({"device": "pad", "invert": ["X"]}, "input[1].invert: no control is called 'X'"),
        *(
            ({"device": "pad", "monitor": number}, f"input[1].monitor must be a number from 1 to 16, not {number!r}")
            for number in (0, 17, -1, True, 1.0, "1")
        ),
    ],
)
def test_wrong_rules_of_a_file(table: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_rules([table])
    assert caught.value.message == message


def test_a_rule_of_a_file() -> None:
    (rule,) = parse_rules([{"device": "id:45e:28e", "to": "gamepad2", "grab": True, "invert": ["ABS_Y"]}])
    assert rule[:4] == ("id", "045e:028e", "gamepad2", True)
    assert (rule.mapping.inverted, rule.monitor) == ({Abs.ABS_Y}, 0)
    assert parse_rules([{"device": "*Touch*", "monitor": 2}])[0].monitor == 2


@pytest.mark.parametrize(
    ("to", "monitor", "there", "wrong"),
    [
        ("", 1, ["gamepad", "pen"], ""),
        ("", 0, [], ""),
        ("touch", 2, ["gamepad", "touch"], ""),
        ("", 1, ["gamepad", "keyboard"], "input[2]: nothing that the guest has points at a monitor"),
        ("pointer", 1, ["pointer", "mouse"], "input[2]: pointer points at no monitor"),
        ("pen", 0, ["mouse"], "input[2]: the guest has no input device 'pen'"),
    ],
)
def test_what_the_guest_must_have_for_a_rule(to: str, monitor: int, there: list[str], wrong: str) -> None:
    rules = [Rule("name", "*"), Rule("name", "*", to, monitor=monitor)]
    with pytest.raises(UserError) if wrong else contextlib.nullcontext() as caught:
        check_targets(rules, list(zip(there, there, strict=True)), "input")
    assert caught is None or caught.value.message == wrong


# --- places


def targets(*names: str) -> list[Target]:
    return [Target(name, name.rstrip("0123456789"), Path(name), MOUSE) for name in names]


PADS = targets("gamepad1", "gamepad2", "mouse")
ANY = Rule("name", "*")


def choose(places: Places, identity: Identity, rule: Rule = ANY, kind: str = "gamepad") -> str | None:
    target = places.choose(rule, identity, kind, PADS)
    if target is not None:
        places.take(target.name, rule, identity)
    return target.name if target else None


def test_a_pad_that_comes_back_has_its_place_again() -> None:
    places = Places()
    first, second = pad("aa"), pad("bb")
    assert [choose(places, first), choose(places, second), choose(places, pad("cc"))] == ["gamepad1", "gamepad2", None]
    for name in ("gamepad1", "gamepad2"):
        places.leave(name)
    assert [choose(places, second), choose(places, first)] == ["gamepad2", "gamepad1"]


def test_a_pad_without_a_serial_number_is_known_by_its_plug_and_else_by_its_make() -> None:
    places = Places()
    assert choose(places, pad(phys="usb-1")) == "gamepad1"
    places.leave("gamepad1")
    assert places.knows(ANY, pad(phys="usb-1"))
    assert not places.knows(ANY, pad(phys="usb-2"))
    assert choose(places, pad(phys="usb-2", name="Another")) == "gamepad2"
    assert choose(places, pad(phys="usb-3")) == "gamepad1"


def test_many_devices_may_drive_one_mouse_and_a_rule_may_say_which_device() -> None:
    places = Places()
    assert [choose(places, pad(), kind="mouse") for _ in range(3)] == ["mouse"] * 3
    assert choose(places, pad(), Rule("name", "*", "gamepad2")) == "gamepad2"
    assert choose(places, pad("bb"), Rule("name", "*", "gamepad2")) is None
    assert choose(places, pad("bb"), Rule("name", "*", "gamepad")) == "gamepad1"
    assert choose(places, pad(), Rule("name", "*", "nothing")) is None
    assert choose(places, pad(), kind="") is None


def test_a_rule_that_names_a_monitor_is_about_what_points_at_one() -> None:
    relative, absolute = targets("pointer", "mouse")
    for monitor, chosen in ((0, relative), (1, absolute)):
        assert Places().choose(Rule("name", "*", monitor=monitor), pad(), "mouse", [relative, absolute]) is chosen
    assert Places().choose(Rule("name", "*", monitor=1), pad(), "mouse", [relative]) is None


def test_a_rule_for_the_next_pad_is_about_one_pad() -> None:
    places = Places()
    first, second = Rule("next-pad", ""), Rule("next-pad", "")
    assert [choose(places, pad("aa"), first), choose(places, pad("bb"), first)] == ["gamepad1", None]
    assert choose(places, pad("bb"), second) == "gamepad2"
    places.leave("gamepad1")
    assert not places.knows(first, pad("cc"))
    assert choose(places, pad("cc", name="Another"), first) == "gamepad1"


# --- the chord


def test_the_chord_is_both_keys_and_told_once() -> None:
    chord = Chord()

    def note(code: int, value: int) -> bool:
        return chord.note(virtio_input_event(Ev.EV_KEY, code, value))

    assert not note(Key.KEY_LEFTCTRL, 1)
    assert not note(Key.KEY_LEFTCTRL, 2)
    assert not note(Key.KEY_A, 1)
    assert note(Key.KEY_RIGHTCTRL, 1)
    assert not note(Key.KEY_RIGHTCTRL, 2)
    assert not note(Key.KEY_LEFTCTRL, 0)
    assert note(Key.KEY_LEFTCTRL, 1)


# --- kinds

SPAN = virtio_input_absinfo(0, 100)


def test_event_devices_of_one_thing_belong_together() -> None:
    """By serial number, else by plug; pads at one Bluetooth adapter have the same plug."""
    first = Identity("Pad", 1, 2, "aa", "adapter")
    assert first.belongs_with(Identity("Pad Sensors", 1, 2, "aa", ""))
    assert not first.belongs_with(Identity("Pad Sensors", 1, 2, "bb", "adapter"))
    assert not first.belongs_with(Identity("Pad Sensors", 1, 3, "aa", ""))
    assert not first.belongs_with(Identity("Pad Sensors", 1, 2, "", "adapter"))
    assert Identity("Pad", 1, 2, "", "usb-1").belongs_with(Identity("Pad Sensors", 1, 2, "", "usb-1"))
    assert not Identity("Pad", 1, 2, "", "").belongs_with(Identity("Pad Sensors", 1, 2, "", ""))


def made(keys: set[int], axes: set[int] = frozenset(), moves: set[int] = frozenset(), *props: int) -> Capabilities:  # type: ignore[assignment]
    codes = {Ev.EV_KEY: frozenset(keys), Ev.EV_REL: frozenset(moves)}
    return Capabilities("", virtio_input_devids(0, 0, 0, 0), codes, dict.fromkeys(axes, SPAN), frozenset(props))


XY = {Abs.ABS_X, Abs.ABS_Y}


@pytest.mark.parametrize(
    ("device", "kind"),
    [
        (KEYBOARD, "keyboard"),
        (MOUSE, "absolute-mouse"),
        (POINTER, "mouse"),
        (TOUCH, "touch"),
        (PEN, "pen"),
        *((profiles.load(name).capabilities, "gamepad") for name in profiles.names()),
        (made({Key.KEY_VOLUMEUP, Key.KEY_POWER}), "keyboard"),
        (made({Key.BTN_LEFT, Key.KEY_A}, moves={Rel.REL_X, Rel.REL_Y}), "mouse"),
        (made({Key.BTN_SOUTH, Key.BTN_EAST}, XY), "gamepad"),
        (made({Key.BTN_TRIGGER}, XY), "gamepad"),
        (made({Key.BTN_SOUTH, Key.BTN_EAST}, {Abs.ABS_HAT0X, Abs.ABS_HAT0Y}), "gamepad"),  # an arcade stick
        (made({Key.BTN_SOUTH}, {Abs.ABS_X}), "gamepad"),
        (made({Key.BTN_TOUCH}, {Abs.ABS_MT_POSITION_X, Abs.ABS_MT_SLOT}), "touch"),
        (made({Key.BTN_TOUCH, Key.BTN_TOOL_FINGER}, XY, frozenset(), Prop.INPUT_PROP_DIRECT), "touch"),
        (made({Key.BTN_TOUCH, Key.BTN_LEFT, Key.BTN_GEAR_UP}, XY), "absolute-mouse"),  # QEMU's virtio-tablet
        (made({Key.BTN_TOUCH, Key.BTN_LEFT}, {Abs.ABS_MT_POSITION_X, *XY}), "touch"),
        (
            made({Key.BTN_TOUCH, Key.BTN_TOOL_FINGER, Key.BTN_LEFT}, XY, frozenset(), Prop.INPUT_PROP_POINTER),
            "touchpad",
        ),
        (made({Key.BTN_TOUCH, Key.BTN_TOOL_PEN, Key.BTN_STYLUS}, XY), "pen"),
        (made(set(), XY, frozenset(), Prop.INPUT_PROP_ACCELEROMETER), "motion"),
        *((part.capabilities, kind) for name in profiles.names() for kind, part in profiles.load(name).parts.items()),
        (made(set()), ""),
    ],
)
def test_what_kind_a_device_is(device: Capabilities, kind: str) -> None:
    assert kind_of(device) == kind
