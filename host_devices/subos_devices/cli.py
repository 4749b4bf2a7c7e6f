"""The `subos-devices` command: finds the subcommand, runs it, and turns what goes wrong into one line and a hint."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import shlex
import sys
from collections.abc import Sequence

from .errors import SubosError

COMMANDS = (
    *("run", "demo", "attach", "detach", "share", "exec", "cp", "clipboard", "ssh", "vsock"),
    *("agent", "status", "input", "serve", "args", "doctor", "restart-supervisor"),
)
DESCRIPTION = """\
Native-feeling devices for QEMU guests: shared files, an absolute mouse, and more to come.

  subos-devices run                          this machine itself as a guest, with a shell
  subos-devices run --share . -- make test   a command in it; its exit status is yours
  subos-devices attach --qmp qmp.sock --mouse --share ~/src
                                             the devices for a QEMU that runs already
  subos-devices share add work ~/src:/work   one more folder for a guest that runs
  subos-devices exec -it work                a shell in it
  subos-devices cp work:/etc/os-release .    a file out of it
  subos-devices ssh work                     into its sshd, without a network
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="subos-devices", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--debug", action="store_true", help="show traces of errors, and what the devices do")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f".commands.{name.replace('-', '_')}", __package__).add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: the command's own; 1 for a failure, 2 for a request that cannot be met, 125 for a lost VM,
    130 for Ctrl-C."""
    _open_standard_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(arguments)
    logging.basicConfig(
        format="subos: %(message)s", level=logging.DEBUG if args.debug else logging.WARNING, stream=sys.stderr
    )
    try:
        try:
            return int(args.run(args))
        finally:
            _flush()
    except SubosError as error:
        print(f"subos-devices: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
        if args.debug:
            print(f"  command: {shlex.join(['subos-devices', *arguments])}", file=sys.stderr)
            raise
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 141
    except OSError as error:
        reason = error.strerror or str(error)
        print(f"subos-devices: {f'{error.filename}: ' if error.filename else ''}{reason}", file=sys.stderr)
        if args.debug:
            raise
        return 1


def _open_standard_streams() -> None:
    """A closed one becomes /dev/null: else the next socket would get its number, and be taken for it."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is this one
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 (open to the end)


def _flush() -> None:
    """Raises OSError where output cannot be written, once: the interpreter's own attempt at the end then succeeds."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
        raise OSError(error.errno, error.strerror, "standard output") from error


if __name__ == "__main__":
    sys.exit(main())
