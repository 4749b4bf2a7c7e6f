"""A game that uses SDL:  sdl.py FOLDER

Opens the first game controller that can rumble, and writes FOLDER/seen whenever it has seen more: what SDL calls it,
which buttons were down, and how far each axis went. It rumbles once FOLDER/rumble is there, and ends once FOLDER/over
is.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

SDL_INIT_GAMECONTROLLER = 0x2000
BUTTONS, AXES = 15, 6  # SDL_CONTROLLER_BUTTON_A to DPAD_RIGHT, SDL_CONTROLLER_AXIS_LEFTX to TRIGGERRIGHT
STRONG, WEAK, LENGTH = 0x4000, 0x8000, 300
PATIENCE = 240  # seconds in all

sdl = ctypes.CDLL("libSDL2-2.0.so.0")
sdl.SDL_GetError.restype = ctypes.c_char_p
sdl.SDL_GameControllerOpen.restype = ctypes.c_void_p
sdl.SDL_GameControllerName.restype = sdl.SDL_GameControllerMapping.restype = ctypes.c_char_p
sdl.SDL_GameControllerGetAxis.restype = ctypes.c_int16
sdl.SDL_GameControllerRumble.argtypes = [ctypes.c_void_p, ctypes.c_uint16, ctypes.c_uint16, ctypes.c_uint32]
for function in ("Name", "GetType", "Mapping", "HasRumble"):
    getattr(sdl, f"SDL_GameController{function}").argtypes = [ctypes.c_void_p]
for function in ("GetButton", "GetAxis"):
    getattr(sdl, f"SDL_GameController{function}").argtypes = [ctypes.c_void_p, ctypes.c_int]


def main(folder: Path) -> None:
    os.environ["SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS"] = "1"
    if sdl.SDL_Init(SDL_INIT_GAMECONTROLLER):
        sys.exit(sdl.SDL_GetError().decode())
    numbers = [number for number in range(sdl.SDL_NumJoysticks()) if sdl.SDL_IsGameController(number)]
    pads = [sdl.SDL_GameControllerOpen(number) for number in numbers]
    pad = next(pad for pad in pads if sdl.SDL_GameControllerHasRumble(pad))
    seen: dict[str, Any] = {
        "name": sdl.SDL_GameControllerName(pad).decode(),
        "type": sdl.SDL_GameControllerGetType(pad),
        "mapping": sdl.SDL_GameControllerMapping(pad).decode(),
        "buttons": [],
        "axes": [[0, 0] for _ in range(AXES)],
    }
    said, rumbled, deadline = "", False, time.monotonic() + PATIENCE
    while not (folder / "over").exists() and time.monotonic() < deadline:
        sdl.SDL_GameControllerUpdate()
        down = {number for number in range(BUTTONS) if sdl.SDL_GameControllerGetButton(pad, number)}
        seen["buttons"] = sorted(down | set(seen["buttons"]))
        for number, ends in enumerate(seen["axes"]):
            value = sdl.SDL_GameControllerGetAxis(pad, number)
            ends[:] = min(ends[0], value), max(ends[1], value)
        if not rumbled and (folder / "rumble").exists():
            rumbled = True
            if sdl.SDL_GameControllerRumble(pad, STRONG, WEAK, LENGTH):
                sys.exit(sdl.SDL_GetError().decode())
        if json.dumps(seen) != said:
            said = json.dumps(seen)
            (folder / "seen.new").write_text(said)
            (folder / "seen.new").replace(folder / "seen")
        time.sleep(0.01)
    sdl.SDL_Quit()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
