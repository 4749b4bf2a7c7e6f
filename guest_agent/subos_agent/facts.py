"""`facts`: what the host shows of the guest in `subos-devices status`."""

from __future__ import annotations

import os
import shlex
import socket
import struct
import sys
from pathlib import Path
from typing import Dict, List

from subos_protocol.agent.frames import Head
from subos_protocol.agent.stream import Stream

OS_RELEASE = (Path("/etc/os-release"), Path("/usr/lib/os-release"))
MAXIMUM_ADDRESSES = 32


async def answer(stream: Stream) -> Head:
    """Handles `facts`."""
    return facts()


def facts() -> Head:
    """{"os", "id", "kernel", "arch", "hostname", "python", "addresses": [...]}: texts."""
    release, system = os_release(), os.uname()
    return {
        "os": release.get("PRETTY_NAME", system.sysname),
        "id": release.get("ID", ""),
        "kernel": system.release,
        "arch": system.machine,
        "hostname": system.nodename,
        "python": "{}.{}.{}".format(*sys.version_info[:3]),
        "addresses": addresses(),
    }


def os_release() -> Dict[str, str]:
    """The variables of os-release(5); empty where there is none."""
    for path in OS_RELEASE:
        try:
            lines = path.read_text("utf-8", "replace").splitlines()
        except OSError:
            continue
        pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
        return {name: _unquoted(value) for name, _, value in pairs}
    return {}


def _unquoted(value: str) -> str:
    """os-release(5): as a shell would read it."""
    try:
        return " ".join(shlex.split(value))
    except ValueError:
        return value.strip()


def addresses() -> List[str]:
    """IPv4 and IPv6 addresses of this machine, without loopback and link-local ones."""
    found = [*_four(), *_six()]
    return list(dict.fromkeys(found))[:MAXIMUM_ADDRESSES]


def _four() -> List[str]:
    """From the kernel's local routes: `fib_trie` lists each address of ours as a /32 host LOCAL."""
    try:
        lines = Path("/proc/net/fib_trie").read_text().splitlines()
    except OSError:
        return []
    found, above = [], ""
    for line in lines:
        if line.split() == ["/32", "host", "LOCAL"]:
            address = above.split()[-1]
            if not address.startswith(("127.", "169.254.")):
                found.append(address)
        above = line
    return found


def _six() -> List[str]:
    """`/proc/net/if_inet6`: address, index, prefix length, scope (00 global), flags, name."""
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return []
    words = (line.split() for line in lines)
    return [
        socket.inet_ntop(socket.AF_INET6, struct.pack(">4I", *(int(w[0][at : at + 8], 16) for at in range(0, 32, 8))))
        for w in words
        if len(w) == 6 and w[3] == "00"
    ]
