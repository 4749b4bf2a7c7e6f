"""`subos-devices serve KIND`: one device alone on a vhost-user socket, with virtiofsd's option names.

QEMU command lines, libvirt's `<source socket='…'/>` and any other vhost-user front end use it as they use virtiofsd.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

    from ..supervisor.process_models import Models
    from ..supervisor.zygote import Zygote
    from ..vhost_user.device import DeviceSpec, Option


EPILOG = """\
the VM needs shared memory:
  -object memory-backend-memfd,id=mem,size=SIZE,share=on -machine memory-backend=mem

whose the guest's files are:
  served by root, a file in the guest and its host file have one owner; served by another user, all is that user's
  --map-uid 0:1000:1                what is 1000's here is root's in the guest, and the other way round
  --map-uid squash:0:1000:65536     so many users of the guest, from 0 on, are all 1000 here, which shows as 0
  --map-uid forbid:0:1              the guest's root can own and make nothing
  where ranges are given, users of the guest in none of them are refused (EPERM), and those of the host show as 65534
  --map ownership=xattr             the guest may chown, chmod and mknod as on its own disk: what the host would
                                    refuse is kept in the attribute user.subos.stat of files that are yours
  --map xattr=mapped                likewise for ACLs, security.* and trusted.*: user.subos.NAME
                                    (with ownership=xattr it is so anyway, unless --map xattr=no)
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from .. import config
    from ..launcher.settings import SANDBOX_SETTINGS, SHARE_SETTINGS
    from ..registry import KINDS

    parser = subparsers.add_parser(
        "serve",
        help="serve one device on a vhost-user socket, as virtiofsd does",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "kind", metavar="KIND", help=f"{', '.join(KINDS)}, or package.module:Class of a device of yours"
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--socket-path", type=Path, metavar="PATH", help="make and listen on this socket")
    where.add_argument("--fd", type=int, metavar="FD", help="a listening socket that the caller has opened")
    parser.add_argument("--shared-dir", metavar="PATH", help="fs: the folder, or the one file, to share")
    parser.add_argument("--readonly", action="store_true", help="fs: the guest may change nothing")
    config.add_flags(parser.add_argument_group("fs: how files are shared"), SHARE_SETTINGS)
    parser.add_argument(
        "--driver-socket", type=Path, metavar="PATH", help="input devices: where their events come from"
    )
    parser.add_argument(
        "--uds-path",
        type=Path,
        metavar="PATH",
        help="vsock: where programs of the host reach the guest's ports; the guest reaches theirs at PATH_PORT",
    )
    parser.add_argument("--guest-cid", type=int, metavar="N", help="vsock: the guest's address (default: 3)")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="gamepad: profile=NAME; or an option of a device of yours",
    )
    config.add_flags(parser, SANDBOX_SETTINGS)
    parser.add_argument(
        "--process",
        default="own",
        metavar="MODEL",
        help="own: a process of ours (the default); own:COMMAND: another program, by its whole path; inline: the "
        "supervisor itself, without a sandbox",
    )
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="WHAT",
        help="a device of yours, or another program, may have, inside its sandbox: read=PATH, write=PATH, net, "
        "threads; may be repeated",
    )
    parser.add_argument(
        "--persistent", action="store_true", help="wait for the next front end when one has gone, rather than end"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from contextlib import closing

    from ..errors import UserError
    from ..supervisor.zygote import Zygote

    listener = None if args.fd is None else _inherited(args.fd)
    with closing(Zygote.start(args.kind)) as zygote:  # first, so that it loads the device while we load the rest
        from .. import config, signals
        from ..launcher.settings import SANDBOX_SETTINGS, process_models, sandbox_choice

        if args.allow and ":" not in args.kind and not args.process.startswith("own:"):
            raise UserError("--allow is for a device of yours", "SubOS's own have what they need")
        settings, name = config.resolve(args, SANDBOX_SETTINGS, None), _name(args.kind)
        models = process_models([f"{name}={args.process}"], [(name, args.kind)], settings.sandbox)
        zygote.sandbox = sandbox_choice(settings, args.allow)
        return signals.run(_serve(args, _spec(args), listener, zygote, models))


def _name(kind: str) -> str:
    """What a device is called that is alone."""
    return kind.rpartition(":")[2].lower()


def _inherited(fd: int) -> socket.socket:
    """The caller's listening socket. Raises UserError."""
    import socket

    from ..errors import UserError

    hint = "open a listening Unix socket and pass its number, or use --socket-path"
    try:
        listener = socket.socket(fileno=fd)
    except OSError as error:
        raise UserError(f"--fd {fd} is no socket: {error.strerror}", hint) from error
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise UserError(f"--fd {fd} is a socket that does not listen", hint)
    return listener


def _spec(args: argparse.Namespace) -> DeviceSpec:
    from .. import config, registry, runtime
    from ..errors import UserError
    from ..launcher.settings import SHARE_SETTINGS, share_options
    from ..vhost_user.device import DeviceSpec

    options: dict[str, Option] = {}
    fds: dict[str, int] = {}
    if args.kind == "fs":
        if not args.shared_dir:
            raise UserError("serve fs needs --shared-dir", "subos-devices serve fs --socket-path S --shared-dir DIR")
        options = {"shared_dir": args.shared_dir, "readonly": args.readonly}
        options |= share_options(config.resolve(args, SHARE_SETTINGS, None))
    if args.kind == "vsock":
        if not args.uds_path:
            raise UserError(
                "serve vsock needs --uds-path", "subos-devices serve vsock --socket-path S --uds-path vsock"
            )
        options = {"uds_path": str(args.uds_path.absolute()), "guest_cid": args.guest_cid}
    for item in args.option:
        name, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"--option {item!r} has no value", "write --option NAME=VALUE")
        options[name] = value
    registry.build(DeviceSpec(args.kind, args.kind, options))  # a bad option is found before any socket is made
    if args.driver_socket:
        import socket

        fds["driver"] = runtime.listen(args.driver_socket, socket.SOCK_SEQPACKET).detach()
    if args.uds_path:
        fds["listener"] = runtime.listen(args.uds_path).detach()
    return DeviceSpec(args.kind, _name(args.kind), options, fds)


async def _serve(
    args: argparse.Namespace, spec: DeviceSpec, listener: socket.socket | None, zygote: Zygote, models: Models
) -> int:
    import asyncio
    import contextlib
    import os

    from .. import runtime
    from ..supervisor.supervisor import Supervisor

    end = asyncio.Event()
    made = [path for path in (args.driver_socket, args.uds_path) if path]
    try:
        if listener is None:
            listener = runtime.listen(args.socket_path)
            made.append(args.socket_path)
        async with Supervisor(zygote, models) as supervisor:
            if not args.persistent:
                supervisor.on_disconnect = end.set
            await supervisor.add(spec, listener)
            await end.wait()
    except asyncio.CancelledError:
        pass  # a signal: to a server that is how it ends, with status 0
    finally:
        for path in made:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
    return 0
