"""`subos-devices status`: the VMs that run, their devices, and the workers that serve them."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("status", help="the VMs that run, their devices and workers", description=__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help="only this VM")
    parser.add_argument("--json", action="store_true", help="print JSON: a list of VMs, each with its devices")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..supervisor import control

    machines = [control.ask(args.name, "status")] if args.name else _all()
    if args.json:
        print(json.dumps(machines, indent=2))
    elif not machines:
        print("no VM is running")
    for machine in [] if args.json else machines:
        _show(machine)
    return 0


def _all() -> list[dict[str, Any]]:
    """What each VM says that answers."""
    from .. import runtime
    from ..errors import UserError
    from ..supervisor import control

    machines = []
    for name in filter(runtime.is_running, runtime.vm_names()):
        try:
            machines.append(control.ask(name, "status"))
        except UserError as error:  # it may be starting or ending: the others are shown all the same
            print(f"subos-devices: {error.message}", file=sys.stderr)
    return machines


def _show(machine: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..launcher.devices import shared_path

    table = Table(title=f"{machine['name']}  (process {machine['pid']}, {machine['how']})", title_justify="left")
    for column in ("device", "kind", "what", "guest driver", "worker", "restarts", "requests"):
        table.add_column(column, justify="right" if column in ("worker", "restarts", "requests") else "left")
    for device in machine["devices"]:
        options = device["options"]
        path = shared_path(options)
        what = path + (" (read-only)" if options.get("readonly") else "")
        what += f" at {device['mounted']}" if device.get("mounted") not in (None, path) else ""
        if "vsock" in device:
            what = f"{device['vsock']['connections']} open streams"
        driver = "running" if device["driver"] else "connected" if device["connected"] else "-"
        counts = (str(device[key]) for key in ("pid", "restarts", "requests"))
        table.add_row(device["name"], device["kind"], what, driver, *counts)
    Console().print(table)
