"""Gamepads that come and go with what drives them, in a booted guest: by virtio-input, and made by the agent."""

from __future__ import annotations

import pytest

from subos_devices.input.actions import button
from subos_devices.input.gamepad import profiles
from subos_protocol.input_codes import Key
from support.guest import Guest
from support.steps import step
from support.waiting import eventually

from .test_input_devices import described, driver

pytestmark = pytest.mark.vm

AGENTS, QUICK = "gamepad4", "gamepad5"  # of support/guest.py
SWITCH, GENERIC = profiles.load("switchpro"), profiles.load("generic")
AGENT_S = {SWITCH.capabilities.name, SWITCH.part("motion").capabilities.name}


def there(guest: Guest) -> set[str]:
    """The names of the guest's event devices that are of these pads."""
    return {*AGENT_S, GENERIC.capabilities.name} & described(guest).keys()


def test_a_pad_of_virtio_input_is_there_while_something_drives_it(guest: Guest) -> None:
    eventually(lambda: not there(guest), timeout=60)
    for _ in range(2):
        with driver(guest, QUICK) as pad:
            pad.send(button(Key.BTN_SOUTH, 1))
            step("it comes, with what is pressed by then")
            name = GENERIC.capabilities.name
            eventually(lambda name=name: described(guest).get(name, {}).get("pressed") == ["BTN_SOUTH"], timeout=60)
            assert described(guest)[name]["serial"] == QUICK
        step("it goes")
        eventually(lambda: not there(guest), timeout=60)


def test_a_pad_of_the_agent_is_there_while_something_drives_it(guest: Guest) -> None:
    """With its sensors; its virtio-input twin goes as well, and does not come back instead of it."""
    guest.wait_for_agent()
    server = guest.vm.supervisor.devices[AGENTS]
    for _ in range(2):
        with driver(guest, AGENTS) as pad:
            pad.send(button(Key.BTN_SOUTH, 1))
            parts = [guest.vm.supervisor.devices[name] for name in (AGENTS, f"{AGENTS}-motion")]
            eventually(lambda parts=parts: all(part.describe()["gamepad"]["agent"] for part in parts), timeout=60)
            found = described(guest)
            assert found.keys() >= AGENT_S
            assert found[SWITCH.capabilities.name]["serial"] == "", "the agent has made it"
            eventually(lambda: described(guest)[SWITCH.capabilities.name]["pressed"] == ["BTN_SOUTH"], timeout=60)
        step("it goes")
        eventually(lambda: not there(guest), timeout=60)
        eventually(lambda: not (server.connected or server.describe()["gamepad"]["agent"]), timeout=60)


def test_a_worker_that_is_killed_does_not_take_its_pad_along(guest: Guest) -> None:
    """Its driver connects again at once."""
    with driver(guest, QUICK) as pad:
        pad.send(button(Key.BTN_SOUTH, 1))
        eventually(lambda: there(guest) == {GENERIC.capabilities.name}, timeout=60)
        path = described(guest)[GENERIC.capabilities.name]["path"]
        guest.kill_worker(QUICK)
        with driver(guest, QUICK) as again:
            again.send(button(Key.BTN_EAST, 1))
            name = GENERIC.capabilities.name
            eventually(lambda: described(guest).get(name, {}).get("pressed") == ["BTN_EAST"], timeout=60)
            assert described(guest)[name]["path"] == path
    eventually(lambda: not there(guest), timeout=60)
