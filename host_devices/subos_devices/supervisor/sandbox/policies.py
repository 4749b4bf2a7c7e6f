"""The table: what a worker of each kind of device needs of this machine. Whatever is not in its row it does not get."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from typing import NamedTuple

from ...errors import UserError
from ...vhost_user.device import DeviceSpec, Option
from .seccomp import CHANGES, FILES, NETWORK, RUNTIME, SHARING

MODES = ("auto", "require", "off")
FILTERS = ("kill", "log")
ALL = ("user", "mount", "pid", "net", "ipc", "uts", "cgroup")
MIB = 1 << 20
SPARE_DESCRIPTORS = 1024  # of those that a process may have: that no worker may
SHARE = "/share"  # where in its root a worker finds what it shares
GRANTS = {
    "read": "a file or folder that it may read",
    "write": "a file or folder that it may change",
    "net": "the network, Unix sockets and the like: yes",
    "threads": "threads of its own: yes",
}


class Choice(NamedTuple):
    """What a person chose: --sandbox, --seccomp, and --allow for a device of somebody else's."""

    mode: str = "auto"
    seccomp: str = "kill"
    grants: tuple[tuple[str, str], ...] = ()


AUTO = Choice()


class Policy(NamedTuple):
    """One row. `without` has the layers that this device goes without, and the reason."""

    calls: tuple[str, ...] = ()
    """Groups of system calls besides RUNTIME."""
    namespaces: tuple[str, ...] = ALL
    places: tuple[tuple[str, str, bool], ...] = ()
    """What its root holds: where, what of the host, whether it may be written."""
    moved: tuple[tuple[str, str], ...] = ()
    """Options whose paths are others in that root."""
    network: bool = False
    proc: bool = False
    threads: int = 0
    nobody: bool = True
    """Root's worker becomes nobody."""
    capabilities: tuple[str, ...] = ()
    """Which root's worker keeps otherwise."""
    memory: int = 256
    """MiB of its own, guest memory not counted."""
    descriptors: int = 1024
    without: tuple[tuple[str, str], ...] = ()


def policy(spec: DeviceSpec, choice: Choice, *, root: bool) -> Policy:
    """The row for a device. `root` says whether root serves it. No file is looked at: the zygote waits for no disk."""
    if spec.kind == "fs":
        return _share(spec, root)
    row = Policy()
    if spec.kind == "vsock":
        row = Policy(descriptors=_most_descriptors())
    elif ":" in spec.kind or choice.grants:  # which a program in the place of a worker of ours may have, too
        row = _stranger(choice)
    return row._replace(namespaces=tuple(name for name in row.namespaces if name != "user")) if root else row


def joint_policy(specs: Sequence[DeviceSpec], choice: Choice) -> Policy:
    """The row of a process for all of them: what any of them needs, in the namespaces that each of them has."""
    rows = [policy(spec, choice, root=os.geteuid() == 0) for spec in specs]
    first = rows[0]
    return Policy(
        calls=tuple(dict.fromkeys(name for row in rows for name in row.calls)),
        namespaces=tuple(name for name in first.namespaces if all(name in row.namespaces for row in rows)),
        places=tuple(dict.fromkeys(place for row in rows for place in row.places)),
        moved=tuple(dict.fromkeys(move for row in rows for move in row.moved)),
        network=any(row.network for row in rows),
        proc=any(row.proc for row in rows),
        threads=sum(row.threads for row in rows),
        nobody=all(row.nobody for row in rows),
        capabilities=tuple(dict.fromkeys(name for row in rows for name in row.capabilities)),
        memory=sum(row.memory for row in rows),
        descriptors=min(sum(row.descriptors for row in rows), _most_descriptors()),
        without=tuple(dict.fromkeys(layer for row in rows for layer in row.without)),
    )


