"""A pad made by uinput, and a game that has it rumble, in one process: what the kernel says to both, as JSON."""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import time
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from game import PATIENCE, Game

from subos_agent.gamepad.uinput import UinputPad
from subos_protocol.effects import to_object
from subos_protocol.gamepad import Axis, Pad
from subos_protocol.input_codes import Abs, Ev, Ff, Key
from subos_protocol.virtio_input import virtio_input_absinfo, virtio_input_devids, virtio_input_event

PAD = Pad(
    "test",
    "Test Pad",
    virtio_input_devids(3, 0x045E, 0x028E, 0x0110),
    {Ev.EV_KEY: frozenset({Key.BTN_SOUTH, Key.BTN_START})},
    {Abs.ABS_X: Axis(128, virtio_input_absinfo(0, 255, 1, 15, 2))},
    ff=frozenset({Ff.FF_RUMBLE, Ff.FF_PERIODIC, Ff.FF_SINE, Ff.FF_CONSTANT, Ff.FF_GAIN}),
    effects=16,
)
STEPS: list[dict[str, Any]] = [
    {"upload": {"id": 0, "length": 500, "delay": 10, "direction": 0, "type": "rumble", "strong": 49152, "weak": 7}},
    {"play": {"id": 0, "times": 2}},
    {
        "upload": {
            "id": 1,
            "length": 0,
            "delay": 0,
            "direction": 16384,
            "type": "periodic",
            "waveform": "sine",
            "period": 100,
            "magnitude": -5,
            "offset": 6,
            "phase": 7,
            "envelope": [1, 2, 3, 4],
        }
    },
    {
        "upload": {
            "id": 2,
            "length": 9,
            "delay": 0,
            "direction": 0,
            "type": "constant",
            "level": -1,
            "envelope": [4, 3, 2, 1],
        }
    },
    {"gain": 1234},
    {"play": {"id": 1, "times": 1}},
    {"stop": 1},
    {"upload": {"id": 0, "length": 1, "delay": 0, "direction": 0, "type": "rumble", "strong": 1, "weak": 2}},
    {"erase": 2},
]


class Host(threading.Thread):
    """Answers games, as the agent does, while it is `awake`."""

    def __init__(self, uinput: UinputPad) -> None:
        super().__init__(daemon=True)
        self.uinput = uinput
        self.said: list[Any] = []
        self.awake = threading.Event()
        self._reads = threading.Lock()
        self.over = False

    def run(self) -> None:
        poll = select.poll()
        poll.register(self.uinput.fd, select.POLLIN)
        while self.awake.wait() and not self.over:
            ready = poll.poll(50)
            with self._reads:
                if self.awake.is_set():
                    self.said += map(to_object, self.uinput.feedback() if ready else self.uinput.overlooked())

    def sleep(self) -> None:
        """It reads nothing more, and what was answered is in `said`."""
        with self._reads:
            self.awake.clear()


def main() -> None:
    uinput = UinputPad(PAD)
    uinput.create()
    host = Host(uinput)
    host.start()
    host.awake.set()
    game = Game("Test Pad")
    described = game.describe()
    events = [virtio_input_event(Ev.EV_KEY, Key.BTN_SOUTH, 1), virtio_input_event(Ev.EV_ABS, Abs.ABS_X, 255)]
    uinput.write([*events, virtio_input_event(Ev.EV_SYN, 0, 0)])
    game.do({"state": True})
    uinput.write(PAD.neutral())
    game.do({"state": True})
    for step in STEPS:
        game.do(step)
    os.close(game.fd)  # its effects are erased
    host.sleep()
    said, host.said = host.said, []
    found, failed = find_a_request(host), fail_an_upload(host)
    print(json.dumps({"device": described, "noted": game.noted, "said": said, "found": found, "failed": failed}))


def find_a_request(host: Host) -> bool:
    """uinput shows nothing of 16 events that come while nobody reads; an upload among them is answered nevertheless."""
    host.awake.set()
    game = Game("Test Pad")
    game.do(STEPS[0])
    host.sleep()
    for n in range(15):
        game.write(game.effects[0], n & 1)
    answered: list[None] = []
    upload = threading.Thread(target=lambda: answered.append(game.do(STEPS[2])), daemon=True)
    upload.start()
    deadline = time.monotonic() + PATIENCE
    while (shown := select.select([host.uinput.fd], [], [], 0)[0]) and time.monotonic() < deadline:
        time.sleep(0.01)  # until the upload is the sixteenth
    host.awake.set()
    upload.join(PATIENCE)
    return not shown and bool(answered)  # after half a minute the kernel answers itself: with an error


def fail_an_upload(host: Host) -> str:
    """One that uploads while the pad goes away is told so."""
    host.awake.set()
    game, failed = Game("Test Pad"), []
    host.sleep()

    def fail() -> None:
        try:
            game.do(STEPS[0])
        except OSError as error:
            failed.append(error.strerror)

    late = threading.Thread(target=fail, daemon=True)
    late.start()
    time.sleep(0.2)
    host.over = True
    host.awake.set()
    host.join()
    host.uinput.close()
    late.join(20)
    return "".join(failed)


if __name__ == "__main__":
    main()
