"""`subos-devices detach NAME [DEVICE …]`: takes attached devices out of a VM, which runs on."""

from __future__ import annotations

import argparse


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("detach", help="takes attached devices out of a VM again", description=__doc__)
    parser.add_argument("name", metavar="NAME", help="the VM, as subos-devices status lists it")
    parser.add_argument("devices", nargs="*", metavar="DEVICE", help="only these devices (default: all)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..supervisor import control

    gone = control.ask(args.name, "detach", timeout=None, devices=args.devices)
    print(f"detached from {args.name}: {', '.join(gone)}")
    return 0
