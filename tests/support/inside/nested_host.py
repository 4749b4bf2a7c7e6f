"""The host of a guest, in a guest: a pad of its own (by uinput) drives the inner guest's, which rumbles it.

Prints JSON: what the game in the inner guest has said, and what the pad was told.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from uinput_pad import PAD, Host

from subos_agent.gamepad.uinput import UinputPad
from subos_devices.input.gamepad import profiles
from subos_devices.launcher.control import agent_command
from subos_protocol.input_codes import Abs, Ev, Key
from subos_protocol.virtio_input import virtio_input_event

PATIENCE = 60  # seconds for what the inner guest has said already to arrive here
GAME = Path(__file__).with_name("nested_game.py")
SETTINGS = f"""
share = ["{GAME.parent}:programs:ro"]
gamepad = ["xbox360"]
mouse = false
keyboard = false
rng = false
cpus = 1
memory = "512M"
[[input]]
device = "{PAD.name}"
grab = true
"""


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    settings = folder / "vm.toml"
    settings.write_text(SETTINGS)
    pad = UinputPad(PAD)
    pad.create()
    host = Host(pad)
    host.awake.set()
    host.start()
    game = [sys.executable, "-S", str(GAME), profiles.load("xbox360").capabilities.name]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
    command = [sys.executable, "-m", "subos_devices.cli", "run", "--config", str(settings), "--", "env"]
    inner = subprocess.Popen(
        [*command, f"PYTHONPATH={agent_command()[1]['PYTHONPATH']}", *game],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    assert inner.stdout is not None
    said = []
    for line in inner.stdout:
        said.append(line.strip())
        print(f"inner: {line.strip()}", file=sys.stderr, flush=True)
        if said[-1] == "ready":
            events = [virtio_input_event(Ev.EV_KEY, Key.BTN_SOUTH, 1), virtio_input_event(Ev.EV_ABS, Abs.ABS_X, 255)]
            pad.write([*events, virtio_input_event(Ev.EV_SYN, 0, 0)])
        elif said[-1] == "pressed":
            deadline = time.monotonic() + PATIENCE
            while len(host.said) < 2 and time.monotonic() < deadline:
                time.sleep(0.1)
            host.over = True
            host.join()
            pad.close()  # it is unplugged with its button down
    print(json.dumps({"said": said, "felt": host.said, "status": inner.wait()}))


if __name__ == "__main__":
    main()
