"""The demo: boots the default guest, drives each device from the host, and looks from inside the guest.

A row is ok only if the guest itself saw the device work; `CHECKS` is the list of rows.
"""

from __future__ import annotations

from . import channel, clipboard, entropy, files, inputs, recovery
from .scene import Check, Row, Scene, run_check

__all__ = ["CHECKS", "Row", "Scene", "run_check"]

KILLED = "killed and came back"

CHECKS: tuple[Check, ...] = (
    ("fs", "this machine's root, read by the guest", files.root),
    ("fs", "the host writes, the guest reads", files.host_writes),
    ("fs", "the guest writes, the host reads", files.guest_writes),
    ("fs", "the host changes files, the guest's watcher is told", files.events),
    ("fs", KILLED, recovery.share),
    ("mouse", "moves to a position", inputs.mouse_moves),
    ("mouse", "clicks and scrolls", inputs.mouse_clicks),
    ("mouse", KILLED, recovery.mouse),
    ("pointer", "moves by steps, presses its eighth button", inputs.pointer_moves),
    ("pointer", KILLED, recovery.pointer),
    ("keyboard", "a line is typed at the guest's console", inputs.keyboard_types),
    ("keyboard", "the guest lights Caps Lock, the host is told", inputs.keyboard_lights),
    ("keyboard", KILLED, recovery.keyboard),
    ("touch", "two fingers come, move apart and go", inputs.touch),
    ("touch", KILLED, recovery.touch),
    ("gamepad", "every button and axis of an Xbox 360 pad", inputs.gamepad),
    ("gamepad", "a game has it rumble, the host is told", inputs.rumble),
    ("gamepad", KILLED, recovery.gamepad),
    ("rng", "the guest draws random bytes", entropy.generator),
    ("rng", KILLED, recovery.generator),
    ("vsock", "1 MiB there and back again", channel.echoes),
    ("vsock", KILLED, recovery.streams),
    ("supervisor", KILLED, recovery.supervisor),
    ("agent", "the host runs a command in the guest", channel.runs_a_command),
    ("clipboard", "text, copied here, pasted there", clipboard.text_to_guest),
    ("clipboard", "text, copied there, pasted here", clipboard.text_from_guest),
    ("clipboard", "HTML both ways", clipboard.html),
    ("clipboard", "an image both ways", clipboard.image),
)
