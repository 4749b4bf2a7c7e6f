"""The settings of a VM, as flags of `subos-devices run` and keys of its configuration file."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import Setting, add_flags
from ..errors import UserError
from ..fs.identity import mapping_options
from ..input.gamepad import names
from ..supervisor.process_models import Models
from ..supervisor.sandbox.policies import FILTERS, MODES, Choice, parse_grants
from ..supervisor.sandbox.report import WARNING, WARNING_HINT
from ..vhost_user.device import Option
from .qemu import ACCELERATORS
from .shares import FORM

LOCKS = ("guest", "host")
CACHES = ("auto", "always", "metadata", "never")
MINIMUM_MEMORY = 256  # MiB; with less, the kernel and its first programs do not fit

SHARE_SETTINGS = (
    Setting("cache", str, "how long the guest may trust what it knows of shared files", choices=CACHES),
    Setting("writeback", bool, "the guest may write shared files back later: for what nobody here looks at meanwhile"),
    Setting("locks", str, "where locks of shared files hold", choices=LOCKS),
    Setting(
        "map-uid",
        list,
        "users of the guest that are other users here, on the shares (or squash:GUEST:HOST:COUNT, forbid:GUEST:COUNT); "
        "may be repeated",
        "GUEST:HOST:COUNT",
    ),
    Setting("map-gid", list, "groups, likewise", "GUEST:HOST:COUNT"),
    Setting(
        "map",
        list,
        "ownership=xattr: owners, modes and device nodes on the shares are the guest's own, kept in an attribute of "
        "your files; xattr=mapped: so are ACLs, security.* and trusted.*; may be repeated",
        "WHAT=HOW",
    ),
    Setting("security-label", bool, "label what the guest makes on the shares as it says (SELinux)"),
)
"""How shares are served: flags of `run`, `attach` and `serve fs`."""

MAX_GAMEPADS = 8
NO_RUMBLE, NO_SENSORS, HOTPLUG, UHID, UINPUT = GAMEPAD_OPTIONS = (
    "no-rumble",
    "no-sensors",
    "hotplug",
    "uhid",
    "uinput",
)
"""What may follow a gamepad's profile, each after a colon."""
DEVICES = {
    "mouse": "an absolute mouse",
    "pointer": "a relative mouse, for games",
    "keyboard": "a keyboard",
    "touch": "a touch screen of ten fingers",
    "pen": "a pen, with pressure and tilt",
    "rng": "a random number generator",
    "vsock": "streams between programs of the guest and of the host",
}
"""What is asked for by a flag of its name, besides gamepads; `devices.plan` has the same names."""

DEFAULT_DEVICES = {"mouse", "keyboard", "rng", "vsock"}
GAMEPAD = Setting(
    "gamepad",
    list,
    f"a gamepad: {', '.join(names())}; it rumbles where the guest's agent runs, unless :{NO_RUMBLE} follows, which is "
    f"quicker; :{NO_SENSORS} leaves out its gyroscope, accelerometer and touch pad; with :{HOTPLUG} the guest sees it "
    f"only while something drives it; :{UINPUT} and :{UHID} say how the agent makes a dualsense or dualshock4 (unless "
    "said, as a HID device, with lights and battery, where the guest can); may be repeated, at most "
    f"{MAX_GAMEPADS} times: gamepad1, gamepad2 …",
    "PROFILE[:OPTION…]",
)

SANDBOX_SETTINGS = (
    Setting(
        "sandbox",
        str,
        "what holds each device's process: auto takes all that this host gives (see doctor, status); require wants all "
        "of it, or refuses; off is for the search for faults",
        default="auto",
        choices=MODES,
    ),
    Setting(
        "seccomp",
        str,
        "what happens to a process that makes a system call it should not: kill, or log (for developers)",
        default="kill",
        choices=FILTERS,
    ),
)
"""How workers are jailed: flags of `run`, `attach` and `serve`."""

