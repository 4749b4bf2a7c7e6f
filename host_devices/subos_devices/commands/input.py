"""`subos-devices input`: drives a VM's mouse, keyboard and gamepads, from a script, a recording, or real devices."""

from __future__ import annotations

import argparse
from pathlib import Path

ACTIONS = """\
actions, several separated by commas:
  move X Y                           X and Y from 0 to 32767, or as percentages
  click [BUTTON] [--at X Y]          left (unless said), right, middle, side or extra
  press [BUTTON], release [BUTTON]   what is still pressed at the end is released
  scroll N [--horizontal]            detents; up and right are positive
  type TEXT                          on a US keyboard; first, it takes all that follows, commas too
  key NAME[+NAME…]                   key enter, key ctrl+alt+f1
  wait SECONDS

real devices of this host, and recordings of them (each has a --help of its own):
  subos-devices input devices        which there are
  subos-devices input VM attach …    a keyboard, mouse or gamepad of this host drives the guest's
  subos-devices input record FILE …  writes down what a device does
  subos-devices input VM play FILE   does it again, to the guest

examples:
  subos-devices input work move 50% 50%
  subos-devices input work/mouse "move 10% 10%, press, move 90% 90%, release"
  subos-devices input work type "uname -a"
  subos-devices input work "move 50% 50%, click, key ctrl+a, key delete"
  subos-devices input work attach "*Xbox*" --grab
  subos-devices input --socket mouse.driver.sock click right --at 100 200
"""

DRIVER_SUFFIX = ".driver.sock"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "input",
        help="drive a VM's mouse, keyboard and gamepads",
        description=__doc__,
        epilog=ACTIONS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="subos-devices input [-h] (NAME[/DEVICE] | --socket PATH) ACTION …\n"
        "       subos-devices input (devices | record FILE | (NAME | --socket PATH) (attach DEVICE … | play FILE))",
    )
    parser.add_argument("--socket", type=Path, metavar="PATH", help="the driver socket of a device without a VM")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="NAME[/DEVICE] ACTION …", help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..input import script
    from . import host_input

    words = args.words
    if args.socket:
        if words and words[0] in host_input.OF_A_VM:
            return host_input.OF_A_VM[words[0]]("", args.socket, words[1:])
        script.play(args.socket, script.parse(words))
        return 0
    if words and words[0] in host_input.OF_THE_HOST:
        return host_input.OF_THE_HOST[words[0]](words[1:])
    if len(words) > 1 and words[1] in host_input.OF_A_VM:
        return host_input.OF_A_VM[words[1]](words[0], None, words[2:])
    name, device, sockets = _find(words)
    actions = script.parse(words[1:])
    wanted = {device} if device else {kind for action in actions if (kind := script.device_of(action))}
    for kind in sorted(wanted - sockets.keys()):
        _refuse(name, kind, sockets)
    script.play(sockets[device] if device else sockets, actions)
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


def _refuse(name: str, device: str, sockets: dict[str, Path]) -> None:
    from ..errors import UserError

    there = ", ".join(f"{name}/{other}" for other in sorted(sockets))
    raise UserError(f"the VM {name!r} has no input device {device!r}", f"there is {there}" if there else "it has none")
