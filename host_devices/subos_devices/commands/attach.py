"""`subos-devices attach`: hot-plugs devices into a QEMU that runs already, and serves them in the background.

QEMU must have been started with a QMP socket (-qmp unix:PATH,server=on,wait=off) and with shared memory; on a q35
machine also with a free pcie-root-port for each device. `subos-devices detach NAME` takes them out again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..launcher.attached import Attachment
    from ..supervisor.sandbox.policies import Choice


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from .. import config
    from ..launcher.settings import PROCESS, SANDBOX_SETTINGS, SHARE_SETTINGS, add_device_flags
    from ..launcher.shares import FORM

    parser = subparsers.add_parser("attach", help="devices for a QEMU that runs already", description=__doc__)
    parser.add_argument("--qmp", type=Path, required=True, metavar="SOCKET", help="QEMU's QMP socket")
    parser.add_argument("--name", default="", help="what to call the VM here (default: its own name)")
    parser.add_argument(
        "--share", action="append", default=[], metavar=FORM, help="share a folder or a file; may be repeated"
    )
    add_device_flags(parser)
    parser.add_argument(
        "--agent",
        nargs="?",
        const="auto",
        default="",
        choices=("auto", "vsock", "serial"),
        help="the way to the guest's agent (commands, clipboard, mounts): vsock, or a virtio-serial port where the "
        "VM's memory is not shared",
    )
    parser.add_argument("--clipboard", action="append", default=[], metavar="RULE", help="as for run; may be repeated")
    config.add_flags(parser, (*SHARE_SETTINGS, *SANDBOX_SETTINGS, PROCESS))
    parser.add_argument("--foreground", action="store_true", help="serve until Ctrl-C, which detaches everything")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from .. import config
    from ..agent.clipboard.policy import Rules
    from ..errors import UserError
    from ..launcher import devices
    from ..launcher.attached import Attachment
    from ..launcher.settings import (
        DEVICES,
        PROCESS,
        SANDBOX_SETTINGS,
        SHARE_SETTINGS,
        process_models,
        sandbox_choice,
        share_options,
        wanted_devices,
    )
    from ..launcher.shares import parse_shares

    shares = parse_shares(args.share)
    common = share_options(config.resolve(args, SHARE_SETTINGS, None))
    planned = devices.plan(shares, **wanted_devices(args), common=common)
    devices.refuse_hot(planned)
    if not planned and not args.agent:
        flags = ", ".join(f"--{kind}" for kind in ("share", *DEVICES, "gamepad", "agent"))
        raise UserError("nothing to attach", f"name at least one of {flags}")
    Rules.parse(args.clipboard)
    settings = config.resolve(args, (*SANDBOX_SETTINGS, PROCESS), None)
    named = [(device.name, device.kind) for device in planned]
    models = process_models(settings.process, named, settings.sandbox)
    sandbox = sandbox_choice(settings)
    attachment = Attachment(args.qmp.absolute(), args.name, planned, shares, common, args.clipboard, models, args.agent)

    def report(name: str) -> None:
        names = [device.name for device in planned] + (["agent"] if args.agent else [])
        print(f"attached to {name}: {', '.join(names)}")
        for share in shares:
            print(f"  in the guest: {share.mount_command()}")

    if args.foreground:
        _serve(attachment, sandbox, report)
        return 0
    report(_in_background(attachment, sandbox))
    return 0


def _serve(attachment: Attachment, sandbox: Choice, ready: Callable[[str], None]) -> None:
    import asyncio
    import contextlib

    from ..supervisor.holder import Holder

    with contextlib.closing(Holder.start(*{device.kind for device in attachment.devices})) as holder:
        holder.sandbox = sandbox
        asyncio.run(attachment.run(holder, ready))


def _in_background(attachment: Attachment, sandbox: Choice) -> str:
    """Serves in a process of its own. Returns the VM's name once all is plugged. Raises UserError."""
    import contextlib
    import json
    import os
    import signal

    from ..errors import SubosError, UserError

    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        try:
            with open(reader, "rb") as answers:
                answer = json.loads(answers.read() or b'{"message": "the background process died"}')
        except KeyboardInterrupt:
            os.kill(pid, signal.SIGINT)  # what is plugged already goes out again
            os.waitpid(pid, 0)
            raise
        if "name" in answer:
            return str(answer["name"])
        os.waitpid(pid, 0)
        raise UserError(answer["message"], answer.get("hint", ""))

    parent = open(writer, "wb")  # noqa: SIM115

    def tell(**said: str) -> None:
        """What the parent waits for: said once, and to nobody where it has not waited."""
        if not parent.closed:
            with contextlib.suppress(OSError), parent:
                parent.write(json.dumps(said).encode())

    status = 1
    try:
        os.close(reader)
        os.setsid()
        # Before there are workers: who reads what this command prints waits until nobody can write any more.
        null = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(null, standard)
        os.close(null)
        _serve(attachment, sandbox, lambda name: tell(name=name))
        status = 0
    except SubosError as error:
        tell(message=error.message, hint=error.hint)
    except BaseException as error:
        tell(message=f"{type(error).__name__}: {error}", hint="run it with --foreground to see more")
    finally:  # what called us must never run twice
        os._exit(status)
