"""`subos-devices args`: the QEMU arguments for SubOS's devices, for people with scripts of their own.

Standard output is QEMU's arguments, quoted for a shell; standard error is the commands that serve the devices, to be
started before QEMU. --json prints both as lists.

  eval "qemu-system-x86_64 -m 2G … $(subos-devices args --share ~/src:src --mouse --socket-dir /tmp/vm)"
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from .. import config
    from ..launcher.settings import PROCESS, add_device_flags
    from ..launcher.shares import FORM

    parser = subparsers.add_parser(
        "args",
        help="print QEMU arguments, for scripts of your own",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--share", action="append", default=[], metavar=FORM, help="share a folder or a file; may be repeated"
    )
    add_device_flags(parser)
    config.add_flags(parser, (PROCESS,))
    parser.add_argument("--memory", default="2G", metavar="SIZE", help="the VM's memory, as in its -m (default: 2G)")
    parser.add_argument(
        "--socket-dir", type=Path, default=Path.cwd(), metavar="DIR", help="where the sockets are (default: here)"
    )
    parser.add_argument("--json", action="store_true", help='print {"serve": [[…], …], "qemu": […]}')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from .. import config
    from ..errors import UserError
    from ..launcher import devices
    from ..launcher.settings import DEVICES, PROCESS, memory_mib, process_models, wanted_devices
    from ..launcher.shares import parse_shares

    planned = devices.plan(parse_shares(args.share), **wanted_devices(args))
    devices.refuse_hot(planned)
    if not planned:
        flags = ", ".join(f"--{kind}" for kind in ("share", *DEVICES, "gamepad"))
        raise UserError("nothing to print arguments for", f"name at least one of {flags}")
    folder = args.socket_dir.absolute()
    rules = config.resolve(args, (PROCESS,), None).process
    models = process_models(rules, [(device.name, device.kind) for device in planned], "auto")
    serve = [devices.serve_command(folder, device, models.named(device.name, device.kind)) for device in planned]
    memory = f"memory-backend-memfd,id=subos-memory,size={memory_mib(args.memory)}M,share=on"
    qemu = ["-object", memory, "-machine", "memory-backend=subos-memory"]
    for device in planned:
        qemu += devices.vhost_user_device(folder, device).arguments()
    if args.json:
        print(json.dumps({"serve": serve, "qemu": qemu}, indent=2))
        return 0
    print("# start these first, each in the background:", file=sys.stderr)
    for command in serve:
        print(f"#   {shlex.join(command)}", file=sys.stderr)
    print(shlex.join(qemu))
    return 0
