"""`subos-devices run`: boots a guest with SubOS's devices.

Without --image the guest is this machine itself: its own files as the root, read-only under a layer in memory, so
that nothing that happens in the guest stays. Folders given with --share are written through. With a COMMAND its
output and exit status are the launcher's; without one you get a shell.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import add_flags, resolve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..launcher.vm import VmPlan
    from ..supervisor.holder import Holder

EXAMPLES = """\
examples:
  subos-devices run                                  a shell in a guest
  subos-devices run --share . -- make -j2 test       a command, on a folder that it may write
  subos-devices run --share ~/src:/work:ro --share notes.txt:/root/notes.txt
                                                     a folder at another place, and one file
  subos-devices run --image debian.qcow2 --share ~/src:src
                                                     a disk; in it: mount -t virtiofs src /mnt
  subos-devices run --image debian.qcow2 --install-agent
                                                     with a disk SUBOS, from which the agent is installed

shares of a guest that runs: subos-devices share --help

a guest that hangs: press Ctrl-] three times within a second, and the VM ends

exit status: the command's; 125 when the VM is lost; 2 when the request cannot be met
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from ..launcher.settings import SETTINGS

    parser = subparsers.add_parser(
        "run",
        help="boot a guest: this machine itself, or a disk image",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_flags(parser, SETTINGS)
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings in TOML: these flags without dashes")
    parser.add_argument("arguments", nargs="*", metavar="COMMAND", help="what to run in the guest, after --")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from contextlib import closing

    from ..registry import KINDS
    from ..supervisor.holder import Holder

    with closing(Holder.start(*KINDS)) as holder:  # first, so that its processes load while we load the rest
        return _run(args, holder)


def _run(args: argparse.Namespace, holder: Holder) -> int:
    from .. import signals
    from ..errors import UserError
    from ..launcher import input_driver
    from ..launcher.packages import show_progress
    from ..launcher.settings import SETTINGS, sandbox_choice
    from ..launcher.vm import VmPlan

    settings = resolve(args, SETTINGS, args.config)
    if settings.image is not None and args.arguments:
        raise UserError("a COMMAND needs the default guest", "leave out --image, or run it in the guest yourself")
    holder.sandbox = sandbox_choice(settings)
    plan = VmPlan.from_settings(settings, show_progress)
    input_driver.check(settings.input, plan.devices)
    return signals.run(_boot(plan, holder, args.arguments, args.config if settings.input else None))


async def _boot(plan: VmPlan, holder: Holder, command: Sequence[str], rules: Path | None) -> int:
    """`rules` is the settings file, if there are rules of input devices in it."""
    import os

    from ..launcher import terminal
    from ..launcher.guest_run import Mode
    from ..launcher.input_driver import input_driver
    from ..launcher.vm import start

    interactive = terminal.is_interactive()
    if plan.image is not None:
        _say_how_to_install(plan)
        async with start(plan, holder) as vm, input_driver(plan.name, rules):
            return await terminal.run_on_serial(vm.machine, interactive)
    words = list(command) or [os.environ.get("SHELL", "/bin/sh")]
    mode = Mode.TERMINAL if interactive else Mode.STREAMS
    window = terminal.window_size()
    async with (
        start(plan, holder, command=words, mode=mode, window=window) as vm,
        input_driver(plan.name, rules),
    ):
        pump = terminal.run_on_terminal if interactive else terminal.run_on_streams
        return await pump(vm.machine)


def _say_how_to_install(plan: VmPlan) -> None:
    import sys

    if "agent" in plan.media:
        from ..packaging import media

        print(f"subos: to install the agent, in the guest, as root:  {media.COMMAND}", file=sys.stderr, flush=True)
