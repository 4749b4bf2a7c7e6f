"""What this host can do for SubOS, found by trying, and a hint for each gap.

Nothing is guessed from a version where it can be tried; trying leaves nothing behind.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from . import fast
from .errors import SubosError, UserError

SYS_LANDLOCK_CREATE_RULESET = 444  # the same number on every architecture
LANDLOCK_CREATE_RULESET_VERSION = 1  # linux/landlock.h
CLONE_NEWUSER = 0x10000000  # linux/sched.h
DEVICE_TYPES = ("vhost-user-fs-pci", "vhost-user-input-pci", "vhost-user-rng-pci")


@dataclass(frozen=True)
class Finding:
    """`needed` is False for what only makes things faster or tighter."""

    name: str
    ok: bool
    detail: str
    hint: str = ""
    needed: bool = True


def examine() -> Iterator[Finding]:
    """Every check, one after the other."""
    for check in CHECKS:
        try:
            yield check()
        except (SubosError, OSError, subprocess.SubprocessError) as error:
            hint = error.hint if isinstance(error, SubosError) else ""
            yield Finding(check.__name__.lstrip("_").replace("_", " "), False, str(error), hint)


def _python() -> Finding:
    ok = sys.version_info >= (3, 11)
    return Finding("Python", ok, f"{platform.python_version()} ({sys.executable})", "" if ok else "3.11 or newer")


def _fast_path() -> Finding:
    why, hint = fast.reason()
    if why:
        return Finding("fast path", False, f"plain Python: {why}", hint, needed=False)
    return Finding("fast path", True, "compiled", needed=False)


def _qemu() -> Finding:
    from .launcher.qemu import find_qemu

    qemu = find_qemu()
    return Finding("QEMU", True, f"{'.'.join(map(str, qemu.version))} ({qemu.program})")


def _qemu_devices() -> Finding:
    from .launcher.qemu import find_qemu

    listed = subprocess.run([find_qemu().program, "-device", "help"], capture_output=True, text=True, timeout=30).stdout
    missing = [name for name in DEVICE_TYPES if f'"{name}"' not in listed]
    detail = f"no {', '.join(missing)}" if missing else ", ".join(DEVICE_TYPES)
    return Finding("QEMU's vhost-user devices", not missing, detail, "install QEMU's full build" if missing else "")


def _kvm() -> Finding:
    from .launcher.qemu import kvm_problem

    obstacle = kvm_problem()
    if obstacle is None:
        return Finding("KVM", True, "usable", needed=False)
    hint = "guests are emulated (TCG), which is slower but works"
    if "Permission" in obstacle:
        hint = f"join the group kvm (usermod -aG kvm NAME, then log in anew); until then {hint}"
    return Finding("KVM", False, obstacle, hint, needed=False)


def _memfd() -> Finding:
    try:
        os.close(os.memfd_create("subos-doctor"))
    except OSError as error:
        return Finding("shared memory (memfd)", False, str(error.strerror), "a kernel of 3.17 or newer has it")
    return Finding("shared memory (memfd)", True, "works")


def _kernel() -> Finding:
    from .launcher.kernel import cached_kernel, running_kernel

    kernel = running_kernel() or cached_kernel()
    if kernel is None:
        return Finding(
            "guest kernel", True, "none here yet: subos-devices run downloads the distribution's generic one"
        )
    return Finding("guest kernel", True, f"{kernel.version} ({kernel.image})")


def _busybox() -> Finding:
    from .launcher.initramfs import find_busybox

    return Finding("static busybox", True, str(find_busybox()))


def _sandbox() -> Finding:
    return _sandbox_of("rng", "sandbox of devices")


def _sandbox_of_shares() -> Finding:
    return _sandbox_of("fs", "sandbox of shares")


def _sandbox_of(kind: str, name: str) -> Finding:
    from .supervisor.sandbox.report import try_out

    tried = try_out(kind)
    missing = "; ".join(f"no {layer}: {why}" for layer, why in tried["missing"].items())
    detail = ", ".join(tried["on"]) or "none"
    left_out = "; ".join(f"{layer}: {why}" for layer, why in tried["without"].items())
    detail += f" (left out: {left_out})" if left_out else ""
    if not missing:
        return Finding(name, True, detail, needed=False)
    hint = "the other layers hold; containers and some distributions refuse these to ordinary users"
    return Finding(name, False, f"{detail}; {missing}", hint, needed=False)


def _devices_without_a_process() -> Finding:
    from . import runtime
    from .supervisor import control

    name, inline = "processes of devices", []
    for machine in filter(runtime.is_running, runtime.vm_names()):
        for device in control.ask(machine, "status")["devices"]:
            if device["process"] == "inline":
                inline.append(f"{device['name']} of {machine}")
    if not inline:
        return Finding(name, True, "no VM that runs has an inline device", needed=False)
    hint = "they have no sandbox, and what they do holds up their VM: inline is for the search for faults"
    return Finding(name, False, f"inline: {', '.join(inline)}", hint, needed=False)


def _user_namespaces() -> Finding:
    pid = os.fork()
    if pid == 0:
        # A child tries, since there is no way back out of a user namespace.
        os._exit(0 if ctypes.CDLL(None).unshare(CLONE_NEWUSER) == 0 else 1)
    works = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    hint = "" if works else "set sysctl user.max_user_namespaces; containers and chroots refuse them too"
    return Finding("user namespaces", works, "work" if works else "refused", hint, needed=False)


def _landlock() -> Finding:
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(SYS_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), LANDLOCK_CREATE_RULESET_VERSION)
    if version > 0:
        return Finding("Landlock", True, f"ABI {version}", needed=False)
    return Finding(
        "Landlock", False, os.strerror(ctypes.get_errno()), "boot the kernel with lsm=landlock,…", needed=False
    )


def _fuse() -> Finding:
    works = os.access("/dev/fuse", os.R_OK | os.W_OK)
    if works:
        return Finding("/dev/fuse", True, "usable", needed=False)
    there = os.path.exists("/dev/fuse")
    hint = "nothing needs it yet" if there else "nothing needs it yet; modprobe fuse makes it"
    return Finding("/dev/fuse", False, "not for this user" if there else "absent", hint, needed=False)


def _clipboard() -> Finding:
    import asyncio

    from subos_desktop.clipboard import probe

    tried = asyncio.run(probe())
    for found in tried:
        if found.works:
            return Finding("clipboard", True, f"{found.name}: {found.detail}", needed=False)
    detail = "; ".join(f"{found.name}: {found.detail}" for found in tried)
    return Finding("clipboard", False, detail, "it takes a desktop session, X11 or Wayland", needed=False)


def _input_devices() -> Finding:
    from .input.drivers.host import PERMISSION_HINT, evdev_module, paths

    name = "input devices of this host"
    try:
        evdev_module()
    except UserError as error:
        return Finding(name, False, error.message, error.hint, needed=False)
    found = paths()
    readable = [path for path in found if os.access(path, os.R_OK)]
    hint = PERMISSION_HINT if len(readable) < len(found) else ""
    return Finding(name, not hint, f"{len(readable)} of {len(found)} may be read", hint, needed=False)


def _package_manager() -> Finding:
    found = [name for name in ("apt-get", "dnf", "pacman", "zypper") if shutil.which(name)]
    if found:
        return Finding("package manager", True, found[0], needed=False)
    return Finding("package manager", False, "none known", "pass --kernel to subos-devices run", needed=False)


CHECKS: tuple[Callable[[], Finding], ...] = (
    _python,
    _fast_path,
    _qemu,
    _qemu_devices,
    _kvm,
    _memfd,
    _busybox,
    _kernel,
    _package_manager,
    _clipboard,
    _input_devices,
    _sandbox,
    _sandbox_of_shares,
    _devices_without_a_process,
    _user_namespaces,
    _landlock,
    _fuse,
)
