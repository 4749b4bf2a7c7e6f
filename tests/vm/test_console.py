"""What is typed arrives at programs of the guest that know nothing of input devices: at its virtual console."""

from __future__ import annotations

import json
import shlex
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

from subos_devices.input.actions import button
from subos_protocol.input_codes import Key
from support.command import subos
from support.guest import Guest
from support.waiting import eventually

from .test_input_devices import driver

pytestmark = pytest.mark.vm

CONSOLE = "/dev/tty1"
PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F))


class Program:
    """Reads lines at the console, until it reads an empty one."""

    def __init__(self, guest: Guest, folder: Path) -> None:
        self._printed = folder / "printed"
        words = shlex.join(["setsid", *guest.inside_command("console.py", CONSOLE)])
        guest.check("sh", "-c", f"{words} >{shlex.quote(str(self._printed))} 2>&1 </dev/null &")
        self.wait_for(CONSOLE)

    def lines(self) -> list[str]:
        if not self._printed.exists():
            return []
        return [json.loads(line) for line in self._printed.read_text().splitlines(keepends=True) if line[-1:] == "\n"]

    def wait_for(self, *lines: str) -> None:
        """Until it has printed these, and no others."""
        eventually(lambda: len(self.lines()) >= len(lines), timeout=60)
        assert self.lines() == list(lines)


@pytest.fixture
def program(guest: Guest, folder: Path) -> Iterator[Program]:
    made = Program(guest, folder)
    yield made
    subos("input", guest.vm.plan.name, "key enter", check=0)
    eventually(lambda: made.lines()[-1] == "\n", timeout=60)


def test_every_character_that_a_us_keyboard_has(guest: Guest, program: Program) -> None:
    assert set(string.ascii_letters + string.digits + string.punctuation + " ") == set(PRINTABLE)
    subos("input", guest.vm.plan.name, "type", f"{PRINTABLE}\n", check=0)
    program.wait_for(CONSOLE, f"{PRINTABLE}\n")
    screen = guest.check("cat", "/dev/vcs1")
    assert f"> {PRINTABLE}"[:80] in screen, "the console shows it as well"


def test_a_shift_that_is_held_while_the_worker_dies_shifts_nothing_more(guest: Guest, program: Program) -> None:
    with driver(guest, "keyboard") as keyboard:
        keyboard.send([*button(Key.KEY_LEFTSHIFT, 1), *button(Key.KEY_A, 1), *button(Key.KEY_A, 0)])
        eventually(lambda: guest.check("head", "-c", "2000", "/dev/vcs1").rstrip().endswith("> A"), timeout=60)
        guest.kill_worker("keyboard")
    subos("input", guest.vm.plan.name, "type", "bc\n", check=0)
    program.wait_for(CONSOLE, "Abc\n")


def test_a_key_that_is_held_is_repeated_by_the_guest(guest: Guest, program: Program) -> None:
    with driver(guest, "keyboard") as keyboard:
        keyboard.send(button(Key.KEY_X, 1))
        eventually(lambda: guest.check("head", "-c", "2000", "/dev/vcs1").rstrip().endswith("xxx"), timeout=60)
        keyboard.send([*button(Key.KEY_X, 0), *button(Key.KEY_ENTER, 1), *button(Key.KEY_ENTER, 0)])
        eventually(lambda: len(program.lines()) == 2, timeout=60)
    assert set(program.lines()[1]) == {"x", "\n"}
