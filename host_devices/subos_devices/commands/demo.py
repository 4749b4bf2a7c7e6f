"""`subos-devices demo`: boots a guest on this machine's own files, tries every device, and shows what the guest saw.

Nothing of this machine is changed: the guest writes into a temporary folder only. Exit 0 if all rows passed.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..demo import Row
    from ..launcher.vm import VmPlan
    from ..supervisor.zygote import Zygote


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("demo", help="boot a guest and see every device work", description=__doc__)
    parser.add_argument(
        "--json", action="store_true", help='print JSON: {"ok": bool, "boot_ms": n, "rows": [{"device", "check", …}]}'
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import argparse
    import tempfile

    from ..config import resolve
    from ..launcher.packages import show_progress
    from ..launcher.settings import SETTINGS
    from ..launcher.vm import VmPlan
    from ..supervisor.zygote import Zygote

    with tempfile.TemporaryDirectory(prefix="subos-demo-") as folder:
        settings = resolve(argparse.Namespace(share=[folder]), SETTINGS, None)
        plan = VmPlan.from_settings(settings, show_progress)
        zygote = Zygote.start()
        import asyncio

        return asyncio.run(_demo(plan, zygote, folder, args.json))


async def _demo(plan: VmPlan, zygote: Zygote, folder: str, as_json: bool) -> int:
    import json
    import sys
    import time
    from dataclasses import asdict
    from pathlib import Path

    from .. import demo
    from ..launcher.control import GuestControl, agent_command
    from ..launcher.guest_run import Mode
    from ..launcher.vm import start

    def say(text: str) -> None:
        print(text, file=sys.stderr if as_json else sys.stdout, flush=True)

    kernel = plan.kernel.version if plan.kernel else ""
    say(f"booting Linux {kernel} on this machine's own files ({plan.accelerator}) …")
    began = time.monotonic()
    command, variables = agent_command()
    rows: list[Row] = []
    async with start(plan, zygote, command=command, mode=Mode.CONTROL, environment=variables) as vm:
        guest = GuestControl(vm.machine)
        await guest.wait_booted()
        boot_ms = round((time.monotonic() - began) * 1000)
        say(f"up after {boot_ms / 1000:.1f} s; now each device:")
        for check in demo.CHECKS:
            say(f"  {check[0]}: {check[1]} …")
            rows.append(await demo.run_check(demo.Scene(vm, guest, Path(folder)), check))
        await guest.close()
    ok = all(row.ok for row in rows)
    if as_json:
        print(json.dumps({"ok": ok, "boot_ms": boot_ms, "rows": [asdict(row) for row in rows]}, indent=2))
    else:
        _show(rows)
    return 0 if ok else 1


def _show(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="What the guest saw", title_justify="left")
    table.add_column("device")
    table.add_column("what was tried")
    table.add_column("result")
    table.add_column("ms", justify="right")
    table.add_column("seen")
    for row in rows:
        result = "[green]ok[/]" if row.ok else "[red]FAILED[/]"
        table.add_row(row.device, row.check, result, str(row.ms), row.detail)
    Console().print(table)
