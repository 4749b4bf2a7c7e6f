"""`subos-devices ssh VM`: ssh into a guest over vsock. No network, no port to forward, no address to know.

It is the host's own ssh, with your keys and settings, that is only told how to get there. The guest needs an sshd that
listens on vsock port 22: systemd 256 or newer sees to that by itself where sshd is installed (Debian 13, Fedora 41,
Ubuntu 25.04 and later).
"""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """\
examples, for a VM called work (subos-devices status lists the names):
  subos-devices ssh work                          a shell there, as the user that you are here
  subos-devices ssh root@work uname -a            a command, as root
  subos-devices ssh work -- -L 8080:localhost:80  with options of ssh's own

an older systemd: put into the guest's /etc/systemd/system/ssh-vsock.socket
  [Socket]
  ListenStream=vsock::22
  Accept=yes
  [Install]
  WantedBy=sockets.target
and into ssh-vsock@.service beside it
  [Service]
  ExecStart=-/usr/sbin/sshd -i
  StandardInput=socket
then: systemctl enable --now ssh-vsock.socket

the guest's host key is taken at the first connection to a VM, and kept in the VM's folder until the VM ends. Nobody
stands between this host and its guest, so there is nothing more to check; and a name may be another guest's tomorrow.

exit status: ssh's
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "ssh",
        help="ssh into a guest, without a network",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="subos-devices ssh [-h] [--port N] [USER@]VM [ARGUMENT …]",
    )
    parser.add_argument("--port", type=int, default=22, metavar="N", help="the vsock port (default: 22)")
    parser.add_argument("destination", metavar="[USER@]VM", help="as subos-devices status lists it")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="ARGUMENT", help="for ssh; a command, say")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import os
    import shutil

    from .. import runtime
    from ..errors import UserError

    user, at, name = args.destination.rpartition("@")
    folder = runtime.running_folder(name)
    program = shutil.which("ssh")
    if program is None:
        raise UserError("ssh was not found", "install it: openssh-client (Debian, Ubuntu), openssh (others)")
    words = args.words[1:] if args.words[:1] == ["--"] else args.words
    command = ["ssh", *options(name, folder / "known_hosts", args.port), f"{user}{at}{name}", *words]
    os.execv(program, command)


def options(name: str, known_hosts: Path, port: int) -> list[str]:
    """ssh's, to reach the VM. Its own settings for a host of that name, if there are any, hold besides."""
    import shlex
    import sys

    proxy = shlex.join([sys.executable, "-m", "subos_devices.cli", "vsock", "--pass-fd", name, str(port)])
    chosen = {
        "ProxyCommand": proxy.replace("%", "%%"),
        "ProxyUseFdpass": "yes",
        "CheckHostIP": "no",
        "HostKeyAlias": name,
        "UserKnownHostsFile": f'"{known_hosts}"',
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "accept-new",
    }
    return [word for key, value in chosen.items() for word in ("-o", f"{key}={value}")]
