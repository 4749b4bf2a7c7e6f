"""What one run of the default guest is to do, and the files that QEMU boots for it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from shutil import copyfileobj

from .cpio import Archive
from .initramfs import base_file, find_busybox
from .kernel import Kernel
from .kernel_image import fastest_image
from .qemu import this_architecture
from .shares import Share

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

FRESH = ("/tmp", "/run")
"""Empty file systems in the guest, where the host has files of its own."""

# These name what is on the host only: displays, agents, buses, the session.
_HOST_ONLY = {
    *("DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "XDG_RUNTIME_DIR", "XDG_SEAT", "XDG_VTNR", "WINDOWID"),
    *("NOTIFY_SOCKET", "INVOCATION_ID", "JOURNAL_STREAM", "TMUX", "STY", "SHLVL", "OLDPWD", "PWD", "_"),
}
_HOST_ONLY_FAMILIES = ("DBUS_", "SSH_", "GPG_", "XDG_SESSION_", "LISTEN_")


class Mode(Enum):
    """How the command meets the outside."""

    STREAMS = "streams"  # stdin, stdout and stderr each a virtio-serial port
    TERMINAL = "terminal"  # on a serial port, with a window size
    CONTROL = "control"  # it finds its own port; its output goes to the console, with the kernel's


@dataclass(frozen=True)
class GuestRun:
    """`command` is run in `cwd` with `environment`; `window` is (rows, columns) of a terminal."""

    hostname: str
    command: Sequence[str]
    mode: Mode = Mode.STREAMS
    cwd: str = "/"
    environment: Mapping[str, str] = field(default_factory=dict)
    shares: Sequence[Share] = ()
    keep: Sequence[str] = ()
    """Folders that stay visible though they lie under a fresh file system."""
    window: tuple[int, int] = (24, 80)
    agent: Sequence[str] = ()
    """The command that serves the agent channel, with its variables before it (`NAME=value`)."""

    @property
    def ports(self) -> tuple[str, ...]:
        """The virtio-serial ports that the guest wants; TERMINAL wants the console as well."""
        return {
            Mode.STREAMS: ("clock", "agent", "stdin", "stdout", "stderr", "status"),
            Mode.TERMINAL: ("clock", "agent", "window", "status"),
            Mode.CONTROL: ("clock", "agent", "control", "status"),
        }[self.mode]


def guest_environment(host: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment, less what has no meaning inside the guest."""
    return {
        name: value
        for name, value in host.items()
        if name not in _HOST_ONLY and not name.startswith(_HOST_ONLY_FAMILIES)
    }


def description(run: GuestRun, kernel: Kernel) -> bytes:
    """The shell text that guest/boot reads."""
    quote = shlex.quote
    modules = str(kernel.modules.folder) if kernel.modules else ""
    lines = [
        f"mode={run.mode.value}",
        f"hostname={quote(run.hostname)}",
        f"version={quote(kernel.version)}",
        f"modules={quote(modules)}",
        f"terminal=/dev/{this_architecture().terminal}",
        f"rows={run.window[0]} columns={run.window[1]}",
        "agent() {",
        f"\t/usr/bin/env -i PATH={quote(SYSTEM_PATH)} {shlex.join(run.agent)}" if run.agent else "\t:",
        "}",
        "mounts() {",
        "\t:",
    ]
    kept = {folder for folder in (run.cwd, *run.keep) if _under_fresh(folder)}
    lines += [f"\tkeep {quote(folder)}" for folder in sorted(kept)]
    for share in sorted(run.shares, key=lambda share: share.mount_point):  # a share inside another comes after it
        words = [share.tag, str(share.mount_point), share.access, *([share.path.name] if share.single else [])]
        lines.append(f"\tboot_share {shlex.join(words)}")
    lines.append("}")
    return os.fsencode("\n".join(lines) + "\n")


def _under_fresh(folder: str) -> bool:
    return any(folder.startswith(f"{fresh}/") for fresh in FRESH)


def command_script(run: GuestRun) -> bytes:
    """The shell text that becomes the command."""
    quote = shlex.quote
    variables = " ".join(quote(f"{name}={value}") for name, value in run.environment.items())
    words = " ".join(quote(word) for word in run.command)
    # The host's env, not busybox's: that one prefers its own applets to the programs on PATH.
    return os.fsencode(f"cd {quote(run.cwd)} || cd /\nexec /usr/bin/env -i {variables} {words}\n")


@dataclass(frozen=True)
class BootFiles:
    """What QEMU loads."""

    kernel: Path
    initrd: Path


def write_boot_files(run: GuestRun, kernel: Kernel, folder: Path) -> BootFiles:
    """Writes this run's initial RAM file system into `folder`. Raises UserError: no busybox, no driver."""
    archive = Archive()
    archive.file("subos/description", description(run, kernel))
    archive.file("subos/command", command_script(run))
    initrd = folder / "initrd"
    with initrd.open("wb") as target:
        with base_file(kernel, find_busybox()).open("rb") as base:
            copyfileobj(base, target, 1 << 20)
        target.write(archive.finish())
    return BootFiles(fastest_image(kernel.image), initrd)
