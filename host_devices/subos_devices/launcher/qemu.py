"""Finds QEMU and writes its command line."""

from __future__ import annotations

import itertools
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from subos_devices.errors import UserError

MINIMUM_VERSION = (8, 2)
"""7.2 knows `reconnect` in seconds only, has no vhost-user-snd, and its vhost-user-input fails under TCG."""

ACCELERATORS = ("auto", "kvm", "tcg")

INPUT_PORT = "subos-input"  # root ports whose ids begin so are for input devices
FUNCTIONS = 8  # of a slot
LAST_SLOT = 0x1E
"""Of a root bus: slot 0 is the bridge to it, and what is behind this one, 0x1f, is q35's own."""


@dataclass(frozen=True)
class Qemu:
    program: Path
    version: tuple[int, int, int]


@dataclass(frozen=True)
class Architecture:
    """QEMU's name and machine; `serial` is the kernel's name of the first serial port.

    `terminal_device` is a further serial port, for a person at a terminal, and `terminal` its name in the guest.
    `boots_disks`: QEMU has a firmware of its own for this machine.
    """

    qemu: str
    machine: str
    serial: str
    terminal_device: str
    terminal: str
    boots_disks: bool = True


# The PC's floppy, parallel port and the like are gone with -nodefaults; what is off here costs the
# guest's kernel time at boot.
ARCHITECTURES = {
    "x86_64": Architecture(
        "x86_64", "q35,hpet=off,vmport=off,smm=off,usb=off,sata=off,smbus=off", "ttyS0", "isa-serial,index=1", "ttyS1"
    ),
    "aarch64": Architecture("aarch64", "virt,gic-version=max", "ttyAMA0", "pci-serial", "ttyS0", boots_disks=False),
}


def this_architecture() -> Architecture:
    """Raises UserError on a machine that the default guest has not been taught."""
    name = platform.machine()
    try:
        return ARCHITECTURES[name]
    except KeyError:
        raise UserError(f"no guest for {name} is known", f"one of {', '.join(ARCHITECTURES)} is wanted") from None


def find_qemu(architecture: Architecture | None = None) -> Qemu:
    """The QEMU for this machine's own architecture. Raises UserError: none, too old."""
    name = f"qemu-system-{(architecture or this_architecture()).qemu}"
    program = shutil.which(name)
    if not program:
        raise UserError(f"{name} was not found", "./subos installs QEMU; or install it and put it on PATH")
    result = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    version = parse_version(result.stdout)
    wanted = ".".join(map(str, MINIMUM_VERSION))
    if version is None:
        reason = (result.stderr.strip().splitlines() or ["it names no version"])[0]
        raise UserError(f"{program} does not work: {reason}", f"install QEMU {wanted} or newer")
    if version < MINIMUM_VERSION:
        found = ".".join(map(str, version))
        raise UserError(
            f"QEMU {found} is too old ({program}): {wanted} or newer is needed",
            "./subos installs it (on Debian 12 from backports)",
        )
    return Qemu(Path(program), version)


def parse_version(text: str) -> tuple[int, int, int] | None:
    """The version in `qemu-system-… --version`'s output."""
    match = re.search(r"version (\d+)\.(\d+)(?:\.(\d+))?", text)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None


