"""`subos-devices vsock VM PORT`: a stream to a program of the guest that listens on a vsock port.

Standard input goes there, and what comes from there to standard output; each direction ends by itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """\
examples, for a VM called work (subos-devices status lists the names):
  echo hello | subos-devices vsock work 5000      what listens on port 5000 in the guest answers
  in the guest:  socat VSOCK-LISTEN:5000,fork EXEC:cat
            or:  python3 -c 'import socket; s = socket.socket(socket.AF_VSOCK); s.bind((-1, 5000)); …'

  scp -o ProxyCommand="subos-devices vsock %h 22" notes.txt root@work:
                                                  as subos-devices ssh does it; rsync -e and git likewise

from the guest to the host: a program of the guest that connects to port P of address 2 reaches whatever listens on
the Unix socket vsock.sock_P in the VM's folder, beside vsock.sock. Ports below 1024 are for root in the guest alone.
  on the host:   socat UNIX-LISTEN:$XDG_RUNTIME_DIR/subos/work/vsock.sock_7000,fork EXEC:cat
  in the guest:  socat - VSOCK-CONNECT:2:7000

a program of yours does without this command: connect to vsock.sock, write "CONNECT 5000" and a newline, and read "OK "
with a number and a newline, as with Firecracker
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "vsock",
        help="a stream to a program of the guest",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="VM", help="as subos-devices status lists it")
    parser.add_argument("port", type=_port, metavar="PORT", help="of the guest")
    parser.add_argument(
        "--pass-fd",
        action="store_true",
        help="hand the connected socket over standard output, and end: for ssh's ProxyUseFdpass",
    )
    parser.set_defaults(run=run)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 1 << 32:
        raise ValueError
    return port


def run(args: argparse.Namespace) -> int:
    import socket

    from ..errors import UserError
    from ..vsock import client

    with client.connect(_socket_of(args.name), args.port) as stream:
        if not args.pass_fd:
            client.join(stream, 0, 1)
            return 0
        try:
            with socket.socket(fileno=1) as taker:
                socket.send_fds(taker, [b"\0"], [stream.fileno()])
                taker.detach()
        except OSError as error:
            raise UserError("standard output is no socket to pass a descriptor over", "leave out --pass-fd") from error
    return 0


def _socket_of(name: str) -> Path:
    """The VM's vsock socket. Raises UserError."""
    from .. import runtime
    from ..errors import UserError
    from ..launcher.devices import vsock_path

    path = vsock_path(runtime.running_folder(name))
    if not path.is_socket():
        raise UserError(f"the VM {name!r} has no vsock", "run has it by itself; attach wants --vsock")
    return path
