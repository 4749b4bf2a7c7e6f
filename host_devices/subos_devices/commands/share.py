"""`subos-devices share add|remove|list`: the shares of a VM that runs, be it of `run` or attached.

In the default guest of `run` a share is mounted at once, and unmounted before it is removed. In other guests you mount
it: the command for that is printed. Unmount it yourself there before you remove it.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

EXAMPLES = """\
examples, for a VM called work (subos-devices status lists the names):
  subos-devices share add work ~/src              under its own path, to read and write
  subos-devices share add work ~/src:/work:ro     at /work, only to read
  subos-devices share add work notes.txt:/root/notes.txt
                                                  one file
  subos-devices share add work ~/src:code         with a tag of your choice
  subos-devices share list work
  subos-devices share remove work code            or work ~/src, or work /work
  subos-devices share remove --force work code    also while the guest uses it: its programs get errors
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from ..launcher.shares import FORM

    parser = subparsers.add_parser(
        "share",
        help="add, remove and list shares of a VM that runs",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="add|remove|list", required=True)
    add = actions.add_parser("add", help="share one more folder or file")
    add.add_argument("name", metavar="VM", help="as subos-devices status lists it")
    add.add_argument("share", metavar=FORM, help="the folder or file, and where and how the guest gets it")
    add.set_defaults(run=_add)
    remove = actions.add_parser("remove", help="take a share out of the guest again")
    remove.add_argument("name", metavar="VM", help="as subos-devices status lists it")
    remove.add_argument("what", metavar="TAG-or-PATH", help="as subos-devices share list lists it")
    remove.add_argument("--force", action="store_true", help="also while programs of the guest use it")
    remove.set_defaults(run=_remove)
    show = actions.add_parser("list", help="what is shared, and where it is mounted")
    show.add_argument("name", nargs="?", metavar="VM", help="only this VM's")
    show.add_argument("--json", action="store_true", help="print JSON: a list of shares, each with its VM")
    show.set_defaults(run=_list)


def _add(args: argparse.Namespace) -> int:
    import os

    from ..launcher.shares import split
    from ..supervisor import control
    from ..text import printable

    wanted = split(args.share)._asdict()
    wanted["path"] = os.path.abspath(wanted["path"])  # from where we are, not from where the VM was started
    share = control.ask(args.name, "share-add", timeout=None, **wanted)
    path = printable(share["path"])
    if share["mounted"]:
        print(f"{path} is shared with {args.name}, at {printable(share['mounted'])} (tag {share['tag']})")
    else:
        print(f"{path} is shared with {args.name} (tag {share['tag']})")
        print(f"  in the guest: {share['mount_command']}")
    return 0


def _remove(args: argparse.Namespace) -> int:
    import os

    from ..supervisor import control
    from ..text import printable

    share = control.ask(
        args.name, "share-remove", timeout=None, what=args.what, path=os.path.abspath(args.what), force=args.force
    )
    print(f"{printable(share['path'])} is no longer shared with {args.name} (tag {share['tag']})")
    return 0


def _list(args: argparse.Namespace) -> int:
    from .. import runtime

    names = [args.name] if args.name else list(filter(runtime.is_running, runtime.vm_names()))
    shares = [share for name in names for share in _ask(name, quietly=not args.name)]
    if args.json:
        print(json.dumps(shares, indent=2))
    elif shares:
        _show(shares)
    else:
        print("nothing is shared" if names else "no VM is running")
    return 0


def _ask(name: str, *, quietly: bool) -> list[dict[str, Any]]:
    """The shares of one VM, each with its name. `quietly`: the others are shown though this one does not answer."""
    import sys

    from ..errors import UserError
    from ..supervisor import control

    try:
        return [{"vm": name, **share} for share in control.ask(name, "share-list")]
    except UserError as error:
        if not quietly:
            raise
        print(f"subos-devices: {error.message}", file=sys.stderr)
        return []


def _show(shares: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ..text import printable

    table = Table()
    for column in ("VM", "tag", "path", "access", "mounted at"):
        table.add_column(column)
    for share in shares:
        access = "read-only" if share["read_only"] else "read and write"
        path, place = printable(share["path"]), printable(share["mounted"] or "-")
        table.add_row(share["vm"], share["tag"], Text(path), access, Text(place))
    Console().print(table)
