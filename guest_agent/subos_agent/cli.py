"""The command `subos-agent`, inside the guest."""

from __future__ import annotations

import argparse
import sys
from typing import List, Optional

from subos_agent import control


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="subos-agent", description="SubOS inside the guest.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve-control", help="run commands for the host, until it hangs up")
    serve.add_argument("--port", metavar="DEVICE", help="the control port (found by its name if not given)")
    arguments = parser.parse_args(argv)
    try:
        control.serve(arguments.port or control.find_port())
    except (OSError, LookupError) as error:
        print(f"subos-agent: {error}", file=sys.stderr)
        return 1
    return 0
