"""`subos-devices status`: the VMs that run, their devices, and the workers that serve them."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
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


def _worker(device: dict[str, Any]) -> str:
    """Its process's number, and what is unusual about it."""
    if device["quiet"]:
        return "quiet"
    how, _, name = str(device["process"]).partition(":")
    if how == "inline":
        return how
    return f"{device['pid']} {name if how == 'group' else name.partition(' ')[0].rpartition('/')[2]}".rstrip()


def _mebibytes(number: int | None) -> str:
    """None is what could not be seen."""
    return "?" if number is None else f"{number / (1 << 20):.1f}"


def _memory(machine: dict[str, Any]) -> str:
    processes = {device[which] for device in machine["devices"] for which in ("pid", "keeper") if device[which]}
    count, unseen = len(processes - {machine["supervisor"]["pid"]}), machine["memory"]["unseen"]
    parts = ("workers", "zygote", "supervisor", "launcher")
    workers, zygote, supervisor, launcher = (_mebibytes(machine["memory"][name]) for name in parts)
    how_many = f"{count - unseen} of {count}" if unseen else str(count)
    return (
        f"{workers} MiB for {how_many} workers, {zygote} the zygote, {supervisor} the supervisor, "
        f"{launcher} this launcher"
    )


def supervisor_line(supervisor: dict[str, Any]) -> str:
    """Which process it is, and how many there were before it."""
    pid, restarts = supervisor["pid"], supervisor["restarts"]
    times = "" if not restarts else f", restarted {restarts} time{'s' if restarts > 1 else ''}"
    return f"supervisor: process {pid}, version {supervisor['version']}{times}" if pid else f"no supervisor now{times}"


def quiet_devices(machine: dict[str, Any]) -> list[str]:
    """A line for each device that is held quiet: since when, and why."""
    lines = []
    for device in machine["devices"]:
        if quiet := device["quiet"]:
            since = time.strftime("%H:%M:%S", time.localtime(quiet["since"]))
            lines.append(f"{device['name']} is quiet since {since}, and its driver waits: {quiet['reason']}")
    return lines


def _numbers(release: str) -> list[int]:
    return [int(word) for word in re.findall(r"\d{1,9}", release)]


def _show(machine: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from ..launcher.devices import shared_path
    from ..supervisor.sandbox.report import sandboxes

    title = f"{machine['name']}  (process {machine['pid']}, {machine['how']})"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("device", "kind", "what", "driver", "worker"):
        table.add_column(column)
    for column in ("MiB", "restarts", "requests"):
        table.add_column(column, justify="right")
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
        counts = (_mebibytes(device["pss"]), str(device["restarts"]), str(device["requests"]))
        table.add_row(device["name"], device["kind"], what, driver, _worker(device), *counts)
    Console().print(table)
    for line in quiet_devices(machine):
        Console().print(line, markup=False, highlight=False)
    Console().print(supervisor_line(machine["supervisor"]), markup=False, highlight=False)
    Console().print(f"memory: {_memory(machine)}", markup=False, highlight=False)
    Console().print(f"sandbox: {sandboxes(machine['devices'])}", markup=False, highlight=False)
    if "agent" in machine:  # an attached VM has none
        Console().print(_agent(machine["agent"]), markup=False, highlight=False)
