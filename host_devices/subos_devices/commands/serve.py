"""`subos-devices serve KIND`: one device alone on a vhost-user socket, with virtiofsd's option names.

QEMU command lines, libvirt's `<source socket='…'/>` and any other vhost-user front end use it as they use virtiofsd.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..supervisor.zygote import Zygote
    from ..vhost_user.device import DeviceSpec, Option


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "serve",
        help="serve one device on a vhost-user socket, as virtiofsd does",
        description=__doc__,
        epilog="The VM needs shared memory: -object memory-backend-memfd,id=mem,size=SIZE,share=on "
        "-machine memory-backend=mem",
    )
    parser.add_argument("kind", metavar="KIND", help="fs, mouse, rng, or package.module:Class of a device of yours")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--socket-path", type=Path, metavar="PATH", help="make and listen on this socket")
    where.add_argument("--fd", type=int, metavar="FD", help="a listening socket that the caller has opened")
    parser.add_argument("--shared-dir", metavar="DIR", help="fs: the folder to share")
    parser.add_argument("--readonly", action="store_true", help="fs: the guest may change nothing")
    parser.add_argument(
        "--cache", choices=("auto", "always", "never"), help="fs: how long the guest may trust its cache"
    )
    parser.add_argument("--driver-socket", type=Path, metavar="PATH", help="mouse: where its events come from")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="an option of a device of yours"
    )
    parser.add_argument(
        "--persistent", action="store_true", help="wait for the next front end when one has gone, rather than end"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    # Forked before asyncio comes in, so that workers stay small.
    from ..supervisor.zygote import Zygote

    spec = _spec(args)
    zygote = Zygote.start()
    import asyncio

    return asyncio.run(_serve(args, spec, zygote))


def _spec(args: argparse.Namespace) -> DeviceSpec:
    from .. import registry, runtime
    from ..errors import UserError
    from ..vhost_user.device import DeviceSpec

    options: dict[str, Option] = {}
    fds: dict[str, int] = {}
    if args.kind == "fs":
        if not args.shared_dir:
            raise UserError("serve fs needs --shared-dir", "subos-devices serve fs --socket-path S --shared-dir DIR")
        options = {"shared_dir": args.shared_dir, "readonly": args.readonly}
        if args.cache:
            options["cache"] = args.cache
    for item in args.option:
        name, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"--option {item!r} has no value", "write --option NAME=VALUE")
        options[name] = value
    registry.build(DeviceSpec(args.kind, args.kind, options))  # a bad option is found before any socket is made
    if args.driver_socket:
        import socket

        fds["driver"] = runtime.listen(args.driver_socket, socket.SOCK_SEQPACKET).detach()
    return DeviceSpec(args.kind, args.kind.rpartition(":")[2].lower(), options, fds)


async def _serve(args: argparse.Namespace, spec: DeviceSpec, zygote: Zygote) -> int:
    import asyncio
    import contextlib
    import os
    import signal
    import socket

    from .. import runtime
    from ..supervisor.supervisor import Supervisor

    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end.set)
    made = [args.driver_socket] if args.driver_socket else []
    try:
        if args.socket_path:
            listener = runtime.listen(args.socket_path)
            made.append(args.socket_path)
        else:
            listener = socket.socket(fileno=args.fd)
        async with Supervisor(zygote) as supervisor:
            if not args.persistent:
                supervisor.on_disconnect = end.set
            served = asyncio.ensure_future(supervisor.add(spec, listener))
            ended = asyncio.ensure_future(end.wait())
            await asyncio.wait((served, ended), return_when=asyncio.FIRST_COMPLETED)
            if served.done():
                served.result()
                await ended
            else:
                served.cancel()  # a device that takes long to start must not keep Ctrl-C waiting
    finally:
        for path in made:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
    return 0
