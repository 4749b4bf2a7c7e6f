"""`subos-devices cp`: copies files and folders between this machine and a guest that runs, by its agent.

As `cp -a` does: folders with all that is in them, links as links, modes and times kept, owners too where root copies.
Into a folder that is there, else under the new name; `FOLDER/.` means what is in it. A guest that boots a disk refuses
until somebody inside it has said `subos-agent allow exec`.
"""

from __future__ import annotations

import argparse

EXAMPLES = """\
examples, for a VM called work (subos-devices status lists the names):
  subos-devices cp work:/etc/os-release .
  subos-devices cp src notes.txt work:/srv           both end up in /srv, which is there
  subos-devices cp work:/var/log/. logs              what is in it, without the folder itself
  subos-devices cp work:/srv/data other:/srv         from guest to guest
  subos-devices cp work:/srv - | tar t               a tar archive on standard output
  tar c . | subos-devices cp - work:/srv             and from standard input

a file here whose name has a colon is written ./a:b
exit status: 0; 1 where something could not be copied; 2 when nothing was
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "cp",
        help="copy files from or to a guest that runs",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="VM:/path, a path here, or -")
    parser.add_argument("target", metavar="TARGET", help="the same")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import os

    from .. import signals
    from ..agent.copy import STANDARD, Place, copy
    from ..agent.progress import Progress
    from ..errors import UserError

    sources, target = [Place.parse(text) for text in args.sources], Place.parse(args.target)
    if len(sources) > 1 and STANDARD in [target.path, *(source.path for source in sources)]:
        raise UserError("- stands for one tar archive", "copy one thing at a time")
    if len(sources) > 1:
        target = Place(target.vm, os.path.join(target.path, "."))  # which must be a folder, and be there

    async def main() -> int:
        with Progress(show=not args.quiet) as progress:
            await copy(sources, target, progress)
        return 0

    return signals.run(main())