def _share(spec: DeviceSpec, root: bool) -> Policy:
    folder = spec.options.get("shared_dir")
    writable = not _says_yes(spec.options.get("readonly"))
    threads = 300 if spec.options.get("locks") == "host" else 0  # a wait for a lock is one
    common = Policy(
        calls=(*FILES, *SHARING, *(CHANGES if writable else ())),
        places=((SHARE, os.path.abspath(folder), writable),) if isinstance(folder, str) and folder else (),
        threads=threads,
        nobody=False,
        memory=4096,
        descriptors=_most_descriptors(),
    )
    if not root:
        reason = "in a user namespace every file of others would be nobody's"
        return common._replace(namespaces=(), without=(("namespaces", reason), ("root", reason)))
    capabilities = ["dac_override", "setuid", "setgid"]
    if writable:
        capabilities += ["chown", "fowner", "fsetid", "mknod", "setfcap"]
    if spec.options.get("xattr") in (None, "yes", True) and spec.options.get("ownership") != "xattr":
        capabilities.append("sys_admin")  # trusted.* and security.*
    return common._replace(
        namespaces=ALL[1:],
        moved=(("shared_dir", SHARE),),
        proc=True,
        capabilities=tuple(capabilities),
        without=(
            ("user namespace", "root's rights over files are root's of the host"),
            ("Landlock for files", "a folder that is removed and made again is another one to it"),
        ),
    )


def _stranger(choice: Choice) -> Policy:
    """The least there is, and what was granted."""
    calls: list[str] = []
    places: list[tuple[str, str, bool]] = []
    namespaces: tuple[str, ...] = ALL
    threads = 0
    for name, value in choice.grants:
        if name in ("read", "write"):
            path = os.path.abspath(value)
            places.append((path, path, name == "write"))
            calls += FILES if name == "read" else (*FILES, *CHANGES)
        elif name == "net":
            calls += NETWORK
            namespaces = tuple(each for each in ALL if each != "net")
        else:
            threads = 64
    network = "net" not in namespaces
    return Policy(tuple(calls), namespaces, tuple(places), network=network, threads=threads, nobody=not places)


def located(row: Policy) -> Policy:
    """The row with its places as they are on this disk, in the worker. A single file that is shared is its folder, and
    its name. Raises UserError for a place that cannot be granted."""
    places, moved = [], dict(row.moved)
    for place, path, writable in row.places:
        if place == SHARE and os.path.isfile(path):
            path, name = os.path.split(path)
            if moved:
                moved["only"] = name
        if place != SHARE and (path == "/" or not os.path.exists(path)):
            raise UserError(f"{path} cannot be granted", "name a file or a folder that is there, and not /")
        places.append((place, path, writable))
    return row._replace(places=tuple(places), moved=tuple(moved.items()))


def parse_grants(words: list[str]) -> tuple[tuple[str, str], ...]:
    """`--allow read=PATH`, `write=PATH`, `net`, `threads`. Raises UserError."""
    grants = []
    for word in words:
        name, _, value = word.partition("=")
        if name not in GRANTS or (name in ("read", "write")) != bool(value):
            raise UserError(f"--allow {word!r} is no grant", "read=PATH, write=PATH, net or threads")
        grants.append((name, value))
    return tuple(grants)


def system_calls(row: Policy) -> list[str]:
    """The names that the filter lets through unasked."""
    return [*RUNTIME, *row.calls]


def limits(row: Policy, *, own_namespace: bool, keeper: bool = False) -> dict[str, int]:
    """By the end of RLIMIT_*. The number of processes is counted for a user, unless it is in a namespace of its own;
    a `keeper` is one besides its worker."""
    found = {
        "CORE": 0,
        "DATA": row.memory * MIB,
        "NOFILE": row.descriptors,
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
        "RTPRIO": 0,
        "NICE": 0,
    }
    return found | ({"NPROC": 1 + row.threads + keeper} if own_namespace else {})


def _most_descriptors() -> int:
    """Fewer than launcher and supervisor may have, where there are many: a worker that has sent as many as it can,
    which nobody takes, would keep them from passing any on (the kernel counts those on their way for a user, and lets
    253 more through)."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return hard - SPARE_DESCRIPTORS if hard > 4 * SPARE_DESCRIPTORS else hard


def _says_yes(value: Option) -> bool:
    return value in (True, "yes")
