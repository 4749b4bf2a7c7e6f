"""`subos-devices input`: moves, clicks and scrolls a VM's mouse from a script."""

from __future__ import annotations

import argparse
from pathlib import Path

ACTIONS = """\
actions, several separated by commas:
  move X Y                           X and Y from 0 to 32767, or as percentages
  click [BUTTON] [--at X Y]          left (unless said), right, middle, side or extra
  press [BUTTON], release [BUTTON]   what is still pressed at the end is released
  scroll N [--horizontal]            detents; up and right are positive
  wait SECONDS
There is no keyboard yet, and so no "type".

examples:
  subos-devices input work move 50% 50%
  subos-devices input work/mouse "move 10% 10%, press, move 90% 90%, release"
  subos-devices input --socket mouse.driver.sock click right --at 100 200
"""

DRIVER_SUFFIX = ".driver.sock"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "input",
        help="move, click and scroll a VM's mouse",
        description=__doc__,
        epilog=ACTIONS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="subos-devices input [-h] (NAME[/DEVICE] | --socket PATH) ACTION …",
    )
    parser.add_argument("--socket", type=Path, metavar="PATH", help="the driver socket of a device without a VM")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="NAME[/DEVICE] ACTION …", help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..input import script

    socket, words = (args.socket, args.words) if args.socket else _find(args.words)
    script.play(socket, script.parse(words))
    return 0


def _find(words: list[str]) -> tuple[Path, list[str]]:
    """The driver socket that the first word names, and the other words. Raises UserError where there is none."""
    from .. import runtime
    from ..errors import UserError

    if not words:
        raise UserError("which VM?", "subos-devices input NAME ACTION …; subos-devices status lists the names")
    name, _, device = words[0].partition("/")
    folder = runtime.vm_folder(name)
    if not folder.is_dir():
        names = ", ".join(filter(runtime.is_running, runtime.vm_names()))
        raise UserError(f"no VM called {name!r} is running", f"there is {names}" if names else "none is running")
    sockets = {path.name.removesuffix(DRIVER_SUFFIX): path for path in folder.glob(f"*{DRIVER_SUFFIX}")}
    if (device or "mouse") not in sockets:
        there = ", ".join(f"{name}/{other}" for other in sorted(sockets))
        raise UserError(
            f"the VM {name!r} has no input device {device or 'mouse'!r}",
            f"there is {there}" if there else "it has none",
        )
    return sockets[device or "mouse"], words[1:]
