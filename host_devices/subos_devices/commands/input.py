"""`subos-devices input`: drives a VM's mouse, keyboard, touch screen and gamepads.

By a script, by a recording, or by real devices of this host.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from subos_protocol.monitors import Layout

    from ..input.gamepad.profiles import Profile

ACTIONS = """\
actions, several separated by commas:
  move X Y                           X and Y from 0 to 32767, or as percentages
  click [BUTTON] [--at X Y]          left (unless said), right, middle, side or extra
  press [BUTTON], release [BUTTON]   what is still pressed at the end is released
  scroll N [--horizontal]            detents; up and right are positive
  nudge DX DY                        moves the relative mouse
  type TEXT                          on a US keyboard; first, it takes all that follows, commas too
  key NAME[+NAME…]                   key enter, key ctrl+alt+f1
  touch X Y [--finger N]             puts finger 1 (unless said) to 10 there, or moves it
  lift [--finger N]                  what still touches at the end is lifted
  tap X Y
  pad BUTTON [press|release]         a, b, x, y, lb, rb, start …, or up, down, left, right of the cross
  stick left|right X Y               from -100% to 100%; at the end sticks are in the middle again
  trigger left|right N               from 0% to 100%
  gyro X Y Z                         how fast a pad with sensors turns, in degrees a second; at the end it lies still
  accel X Y Z                        what it feels, in g
  touchpad X Y [--finger N]          on a pad's touch pad, from 0% to 100%; what still touches at the end is lifted
  touchpad lift [--finger N], touchpad press|release|click
  wait SECONDS

  move, click --at, touch and tap take --monitor N: X and Y are then on that monitor of the guest, where its agent
  and a session of its desktop run; `status --json` lists them

instead of actions:
  mouse relative|absolute            the mouse for games, or the one that needs no grab: the other is unplugged
  attach DEVICE …                    keyboards, mice, gamepads … of this host drive the guest's
  play FILE …                        does again what was recorded

of this host, without a VM:
  subos-devices input devices        which input devices there are
  subos-devices input record FILE …  writes down what one of them does

attach, play, devices and record have a --help of their own.

examples:
  subos-devices input work move 50% 50%
  subos-devices input work/mouse "move 10% 10%, press, move 90% 90%, release"
  subos-devices input work move 50% 50% --monitor 2
  subos-devices input work type "uname -a"
  subos-devices input work "move 50% 50%, click, key ctrl+a, key delete"
  subos-devices input work "touch 40% 50%, touch 60% 50% --finger 2, wait 0.1, lift, lift --finger 2"
  subos-devices input work "stick left 100% 0%, wait 1, pad a"
  subos-devices input work/gamepad2 pad start
  subos-devices input work/gamepad2 "gyro 0 90 0, wait 1, touchpad 50% 50%, touchpad click"
  subos-devices input work mouse relative
  subos-devices input work attach "*Xbox*" --grab
  subos-devices input --socket mouse.driver.sock click right --at 100 200
"""

DRIVER_SUFFIX = ".driver.sock"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "input",
        help="drive a VM's mouse, keyboard, touch screen and gamepads",
        description=__doc__,
        epilog=ACTIONS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="subos-devices input [-h] (NAME[/DEVICE] | --socket PATH) ACTION …\n"
        "       subos-devices input (NAME[/DEVICE] | --socket PATH) (attach DEVICE … | play FILE …)\n"
        "       subos-devices input (devices | record FILE)",
    )
    parser.add_argument("--socket", type=Path, metavar="PATH", help="the driver socket of a device without a VM")
    parser.add_argument(
        "--profile", default="generic", metavar="NAME", help="with --socket: what gamepad it is (default: generic)"
    )
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="NAME[/DEVICE] ACTION …", help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..input import script
    from ..input.actions import device_of
    from . import host_input

    if args.socket is None and args.words and args.words[0] in host_input.OF_THE_HOST:
        return host_input.OF_THE_HOST[args.words[0]](args.words[1:])
    name, words = ("", args.words) if args.socket else (args.words[0] if args.words else "", args.words[1:])
    if words and words[0] in host_input.OF_A_VM:
        return host_input.OF_A_VM[words[0]](host_input.Where(name, args.socket, args.profile), words[1:])
    if args.socket:
        script.play(args.socket, script.parse(args.words, lambda: _profile(args.profile)))
        return 0
    if args.words[1:2] == ["mouse"]:
        return _switch_mouse(args.words[0], args.words[2:])
    name, device, sockets = _find(args.words)
    pad = device.partition("-")[0] or script.GAMEPAD  # of gamepad1-motion, too
    actions = script.parse(args.words[1:], lambda: _pad_of(name, pad), lambda: _monitors_of(name), pad)
    if "mouse" not in sockets and "pointer" in sockets:
        sockets["mouse"] = sockets["pointer"]  # it clicks and scrolls as well
    wanted = {kind for action in actions if (kind := device_of(action))}
    # A device that is named gets all, but for what its sensors have devices of their own for.
    routes = {kind: kind if not device or kind.startswith(f"{device}-") else device for kind in wanted}
    for kind in sorted({*routes.values(), *filter(None, [device])} - sockets.keys()):
        _refuse(name, kind, sockets)
    script.play({kind: sockets[leads] for kind, leads in routes.items()}, actions)
    return 0


def _switch_mouse(name: str, words: list[str]) -> int:
    from ..errors import UserError
    from ..supervisor import control

    if words not in (["absolute"], ["relative"]):
        said = " ".join(words)
        raise UserError(f"a mouse is absolute or relative, not {said!r}", "subos-devices input NAME mouse relative")
    device = control.ask(name, "mouse", timeout=None, mode=words[0])
    print(f"the mouse of {name} is {words[0]} now ({name}/{device})")
    return 0


def _find(words: list[str]) -> tuple[str, str, dict[str, Path]]:
    """The VM and, if it is named, the device of the first word; the VM's driver sockets by device. Raises UserError."""
    from .. import runtime
    from ..errors import UserError

    if not words:
        raise UserError("which VM?", "subos-devices input NAME ACTION …; subos-devices status lists the names")
    name, _, device = words[0].partition("/")
    folder = runtime.running_folder(name)
    return name, device, {path.name.removesuffix(DRIVER_SUFFIX): path for path in folder.glob(f"*{DRIVER_SUFFIX}")}


def _pad_of(name: str, device: str) -> Profile:
    """What the VM's gamepad `device` is. Raises UserError where it has none."""
    from ..errors import UserError
    from ..supervisor import control

    for each in control.ask(name, "status")["devices"]:
        if each["name"] == device and each["kind"] == "gamepad":
            return _profile(each["options"]["profile"])
    raise UserError(f"the VM {name!r} has no gamepad {device!r}", "start it with one: run --gamepad xbox360")


def _monitors_of(name: str) -> Layout:
    """Raises UserError, SubosError."""
    import asyncio

    from ..agent import monitors

    return asyncio.run(monitors.layout(name))


def _profile(name: str) -> Profile:
    from ..input.gamepad import profiles

    return profiles.load(name)


def _refuse(name: str, device: str, sockets: dict[str, Path]) -> None:
    from ..errors import UserError

    there = ", ".join(f"{name}/{other}" for other in sorted(sockets))
    raise UserError(f"the VM {name!r} has no input device {device!r}", f"there is {there}" if there else "it has none")
