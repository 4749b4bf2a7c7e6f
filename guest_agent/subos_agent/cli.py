"""The command `subos-agent`, inside the guest.

Modules are loaded when their command wants them: under emulation each costs the guest's boot some time.
"""

from __future__ import annotations

import argparse
import sys
from typing import List, Optional

DESCRIPTION = """\
SubOS inside the guest: it does for the host what the host cannot do from outside.

  subos-agent serve          the system service, as root: shares, clock, commands
  subos-agent session        in a user's desktop session: shares the clipboard
  subos-agent doctor         what works in this guest, and what is missing
  subos-agent allow exec     let the host run commands here (subos-devices exec, cp)
"""


def main(argv: Optional[List[str]] = None) -> int:
    """Exit codes: 0; 1 for a failure, 2 for wrong usage, 130 for Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        return 130
    except (OSError, LookupError, ValueError) as error:
        print(f"subos-agent: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="subos-agent", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--debug", action="store_true", help="say what happens on the channel")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="the system service: keeps the channel to the host open")
    serve.add_argument("--port", metavar="DEVICE", help="a virtio-serial port to use, instead of vsock if there is it")
    serve.add_argument("--allow-exec", action="store_true", help="commands for the host are on, whatever is configured")
    serve.set_defaults(run=_serve)

    doctor = commands.add_parser("doctor", help="what works in this guest, and what it lacks")
    doctor.add_argument("--json", action="store_true", help='print JSON: {"ok": bool, "findings": [...]}')
    doctor.set_defaults(run=_doctor)

    session = commands.add_parser("session", help="a user's part, in a desktop session: shares the clipboard")
    session.add_argument("--backend", choices=("x11", "wayland", "pyperclip"), help="instead of what is found")
    session.set_defaults(run=_session)

    facts = commands.add_parser("facts", help="what the host is told of this guest, as JSON")
    facts.set_defaults(run=_facts)

    for word, meaning in (("allow", "let the host do something here"), ("deny", "no longer let it")):
        allow = commands.add_parser(word, help=meaning)
        allow.add_argument("what", choices=("exec", "clipboard", "gamepads"))
        allow.set_defaults(run=_allow)

    control = commands.add_parser("serve-control", help="for tests: run commands for the host, until it hangs up")
    control.add_argument("--port", metavar="DEVICE", help="the control port (found by its name if not given)")
    control.set_defaults(run=_serve_control)
    return parser


def _serve(arguments: argparse.Namespace) -> int:
    import asyncio
    import contextlib
    import logging

    from subos_agent.configuration import Configuration
    from subos_agent.service import Service

    logging.basicConfig(format="subos-agent: %(message)s", level=logging.DEBUG if arguments.debug else logging.INFO)
    configuration = Configuration.load()
    if arguments.allow_exec:
        configuration = configuration.with_setting("exec", True)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(Service(configuration, arguments.port).run())
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from subos_agent import doctor

    return doctor.report(arguments.json)


def _session(arguments: argparse.Namespace) -> int:
    import asyncio
    import contextlib
    import logging

    try:
        from subos_agent import session
        from subos_desktop.clipboard.interface import ClipboardError
    except ImportError as error:
        raise LookupError(f"the clipboard needs {error.name}, which is not installed here") from error

    logging.basicConfig(format="subos-agent: %(message)s", level=logging.DEBUG if arguments.debug else logging.INFO)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(session.run(arguments.backend))
    except ClipboardError as error:
        raise LookupError(f"{error.message}\n  hint: {error.hint}" if error.hint else error.message) from error
    return 0


def _facts(arguments: argparse.Namespace) -> int:
    import json

    from subos_agent.facts import facts

    print(json.dumps(facts(), indent=2))
    return 0


def _allow(arguments: argparse.Namespace) -> int:
    from subos_agent.configuration import Configuration

    allowed = arguments.command == "allow"
    Configuration.load().with_setting(arguments.what, allowed).save()
    print(f"{arguments.what} is {'on' if allowed else 'off'} when the service starts next")
    return 0


def _serve_control(arguments: argparse.Namespace) -> int:
    from subos_agent import control

    control.serve(arguments.port or control.find_port())
    return 0
