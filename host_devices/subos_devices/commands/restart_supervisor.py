"""`subos-devices restart-supervisor [VM]`: puts another supervisor in the place of a VM's, which runs on.

The supervisor is the process that speaks with QEMU for all devices of a VM. The next one is of the version of SubOS
that is installed now, so this is how a VM that runs gets an upgrade. It is there and ready before the old one is
killed: QEMU keeps its connections, and the devices' workers serve on meanwhile, in the version that they began in.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

EXAMPLES = """\
examples, for a VM called work (subos-devices status lists the names):
  subos-devices restart-supervisor work     of this VM
  subos-devices restart-supervisor          of every VM that runs

one that is killed, or that hangs, is replaced by itself: subos-devices status has how often

exit status: 2 where the next supervisor does not get ready (the one that served then serves on), or none serves for a
minute
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "restart-supervisor",
        help="another supervisor for a VM that runs on: after an upgrade",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="VM", help="only this VM's")
    parser.add_argument(
        "--json",
        action="store_true",
        help='print JSON: a list of {"vm", "old", "new" (pids), "milliseconds", "old_version", "new_version"}',
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from .. import runtime
    from ..errors import UserError
    from ..supervisor import control

    done: list[dict[str, Any]] = []
    status = 0
    names = [args.name] if args.name else list(filter(runtime.is_running, runtime.vm_names()))
    for name in names:
        try:
            done.append({"vm": name, **control.ask(name, "restart-supervisor", timeout=None)})
        except UserError as error:
            if args.name:
                raise
            print(f"subos-devices: {name}: {error.message}", file=sys.stderr)  # the others come all the same
            status = error.exit_code
        else:
            if not args.json:
                print(_line(done[-1]), flush=True)
    if args.json:
        print(json.dumps(done, indent=2))
    elif not names:
        print("no VM is running")
    return status


def _line(done: dict[str, Any]) -> str:
    versions = f"{done['old_version']} -> {done['new_version']}"
    return (
        f"{done['vm']}: supervisor {done['old']} -> {done['new']} ({versions}), "
        f"{done['milliseconds']:.0f} ms without one; the VM went on"
    )
