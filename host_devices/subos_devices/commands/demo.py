"""`subos-devices demo`: boots a guest on this machine's own files, tries every device, and shows what the guest saw.

Nothing of this machine is changed: the guest writes into a temporary folder only. Exit 0 if all rows passed.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..demo import Row
    from ..launcher.vm import VmPlan
    from ..supervisor.holder import Holder


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("demo", help="boot a guest and see every device work", description=__doc__)
    parser.add_argument(
        "--json",
        action="store_true",
        help='print JSON: {"ok": bool, "boot_ms": n, "rows": [{"device", "check", "ok", "ms", "detail"}]}; '
        'where there is no such guest, "boot_ms" may be null, and "error" says why',
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import json
    from contextlib import closing

    from ..errors import SubosError
    from ..registry import KINDS
    from ..supervisor.holder import Holder

    report: dict[str, Any] = {"ok": False, "boot_ms": None, "rows": []}
    try:
        with closing(Holder.start(*KINDS)) as holder:  # first, so that its processes load while we load the rest
            status = _run(holder, report, args.json)
    except (SubosError, OSError) as error:
        if args.json:
            print(json.dumps({**report, "error": str(error)}, indent=2))
        raise
    if args.json and status < 128:  # nobody waits for the report of a demo that a signal has ended
        print(json.dumps(report, indent=2))
    return status


def _run(holder: Holder, report: dict[str, Any], as_json: bool) -> int:
    from .. import signals
    from ..config import resolve
    from ..launcher.packages import show_progress
    from ..launcher.settings import SETTINGS
    from ..launcher.vm import VmPlan

    wanted = argparse.Namespace(pointer=True, touch=True, gamepad=["xbox360"])  # besides what every guest has
    plan = VmPlan.from_settings(resolve(wanted, SETTINGS, None), show_progress)
    return signals.run(_demo(plan, holder, report, as_json))


async def _demo(plan: VmPlan, holder: Holder, report: dict[str, Any], as_json: bool) -> int:
    import sys
    import tempfile
    import time
    from dataclasses import asdict
    from pathlib import Path

    from .. import demo
    from ..demo.clipboard import own_display
    from ..launcher.control import GuestControl, agent_command
    from ..launcher.guest_run import Mode
    from ..launcher.vm import start

    def say(text: str) -> None:
        print(text, file=sys.stderr if as_json else sys.stdout, flush=True)

    kernel = plan.kernel.version if plan.kernel else ""
    say(f"booting Linux {kernel} on this machine's own files ({plan.accelerator}) …")
    began = time.monotonic()
    command, variables = agent_command()
    rows: list[demo.Row] = []
    with tempfile.TemporaryDirectory(prefix="subos-demo-") as folder:
        plan = plan.sharing(folder)
        async with (
            own_display(),
            start(plan, holder, command=command, mode=Mode.CONTROL, environment=variables) as vm,
        ):
            guest = GuestControl(vm.machine)
            await guest.wait_booted()
            report["boot_ms"] = round((time.monotonic() - began) * 1000)
            say(f"up after {report['boot_ms'] / 1000:.1f} s; now each device:")
            for check in demo.CHECKS:
                say(f"  {check[0]}: {check[1]} …")
                rows.append(await demo.run_check(demo.Scene(vm, guest, Path(folder)), check))
                report["rows"].append(asdict(rows[-1]))
            await guest.close()
    report["ok"] = all(row.ok for row in rows)
    if not as_json:
        _show(rows)
    return 0 if report["ok"] else 1


def _show(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="What the guest saw", title_justify="left")
    table.add_column("device")
    table.add_column("what was tried")
    table.add_column("result")
    table.add_column("ms", justify="right")
    table.add_column("seen")
    for row in rows:
        result = "[green]ok[/]" if row.ok else "[red]FAILED[/]"
        table.add_row(row.device, row.check, result, str(row.ms), escape(row.detail))
    Console().print(table)