def kvm_problem(device: Path = Path("/dev/kvm"), cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """Why KVM cannot be used here; None if it can."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{device}: {error.strerror}"
    # Some nested machines have the device but not the processor's help, and are slower than emulation.
    if platform.machine() == "x86_64" and not re.search(r"^flags\s*:.*\b(vmx|svm)\b", cpuinfo.read_text(), re.M):
        return "the processor offers neither vmx nor svm"
    return None


def choose_accelerator(wanted: str = "auto") -> str:
    """`kvm` or `tcg`. Raises UserError when KVM is asked for and cannot be used."""
    if wanted == "tcg":
        return "tcg"
    problem = kvm_problem()
    if problem and wanted == "kvm":
        raise UserError(f"KVM cannot be used: {problem}", "leave --accel out, or use --accel tcg")
    return "tcg" if problem else "kvm"


@dataclass(frozen=True)
class VhostUserDevice:
    """A device behind a vhost-user socket on which its back end already listens.

    `driver` is QEMU's name of the device (vhost-user-fs-pci), `properties` are the rest of its options. One that is
    there when QEMU starts can be taken out later only where it is `removable`. `beside` is the id of the device in
    whose PCI slot it is a further function.
    """

    id: str
    driver: str
    socket: Path
    properties: Mapping[str, object] = field(default_factory=dict)
    removable: bool = False
    beside: str = ""

    @property
    def chardev(self) -> str:
        """The id of the chardev between them."""
        return f"{self.id}-socket"

    def arguments(self, **more: object) -> list[str]:
        """The chardev and the device, with `more` properties."""
        options = {"id": self.id, "chardev": self.chardev, **self.properties, **more}
        return [
            *("-chardev", f"socket,id={self.chardev},path={escape(self.socket)}"),
            *("-device", ",".join([self.driver, *(f"{name}={escape(value)}" for name, value in options.items())])),
        ]


@dataclass(frozen=True)
class Port:
    """A virtio-serial port: its name's last part, and the number of QEMU's end of a connected socket."""

    name: str
    fd: int


@dataclass(frozen=True)
class DiskImage:
    path: Path
    format: str


@dataclass(frozen=True)
class MachineConfig:
    """A virtual machine. `memory` is in MiB; `qmp_fd` is a listening socket's number.

    Either `kernel` (with `initrd` and `append`) or `image` is booted. `serial_fd` is a connected socket for the
    first serial port, with the kernel's messages, and `console_fd` one for the terminal's; None leaves them out.
    """

    name: str
    architecture: Architecture
    accelerator: str
    cpus: int = 2
    memory: int = 2048
    kernel: Path | None = None
    initrd: Path | None = None
    append: str = ""
    image: DiskImage | None = None
    media: Sequence[Path] = ()
    """Raw images that the guest may only read, as further disks."""
    devices: Sequence[VhostUserDevice] = ()
    ports: Sequence[Port] = ()
    console_fd: int | None = None
    serial_fd: int | None = None
    qmp_fd: int | None = None
    hotplug_slots: int = 8
    spare_ports: int = 0
    """Further places, for input devices that are plugged later."""


def kernel_arguments(architecture: Architecture, accelerator: str) -> str:
    """The default guest's kernel command line. A panic ends the machine (with -no-reboot).

    maxcpus: emulated processors but the first come up once `guest/init` has loaded its drivers. QEMU (10.0) may abort
    where two run while the memory of devices is moved (ARCHITECTURE.md, "Choices").
    """
    words = f"console={architecture.serial} quiet panic=-1 nokaslr 8250.nr_uarts=2"
    return f"{words} maxcpus=1" if accelerator == "tcg" else words


def qemu_arguments(config: MachineConfig) -> list[str]:
    """QEMU's arguments, without the program's name. A pure function."""
    emulated = config.accelerator == "tcg"
    arguments = [
        *("-no-user-config", "-nodefaults"),
        *("-name", f"{escape(config.name)},process=subos-{escape(config.name)}"),
        *("-machine", f"{config.architecture.machine},memory-backend=memory"),
        *("-accel", "tcg,thread=multi" if emulated else "kvm"),
        *("-cpu", _emulated_processor(config) if emulated else "host"),
        *("-smp", str(config.cpus)),
        *("-m", f"{config.memory}M"),
        # Our back ends map the guest's memory: without share=on they would see nothing, silently.
        *("-object", f"memory-backend-memfd,id=memory,size={config.memory}M,share=on"),
        *("-display", "none"),
    ]
    arguments += _boot(config)
    for number, path in enumerate(config.media):
        arguments += _medium(f"medium{number}", path)
    if config.qmp_fd is not None:
        arguments += ["-chardev", f"socket,id=qmp,fd={config.qmp_fd},server=on,wait=off"]
        arguments += ["-mon", "chardev=qmp,mode=control"]
    numbers, shared = itertools.count(), _shared_slots(config.devices)
    last = LAST_SLOT - len({device.beside for device in config.devices if device.beside})
    for device in config.devices:
        if device.removable:
            arguments += _root_port(f"{device.id}-slot", next(numbers), last)
            arguments += device.arguments(bus=f"{device.id}-slot")
        else:
            arguments += device.arguments(**shared.get(device.id, {}))
    arguments += _consoles(config)
    for slot in range(config.hotplug_slots):
        arguments += _root_port(f"slot{slot}", next(numbers), last)
    for spare in range(config.spare_ports):
        arguments += _root_port(f"{INPUT_PORT}{spare}", next(numbers), last)
    return arguments


def _shared_slots(devices: Sequence[VhostUserDevice]) -> dict[str, dict[str, object]]:
    """Where the devices go that share a slot, by id: a slot each group, from the last one down, as QEMU gives all
    others the first that are free."""
    groups: dict[str, list[str]] = {}
    for device in devices:
        if device.beside:
            groups.setdefault(device.beside, [device.beside]).append(device.id)
    places: dict[str, dict[str, object]] = {}
    for slot, group in zip(range(LAST_SLOT, 0, -1), groups.values(), strict=False):
        for function, name in enumerate(group):
            places[name] = {"addr": f"{slot:#x}.{function}", **({} if function else {"multifunction": "on"})}
    return places


def _emulated_processor(config: MachineConfig) -> str:
    """Everything that QEMU can emulate, but for what claims that `rep movsb` is fast: emulated, it copies byte by byte,
    and a guest that believes the claim takes two to ten times as long for each copy and each cleared page."""
    return "max,-erms,-fsrm,-fzrm,-fsrs,-fsrc" if config.architecture.qemu == "x86_64" else "max"


def _root_port(name: str, number: int, last: int) -> list[str]:
    """On PCI Express a device comes and goes only at a root port that was there from the start. Eight of them are one
    slot's functions, from `last` down; what has no place of its own takes slots from the first one up."""
    slot, function = last - number // FUNCTIONS, number % FUNCTIONS
    place = f"bus=pcie.0,addr={slot:#x}.{function}" + (",multifunction=on" if function == 0 else "")
    return ["-device", f"pcie-root-port,id={name},chassis={number + 1},{place}"]


def check_room(config: MachineConfig) -> None:
    """Raises UserError where the machine has no room for all devices: QEMU would say so in terms of its own."""
    removable = sum(device.removable for device in config.devices)
    root_ports = removable + config.hotplug_slots + config.spare_ports
    ours = sum(not device.removable and not device.beside for device in config.devices) + len(config.media)
    of_the_machine = 3  # the serial ports, and either a disk with its graphics or a terminal
    slots = ours + of_the_machine + -(-root_ports // FUNCTIONS)
    if slots > LAST_SLOT:
        raise UserError(
            f"the VM has no room for all devices: they take {slots} PCI slots, and there are {LAST_SLOT}",
            f"leave some out: {FUNCTIONS} shares take one slot together, an input device takes one of its own",
        )


def _boot(config: MachineConfig) -> list[str]:
    if config.image is not None:
        # Not -drive: in its file names a colon has a meaning.
        file = f"driver=file,node-name=disk-file,filename={escape(config.image.path)},locking=auto"
        disk = f"driver={config.image.format},node-name=disk,file=disk-file"
        device = "virtio-blk-pci,drive=disk,bootindex=1"
        return ["-blockdev", file, "-blockdev", disk, "-device", device, "-vga", "std"]
    if config.kernel is None:
        raise ValueError("a machine needs a kernel or an image")
    # Only here: an installer on a disk reboots, and goes on.
    arguments = ["-no-reboot", "-vga", "none", "-kernel", str(config.kernel), "-append", config.append]
    return [*arguments, "-initrd", str(config.initrd)] if config.initrd else arguments


def _medium(name: str, path: Path) -> list[str]:
    file = f"driver=file,node-name={name}-file,filename={escape(path)},read-only=on"
    raw = f"driver=raw,node-name={name},file={name}-file,read-only=on"
    return ["-blockdev", file, "-blockdev", raw, "-device", f"virtio-blk-pci,drive={name}"]


def _consoles(config: MachineConfig) -> list[str]:
    arguments = []
    if config.serial_fd is not None:
        # Not a file: the guest could fill the disk that it is on.
        arguments += ["-chardev", f"socket,id=serial,fd={config.serial_fd}", "-serial", "chardev:serial"]
    if config.ports:
        arguments += ["-device", "virtio-serial-pci,id=ports,max_ports=31"]
    if config.console_fd is not None:
        arguments += ["-chardev", f"socket,id=console,fd={config.console_fd}"]
        # Not virtconsole: QEMU drops what it cannot pass on at once, and Linux gives it 16 bytes at a time.
        arguments += ["-device", f"{config.architecture.terminal_device},chardev=console"]
    for port in config.ports:
        arguments += ["-chardev", f"socket,id=port-{port.name},fd={port.fd}"]
        arguments += ["-device", f"virtserialport,bus=ports.0,chardev=port-{port.name},name=org.subos.{port.name}"]
    return arguments


def escape(value: object) -> str:
    """A value inside one of QEMU's comma-separated options."""
    return str(value).replace(",", ",,")


def probe_image(path: Path) -> DiskImage:
    """The disk image `path` and its format, by its first bytes. Raises UserError."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise UserError(f"the image {path} cannot be read: {error.strerror}", "name a disk image") from error
    if not os.access(path, os.W_OK):
        raise UserError(
            f"the image {path} cannot be written by you", "the guest writes to it: make it writable, or a copy"
        )
    for magic, name in ((b"QFI\xfb", "qcow2"), (b"KDMV", "vmdk"), (b"vhdxfile", "vhdx")):
        if head.startswith(magic):
            return DiskImage(path, name)
    if b"<<< " in head[:80] and b"VirtualBox" in head[:80]:
        return DiskImage(path, "vdi")
    if len(head) < 512:
        raise UserError(f"{path} is not a disk image", "qcow2, raw, vmdk, vhdx or vdi is wanted")
    return DiskImage(path, "raw")
