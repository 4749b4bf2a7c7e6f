"""`subos-agent doctor`: what works in this guest, and a hint for each gap. Trying leaves nothing behind."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from typing import Callable, Iterator, List, NamedTuple, Tuple

from . import configuration
from .channel import SERIAL_PORT, VSOCK_PORT, bound_socket
from .configuration import Configuration
from .control import find_port
from .facts import os_release

UNIT = "subos-agent.service"
OLDEST_PYTHON = (3, 9)
UINPUT = "/dev/uinput"
HID_MODULES = {"uhid": "dev/uhid", "hid-playstation": "sys/bus/hid/drivers/playstation"}
"""What is there where they are in use."""
ROOT = ""


class Finding(NamedTuple):
    """`needed` is False for what only some people want."""

    name: str
    ok: bool
    detail: str
    hint: str = ""
    needed: bool = True


class Package(NamedTuple):
    """A package that is used where it is there: how it is noticed, what for, its name by distribution."""

    name: str
    use: str
    module: str = ""
    programs: Tuple[str, ...] = ()
    arch: str = ""  # elsewhere it is called as on Debian


OPTIONAL = (
    Package("wl-clipboard", "the clipboard on Wayland", programs=("wl-copy", "wl-paste")),
    Package("xclip", "what python3-pyperclip copies by on X11", programs=("xclip",)),
    Package("python3-pyperclip", "a text clipboard, at last", "pyperclip", arch="python-pyperclip"),
    Package("python3-pyudev", "devices that come and go", "pyudev", arch="python-pyudev"),
)


def examine() -> Iterator[Finding]:
    """Every check, one after the other."""
    for check in CHECKS:
        try:
            yield check()
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            yield Finding(check.__name__.lstrip("_"), False, str(error))
    for package in OPTIONAL:
        yield _package(package)


def _python() -> Finding:
    ok = sys.version_info >= OLDEST_PYTHON
    version = "{}.{}.{}".format(*sys.version_info[:3])
    return Finding("Python", ok, f"{version} ({sys.executable})", "" if ok else "3.9 or newer")


def _vsock() -> Finding:
    """As the service does it: the host takes nobody but root, and hears nothing from us."""
    if not hasattr(socket, "AF_VSOCK"):
        return Finding("vsock", False, "this Python knows no vsock", needed=False)
    try:
        with bound_socket() as sock:
            sock.settimeout(2)
            sock.connect((socket.VMADDR_CID_HOST, VSOCK_PORT))
    except PermissionError:
        return Finding("vsock", False, "not tried", "ask again as root", needed=False)
    except OSError as error:
        return Finding("vsock", False, f"the host does not answer: {error.strerror or error}", _vsock_hint(), False)
    return Finding("vsock", True, "the host answers", needed=False)


def _vsock_hint() -> str:
    if os.path.exists("/dev/vsock"):
        return "the VM has no vsock device, or the host does not listen; virtio-serial does instead"
    return "the kernel module vmw_vsock_virtio_transport is not loaded: modprobe it, if the VM has such a device"


def _serial() -> Finding:
    try:
        port = find_port(SERIAL_PORT)
    except LookupError as error:
        return Finding("virtio-serial", False, str(error), "SubOS gives its VMs one; vsock does instead", needed=False)
    if not os.access(port, os.R_OK | os.W_OK):
        return Finding("virtio-serial", False, f"{port} is not yours to open", "ask again as root", needed=False)
    return Finding("virtio-serial", True, f"{port}", needed=False)


def _channel() -> Finding:
    """One way to the host must be there."""
    ways = [finding.name for finding in (_vsock(), _serial()) if finding.ok]
    if ways:
        return Finding("a way to the host", True, " and ".join(ways))
    return Finding("a way to the host", False, "neither vsock nor virtio-serial", "is this a VM that SubOS runs?")


def _service() -> Finding:
    if not os.path.isdir("/run/systemd/system"):
        running = _is_serving()
        detail = "it runs" if running else "it does not run"
        return Finding(
            "service", running, f"{detail} (no systemd here)", "" if running else "subos-agent serve, as root"
        )
    said = subprocess.run(
        ["systemctl", "is-active", UNIT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10, check=False
    )
    state = said.stdout.decode(errors="replace").strip() or "unknown"
    hint = "" if state == "active" else f"systemctl enable --now {UNIT}; journalctl -u {UNIT} says why it ended"
    return Finding("service", state == "active", f"{UNIT} is {state}", hint)


def _is_serving() -> bool:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            if b"serve" in words and any(b"subos_agent" in word or b"subos-agent" in word for word in words):
                return True
    return False


def _exec() -> Finding:
    on = Configuration.load().exec
    detail = "on" if on else "off, unless the service was started with --allow-exec"
    hint = "" if on else "subos-agent allow exec, as root: it lets the host's user do here what root can"
    return Finding("commands and copies for the host", on, f"{detail} ({configuration.PATH})", hint, needed=False)


def _mount() -> Finding:
    program = shutil.which("mount", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        return Finding("mount", False, "there is no program mount", "install util-linux")
    known = _has_virtiofs()
    hint = "" if known else "a kernel since 5.4 with CONFIG_VIRTIO_FS; try modprobe virtiofs"
    return Finding("mount", known, f"{program}, and the kernel {'knows' if known else 'does not know'} virtiofs", hint)


def _has_virtiofs() -> bool:
    with open("/proc/filesystems", "rb") as file:
        if b"virtiofs" in file.read():
            return True
    modules = f"/lib/modules/{os.uname().release}"
    return os.path.isdir(modules) and any(
        "virtiofs.ko" in name for _, _, names in os.walk(f"{modules}/kernel/fs/fuse") for name in names
    )


def _uinput() -> Finding:
    """Opening it has the kernel load the module, where it can."""
    if not os.path.exists(UINPUT):
        hint = "the kernel module uinput is not loaded: modprobe it, or take a kernel with CONFIG_INPUT_UINPUT"
        return Finding("gamepads that rumble", False, f"there is no {UINPUT}", hint, needed=False)
    try:
        os.close(os.open(UINPUT, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError:
        return Finding("gamepads that rumble", False, f"{UINPUT} is not yours to open", "ask again as root", False)
    except OSError as error:
        return Finding("gamepads that rumble", False, f"{UINPUT}: {error.strerror}", "modprobe uinput", needed=False)
    return Finding("gamepads that rumble", True, f"{UINPUT}", needed=False)


def _uhid() -> Finding:
    """The agent has the modules loaded when they are needed."""
    missing = [name for name in HID_MODULES if not _has_module(name)]
    if missing:
        hint = f"the kernel has no {' and no '.join(missing)}: such pads are made by uinput, without lights and battery"
        return Finding("PlayStation pads as HID devices", False, f"without {', '.join(missing)}", hint, needed=False)
    return Finding("PlayStation pads as HID devices", True, ", ".join(HID_MODULES), needed=False)


def _has_module(name: str) -> bool:
    """Whether the kernel has it: in use, to be loaded, or in the kernel itself, where it may have no entry among the
    modules. Of those that drive HID devices."""
    modules = f"{ROOT}/lib/modules/{os.uname().release}"
    signs = (HID_MODULES[name], f"sys/module/{name.replace('-', '_')}")
    return (
        any(os.path.exists(f"{ROOT}/{sign}") for sign in signs)
        or any(
            file.startswith(f"{name}.ko") for _, _, files in os.walk(f"{modules}/kernel/drivers/hid") for file in files
        )
        or f"/{name}.ko\n" in _text_of(f"{modules}/modules.builtin")
    )


def _text_of(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


CHECKS: List[Callable[[], Finding]] = [_python, _channel, _vsock, _serial, _service, _mount, _exec, _uinput, _uhid]


def _package(package: Package) -> Finding:
    there = _is_there(package)
    hint = "" if there else _install(package)
    return Finding(package.name, there, package.use, hint, needed=False)


def _is_there(package: Package) -> bool:
    if package.module:
        return importlib.util.find_spec(package.module) is not None
    return all(shutil.which(program) for program in package.programs)


def _install(package: Package) -> str:
    """How this distribution installs it."""
    release = os_release()
    kinds = {release.get("ID", ""), *release.get("ID_LIKE", "").split()}
    for names, command, name in (
        ({"debian", "ubuntu"}, "apt install", package.name),
        ({"fedora", "rhel", "centos"}, "dnf install", package.name),
        ({"arch"}, "pacman -S", package.arch or package.name),
        ({"suse", "opensuse"}, "zypper install", package.name),
    ):
        if kinds & names:
            return f"{command} {name}"
    return f"the package {package.name}, or what this distribution calls it"


def report(as_json: bool) -> int:
    """Prints all findings; 1 where something that is needed is missing."""
    findings = list(examine())
    ok = all(finding.ok for finding in findings if finding.needed)
    if as_json:
        import json

        print(json.dumps({"ok": ok, "findings": [finding._asdict() for finding in findings]}, indent=2))
        return 0 if ok else 1
    for finding in findings:
        mark = "ok " if finding.ok else "NO " if finding.needed else "-  "
        print(f"{mark} {finding.name}: {finding.detail}")
        if finding.hint:
            print(f"     hint: {finding.hint}")
    return 0 if ok else 1
