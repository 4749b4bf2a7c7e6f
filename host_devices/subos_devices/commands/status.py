"""`subos-devices status`: the VMs that run, their devices, and the workers that serve them."""

from __future__ import annotations

import argparse
import json
import re
import sys
from typing import Any

FACTS_SECONDS = 2.0
"""How long a guest may take to say what it is; one that does not answer holds up nobody."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("status", help="the VMs that run, their devices and workers", description=__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help="only this VM")
    parser.add_argument("--json", action="store_true", help="print JSON: a list of VMs, each with its devices")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..supervisor import control

    machines = [control.ask(args.name, "status")] if args.name else _all()
    if args.json:
        _add_what_agents_say(machines)
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


def _add_what_agents_say(machines: list[dict[str, Any]]) -> None:
    """Each machine's "guest", what its agent says of it, and "monitors", where its desktop has some; None where that
    does not answer."""
    import asyncio

    from subos_protocol.monitors import pack_layout

    from ..agent.caller import facts
    from ..agent.monitors import layout_if_told

    async def ask(machine: dict[str, Any]) -> None:
        name = machine["name"]
        machine["guest"], layout = await asyncio.gather(facts(name, FACTS_SECONDS), layout_if_told(name, FACTS_SECONDS))
        machine["monitors"] = layout and pack_layout(layout)

    async def ask_all() -> None:
        await asyncio.gather(*(ask(machine) for machine in machines if machine.get("agent")))

    for machine in machines:
        machine["guest"] = machine["monitors"] = None
    asyncio.run(ask_all())


def _agent(agent: dict[str, Any] | None) -> str:
    if agent is None:
        return "no agent answers in the guest"
    from subos_protocol import __version__

    older = _numbers(agent["release"]) < _numbers(__version__)
    age = ", older than this SubOS: some of what it could do may be missing" if older else ""
    return f"agent: {agent['software']} {agent['release']}, over {agent['way']}{age}"


def _numbers(release: str) -> list[int]:
    return [int(word) for word in re.findall(r"\d{1,9}", release)]


def _show(machine: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..launcher.devices import shared_path
    from ..supervisor.sandbox.report import sandboxes

    table = Table(title=f"{machine['name']}  (process {machine['pid']}, {machine['how']})", title_justify="left")
    for column in ("device", "kind", "what", "guest driver", "worker", "restarts", "requests"):
        table.add_column(column, justify="right" if column in ("worker", "restarts", "requests") else "left")
    for device in machine["devices"]:
        options = device["options"]
        path = shared_path(options)
        what = path or str(options.get("profile", ""))
        what += " (read-only)" if options.get("readonly") else ""
        what += f" at {device['mounted']}" if device.get("mounted") not in (None, path) else ""
        if "vsock" in device:
            what = f"{device['vsock']['connections']} open streams"
        driver = "running" if device["driver"] else "connected" if device["connected"] else "-"
        if device.get("gamepad", {}).get("agent"):
            driver = "agent"
        counts = (str(device[key]) for key in ("pid", "restarts", "requests"))
        table.add_row(device["name"], device["kind"], what, driver, *counts)
    Console().print(table)
    Console().print(f"sandbox: {sandboxes(machine['devices'])}", markup=False, highlight=False)
    if "agent" in machine:  # an attached VM has none
        Console().print(_agent(machine["agent"]), markup=False, highlight=False)
