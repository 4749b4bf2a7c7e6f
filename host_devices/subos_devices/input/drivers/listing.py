"""The input devices of this host, as a table for people and as data for programs."""

from __future__ import annotations

import os
from typing import Any

from ...text import printable
from .host import PERMISSION_HINT, HostDevice, evdev_module, identity_of, paths
from .kinds import kind_of


def rows() -> list[dict[str, Any]]:
    """One a device: path, name, id, phys, uniq, and kind, which is None where we may not look. Raises UserError."""
    evdev_module()
    found = []
    for path in paths():
        try:
            identity = identity_of(path)
        except OSError:  # gone
            continue
        kind: str | None = None
        try:
            device = HostDevice(path)
        except OSError:
            pass
        else:
            kind = kind_of(device.capabilities)
            device.close()
        found.append(
            {
                "path": os.fspath(path),
                "name": identity.name,
                "kind": kind,
                "id": f"{identity.vendor:04x}:{identity.product:04x}",
                "phys": identity.phys,
                "uniq": identity.uniq,
            }
        )
    return found


def show(found: list[dict[str, Any]]) -> None:
    """Prints a table, and a hint where something is missing."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if not found:
        console.print("this host has no input devices in /dev/input", highlight=False)
        return
    table = Table()
    for column in ("device", "name", "kind", "id", "phys"):
        table.add_column(column, overflow="fold")
    for row in found:
        kind = "may not be read" if row["kind"] is None else row["kind"] or "-"
        table.add_row(*(escape(printable(text)) for text in (row["path"], row["name"], kind, row["id"], row["phys"])))
    console.print(table)
    if any(row["kind"] is None for row in found):
        console.print(f"hint: {PERMISSION_HINT}", highlight=False, markup=False)