PROCESS = Setting(
    "process",
    list,
    "which process serves a device, by its name or kind: DEVICE=own (the default: each has one), DEVICE=group:NAME "
    "(one for all of that group), DEVICE=own:COMMAND (another program), DEVICE=inline (the supervisor itself, without "
    "a sandbox); may be repeated",
    "DEVICE=MODEL",
)
"""A flag of `run`, `attach` and `args`; `serve` has one like it."""

SETTINGS = (
    Setting("name", str, "what the VM is called, here and in the guest", "NAME"),
    Setting("image", Path, "boot this disk instead of this machine's own userland", "DISK"),
    Setting("install-agent", bool, "with --image: a further disk, SUBOS, from which the guest's agent is installed"),
    Setting("cloud-init", bool, "with --image: a disk for cloud-init, which installs the agent at the first boot"),
    Setting("kernel", Path, "the guest's kernel", "FILE"),
    Setting("modules", Path, "the kernel's modules (default: those beside it)", "DIR"),
    Setting(
        "share",
        list,
        "a folder or a file for the guest, which the default one sees under the same path or at /MOUNTPOINT; "
        "may be repeated",
        FORM,
        paths=True,
    ),
    Setting("cpus", int, "virtual processors", "N", default=2, minimum=1),
    Setting("memory", str, "memory, such as 512M or 4G", "SIZE", default="2G"),
    Setting("accel", str, "how the guest's processor runs", default="auto", choices=ACCELERATORS),
    *SHARE_SETTINGS,
    *SANDBOX_SETTINGS,
    PROCESS,
    Setting(
        "clipboard",
        list,
        "what of the clipboard may pass: off, to-guest=deny, from-guest.image=ask, both=text-only, limit=16M …; later "
        "rules win; may be repeated",
        "RULE",
    ),
    *(Setting(kind, bool, what, default=kind in DEFAULT_DEVICES) for kind, what in DEVICES.items()),
    GAMEPAD,
    Setting("input", list, "rules: which input devices of this host drive the guest's", tables=True),
)


def add_device_flags(parser: argparse.ArgumentParser) -> None:
    """For a VM that has none of them by default."""
    for kind, what in DEVICES.items():
        parser.add_argument(f"--{kind}", action="store_true", help=what)
    add_flags(parser, [GAMEPAD])


def wanted_devices(settings: argparse.Namespace) -> dict[str, Any]:
    """What `devices.plan` is to plan, of `add_device_flags` or of SETTINGS."""
    return {name: getattr(settings, name, []) for name in (*DEVICES, GAMEPAD.name)}


def share_options(settings: argparse.Namespace) -> dict[str, Option]:
    """Options of all shares, from SHARE_SETTINGS. Raises UserError."""
    chosen = {name: getattr(settings, name) for name in ("cache", "writeback", "locks", "security_label")}
    given = {name: value for name, value in chosen.items() if value is not None}
    return given | mapping_options(settings.map_uid, settings.map_gid, settings.map)


def process_models(rules: Sequence[str], devices: Sequence[tuple[str, str]], sandbox: str) -> Models:
    """From PROCESS, for devices by name and kind, and --sandbox. Raises UserError."""
    models = Models(rules)
    models.check(devices, sandbox)
    return models


def memory_mib(text: str) -> int:
    """MiB in a size such as 512M, 4G or 2048 (MiB). Raises UserError."""
    match = re.fullmatch(r"(\d+)\s*([mMgG]?)(i?[bB])?", text.strip())
    if not match:
        raise UserError(f"memory is {text!r}, which is no size", "write it as 512M or 4G")
    size = int(match[1]) * (1024 if match[2] in ("g", "G") else 1)
    if size < MINIMUM_MEMORY:
        raise UserError(f"memory is {size} MiB, and must be at least {MINIMUM_MEMORY}", "the default is 2G")
    return size


def sandbox_choice(settings: argparse.Namespace, grants: list[str] | None = None) -> Choice:
    """From SANDBOX_SETTINGS, and `serve --allow`; a warning on the standard error where it is off. Raises UserError."""
    if settings.sandbox == "off":
        print(f"subos: {WARNING}\n  hint: {WARNING_HINT}", file=sys.stderr, flush=True)
    return Choice(settings.sandbox, settings.seccomp, parse_grants(grants or []))
