"""How the launcher starts interpreters of its own: the zygote, and the supervisor."""

from __future__ import annotations

import os
import socket
import sys

KEPT, KEPT_PREFIXES = ("PATH", "LANG", "TMPDIR"), ("PYTHON", "SUBOS_", "LD_", "LC_")  # of the environment


def start(program: str, *arguments: str) -> tuple[int, socket.socket]:
    """A new process's pid, and the SOCK_SEQPACKET socket to it, which does not block. The number of its own end and our
    pid come before its `arguments`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        theirs.set_inheritable(True)
        # Without `site` (-S) and the folder that we are in (-P): where modules are is what our own path says.
        command = [sys.executable, "-P", "-S", "-c", program, str(theirs.fileno()), str(os.getpid()), *arguments]
        # Not the whole environment: it may hold secrets, and a process can read what it was started with for ever.
        variables = {
            name: value for name, value in os.environ.items() if name in KEPT or name.startswith(KEPT_PREFIXES)
        }
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        try:
            # A group of its own: what a signal does to the launcher's whole group is the launcher's to decide.
            pid = os.posix_spawn(sys.executable, command, variables, setpgroup=0)
        except OSError:
            ours.close()
            raise
    ours.setblocking(False)
    return pid, ours
