"""input_codes: numbers taken one by one from the kernel's headers, and the whole header where it is installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from subos_protocol import input_codes
from subos_protocol.input_codes import CODES, Abs, Bus, Ev, Ff, FfStatus, Key, Led, Msc, Prop, Rel, Rep, Snd, Sw, Syn
from subos_protocol.input_codes import code_name as name

HEADER = Path("/usr/include/linux/input-event-codes.h")
TABLES = (Prop, Ev, Syn, Key, Rel, Abs, Sw, Msc, Led, Rep, Snd, Ff, FfStatus, Bus)


@pytest.mark.parametrize(
    ("member", "number"),
    [
        (Ev.EV_SYN, 0),
        (Ev.EV_FF_STATUS, 0x17),
        (Syn.SYN_DROPPED, 3),
        (Key.KEY_ESC, 1),
        (Key.KEY_MICMUTE, 248),
        (Key.BTN_LEFT, 0x110),
        (Key.BTN_EXTRA, 0x114),
        (Key.BTN_SOUTH, 0x130),
        (Key.BTN_TRIGGER_HAPPY40, 0x2E7),
        (Key.KEY_DO_NOT_DISTURB, 0x24F),
        (Rel.REL_WHEEL, 8),
        (Rel.REL_WHEEL_HI_RES, 0x0B),
        (Rel.REL_HWHEEL_HI_RES, 0x0C),
        (Abs.ABS_Y, 1),
        (Abs.ABS_MT_SLOT, 0x2F),
        (Abs.ABS_MT_TOOL_Y, 0x3D),
        (Sw.SW_LID, 0),
        (Msc.MSC_SCAN, 4),
        (Led.LED_CAPSL, 1),
        (Rep.REP_PERIOD, 1),
        (Snd.SND_TONE, 2),
        (Ff.FF_RUMBLE, 0x50),
        (Ff.FF_AUTOCENTER, 0x61),
        (FfStatus.FF_STATUS_PLAYING, 1),
        (Prop.INPUT_PROP_ACCELEROMETER, 6),
        (Bus.BUS_VIRTUAL, 6),
    ],
)
def test_numbers(member, number):
    assert member == number


def test_names():
    assert name(2, 8) == "REL_WHEEL"
    assert name(1, 0x110) == "BTN_LEFT"  # not BTN_MOUSE, which has the same number
    assert name(1, 0x2FF) == "0x01:0x2ff"
    assert name(0x1E, 1) == "0x1e:0x001"
    assert set(CODES) <= set(Ev)


@pytest.mark.skipif(not HEADER.exists(), reason="no kernel headers here")
def test_every_code_of_the_installed_header():
    """Newer headers may have codes that the table lacks; none that it has may differ."""
    compared = 0
    members = {name: int(value) for table in TABLES for name, value in table.__members__.items()}
    for text in (HEADER.read_text(), HEADER.with_name("input.h").read_text()):
        for defined, number in re.findall(r"^#define\s+([A-Z0-9_]+)\s+(0x[0-9a-fA-F]+|[0-9]+)\b", text, re.MULTILINE):
            ours = members.pop(defined, None)
            if ours is None:
                ours = getattr(input_codes, defined, None)
            assert ours is None or ours == int(number, 0), defined
            compared += ours is not None
    assert compared > 700
    aliases = {name for table in TABLES for name, member in table.__members__.items() if name != member.name}
    newer = {name for name in members if 0x24B <= members[name] <= 0x24F}
    assert set(members) <= aliases | newer
