"""`subos-devices exec`: runs a command in a guest that runs, by its agent.

Its output, its errors and its exit status are this command's own. Standard input is passed on with -i; -t gives it a
terminal. A guest that boots a disk refuses until somebody inside it has said `subos-agent allow exec`.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from subos_protocol.agent.frames import Head

EXAMPLES = """\
examples, for a VM called work (subos-devices status lists the names):
  subos-devices exec work -- uname -a
  subos-devices exec -it work                        a login shell
  subos-devices exec -it --user me --cwd /srv work -- bash
  tar c . | subos-devices exec -i work -- tar x -C /srv
  subos-devices exec --env LANG=C work -- sh -c 'echo $LANG'

the way out of a guest that hangs: Ctrl-] three times within a second on a terminal, else Ctrl-C three times
exit status: the command's; 128 + N where signal N ended it; 2 when it cannot be started
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "exec",
        help="run a command in a guest that runs",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="subos-devices exec [-h] [-i] [-t] [--user USER] [--cwd DIR] [--env NAME=VALUE] VM [-- COMMAND …]",
    )
    parser.add_argument("-i", "--interactive", action="store_true", help="pass standard input on")
    parser.add_argument("-t", "--tty", action="store_true", help="give the command a terminal")
    parser.add_argument("--user", metavar="USER", help="whose command it is (default: root, or who runs the agent)")
    parser.add_argument("--cwd", metavar="DIR", help="where it runs (default: the user's home)")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="a variable; may be repeated")
    parser.add_argument("name", metavar="VM", help="as subos-devices status lists it")
    parser.add_argument(
        "arguments", nargs="*", metavar="COMMAND", help="the command, after -- (default: a login shell)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import os
    import sys

    from .. import signals
    from ..agent import execute
    from ..errors import UserError
    from ..launcher import terminal

    if args.tty and not os.isatty(0 if args.interactive else 1):
        raise UserError("-t wants a terminal, and this is none", "leave out -t: the streams are passed on as they are")
    environment = dict(_variable(text) for text in args.env)
    head: Head = {"op": "exec", "argv": args.arguments, "user": args.user, "cwd": args.cwd, "environment": environment}
    if args.tty:
        rows, columns = terminal.window_size()
        head["terminal"] = {"rows": rows, "columns": columns, "name": os.environ.get("TERM", "xterm")}
    sys.stdout.flush()
    return signals.run(execute.run(args.name, head, stdin=args.interactive, tty=args.tty))


def _variable(text: str) -> tuple[str, str]:
    from ..errors import UserError

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UserError(f"--env {text} is no variable", "write it as NAME=VALUE")
    return name, value
