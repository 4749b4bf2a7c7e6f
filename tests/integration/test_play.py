"""`input play`, and the README's example of a driver, on a mouse behind a front end."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import subos_devices.input
from subos_devices.testing import FrontEnd, serve
from subos_protocol.input_codes import Abs, Ev, Key
from support.command import refused, subos
from support.input_guest import Guest

RECORDING = """\
# EVEMU 1.3
N: A tablet of 100 by 100
I: 0003 0001 0002 0003
P: 00 00 00 00 00 00 00 00
B: 01 00 00 00 00 00 00 00 00
B: 01 00 00 00 00 00 00 00 00
B: 01 00 00 00 00 00 00 00 00
B: 01 00 00 00 00 00 00 00 00
B: 01 00 00 03 00 00 00 00 00
B: 03 03 00 00 00 00 00 00 00
A: 00 0 100 0 0 0
A: 01 0 100 0 0 0
E: 5.000000 0003 0000 50
E: 5.000000 0003 0001 100
E: 5.000000 0000 0000 0
E: 7.000000 0001 0110 1
E: 7.000000 0000 0000 0
"""


@contextlib.contextmanager
def a_mouse(folder: Path) -> Iterator[tuple[Path, Guest]]:
    path = folder / "the mouse.driver.sock"
    with serve("mouse", "--driver-socket", str(path)) as served, FrontEnd.connect(served.path) as vm:
        guest = Guest(vm.queue(0, size=4, indirect=False))
        vm.queue(1, size=4)
        yield path, guest


def test_a_recording_is_played_at_the_guest_s_scale_and_leaves_nothing_pressed(tmp_path: Path) -> None:
    with a_mouse(tmp_path) as (path, guest):
        recording = tmp_path / "a recording"
        recording.write_text(RECORDING)
        done = subos("input", "--socket", path, "play", recording, "--to", "mouse", "--speed", "1000", check=0)
        assert done.stdout == b"2 frames played\n"
        guest.listen(lambda: guest.last(Ev.EV_KEY, Key.BTN_LEFT) == 0)  # pressed at the end of the recording
        assert guest.is_at(16384, 32767)
        assert [event.value for event in guest.events if event.code == Key.BTN_LEFT] == [1, 0]


def test_a_recording_that_does_nothing_for_ever(tmp_path: Path) -> None:
    with a_mouse(tmp_path) as (path, _):
        recording = tmp_path / "a recording"
        recording.write_text(RECORDING.replace("E: 7.", "E: 999999999999."))
        message, hint = refused("input", "--socket", path, "play", recording, "--to", "mouse")
        assert "the recording does nothing for" in message
        assert "--speed" in hint


def test_a_recording_for_a_device_that_is_not_there(tmp_path: Path) -> None:
    with a_mouse(tmp_path) as (path, _):
        recording = tmp_path / "a recording"
        recording.write_text(RECORDING)
        assert "is no input device" in refused("input", "--socket", path, "play", recording, "--to", "rng").message
        assert "what is behind the socket?" in refused("input", "--socket", path, "play", recording).message
        recording.write_text("N: nothing else\n")
        message, hint = refused("input", "--socket", path, "play", recording, "--to", "mouse")
        assert message == f"{recording}, line 1: it does not say what its device is: there is no line N: or I:"
        assert "evemu" in hint
        missing = tmp_path / "missing"
        assert "no device listens" in refused("input", "--socket", missing, "play", recording, "--to", "mouse").message
        assert refused("input", "--socket", path, "play", missing, "--to", "mouse").message.startswith(str(missing))


def test_the_example_of_the_readme(tmp_path: Path) -> None:
    with a_mouse(tmp_path) as (path, guest):
        readme = Path(subos_devices.input.__file__).with_name("README.md").read_text()
        (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
        assert len(example.splitlines()) < 30
        exec(compile(example, "README.md", "exec"), {"PATH": str(path)})
        guest.listen(lambda: guest.last(Ev.EV_KEY, Key.BTN_LEFT) == 0)
        assert guest.is_at(16383, 16383)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as wrong:
            wrong.connect(str(path))
            wrong.send(b"\1\0\0\3\1\0\0\0")  # BTN_TRIGGER_HAPPY, which a mouse does not have
            assert b"refused" in wrong.recv(4096)
        assert guest.last(Ev.EV_ABS, Abs.ABS_X) == 16383
