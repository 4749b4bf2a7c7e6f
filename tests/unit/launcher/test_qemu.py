import itertools
import os
from dataclasses import replace
from pathlib import Path

import pytest

from subos_devices.errors import UserError
from subos_devices.launcher import qemu
from subos_devices.launcher.qemu import (
    ARCHITECTURES,
    DiskImage,
    MachineConfig,
    Port,
    VhostUserDevice,
    check_room,
    find_qemu,
    kernel_arguments,
    kvm_problem,
    parse_version,
    probe_image,
    qemu_arguments,
)

PC = ARCHITECTURES["x86_64"]


def pairs(arguments: list[str]) -> set[tuple[str, str]]:
    return set(itertools.pairwise(arguments))


def default_guest() -> MachineConfig:
    return MachineConfig(
        name="box",
        architecture=PC,
        accelerator="tcg",
        serial_fd=6,
        cpus=3,
        memory=512,
        kernel=Path("/k/vmlinuz"),
        initrd=Path("/k/initrd"),
        append="quiet",
        devices=[
            VhostUserDevice("root", "vhost-user-fs-pci", Path("/run/a,b/r"), {"tag": "subos-root"}),
            VhostUserDevice("mouse", "vhost-user-input-pci", Path("/run/m")),
        ],
        ports=[Port("stdin", 7)],
        console_fd=8,
        qmp_fd=9,
        hotplug_slots=2,
    )


def test_the_default_guest() -> None:
    arguments = qemu_arguments(default_guest())
    found = pairs(arguments)
    assert {
        ("-m", "512M"),
        ("-smp", "3"),
        ("-cpu", "max,-erms,-fsrm,-fzrm,-fsrs,-fsrc"),
        ("-object", "memory-backend-memfd,id=memory,size=512M,share=on"),
        ("-kernel", "/k/vmlinuz"),
        ("-initrd", "/k/initrd"),
        ("-append", "quiet"),
        ("-chardev", "socket,id=root-socket,path=/run/a,,b/r"),
        ("-device", "vhost-user-fs-pci,id=root,chardev=root-socket,tag=subos-root"),
        ("-device", "vhost-user-input-pci,id=mouse,chardev=mouse-socket"),
        ("-chardev", "socket,id=serial,fd=6"),
        ("-chardev", "socket,id=console,fd=8"),
        ("-device", "isa-serial,index=1,chardev=console"),
        ("-chardev", "socket,id=port-stdin,fd=7"),
        ("-device", "virtserialport,bus=ports.0,chardev=port-stdin,name=org.subos.stdin"),
        ("-chardev", "socket,id=qmp,fd=9,server=on,wait=off"),
        ("-device", "pcie-root-port,id=slot1,chassis=2,bus=pcie.0,addr=0x1e.1"),
    } <= found
    machine = next(value for name, value in found if name == "-machine")
    assert machine.startswith("q35,")
    assert machine.endswith(",memory-backend=memory")
    assert "-no-reboot" in arguments


def test_a_device_that_can_be_taken_out_has_a_root_port_of_its_own() -> None:
    device = VhostUserDevice("subos-src", "vhost-user-fs-pci", Path("/run/s"), {"tag": "src"}, removable=True)
    arguments = qemu_arguments(replace(default_guest(), devices=[device]))
    options = [value for name, value in itertools.pairwise(arguments) if name == "-device"]
    port, plugged, *slots = [value for value in options if "subos-src" in value or "root-port" in value]
    assert port == "pcie-root-port,id=subos-src-slot,chassis=1,bus=pcie.0,addr=0x1e.0,multifunction=on"
    assert plugged == "vhost-user-fs-pci,id=subos-src,chardev=subos-src-socket,tag=src,bus=subos-src-slot"
    assert [slot.split(",")[2] for slot in slots] == ["chassis=2", "chassis=3"]


def many(shares: int, inputs: int) -> list[VhostUserDevice]:
    folders = [VhostUserDevice(f"s{n}", "vhost-user-fs-pci", Path("/run/s"), removable=True) for n in range(shares)]
    return folders + [VhostUserDevice(f"i{n}", "vhost-user-input-pci", Path("/run/i")) for n in range(inputs)]


def test_eight_root_ports_are_one_slot() -> None:
    arguments = qemu_arguments(replace(default_guest(), devices=many(15, 0), hotplug_slots=8))
    ports = [value for value in arguments if value.startswith("pcie-root-port")]
    places = [dict(word.split("=") for word in value.split(",")[1:]) for value in ports]
    assert [place["addr"] for place in places] == [f"{slot:#x}.{n}" for slot in (30, 29, 28) for n in range(8)][:23]
    assert [place["addr"] for place in places if "multifunction" in place] == ["0x1e.0", "0x1d.0", "0x1c.0"]
    assert [int(place["chassis"]) for place in places] == list(range(1, 24))


def test_more_devices_than_there_is_room_for() -> None:
    """Of 30 slots the machine's own take three, and two shares with two free places another one."""
    check_room(replace(default_guest(), devices=many(2, 26)))
    check_room(replace(default_guest(), devices=many(6, 26)))
    for devices, media in ((many(2, 27), []), (many(7, 26), []), (many(2, 26), [Path("/run/agent.iso")])):
        with pytest.raises(UserError) as caught:
            check_room(replace(default_guest(), devices=devices, media=media))
        assert caught.value.message == "the VM has no room for all devices: they take 31 PCI slots, and there are 30"
        assert "shares" in caught.value.hint


def test_devices_beside_each_other_share_a_slot() -> None:
    driver = "vhost-user-input-pci"
    pads = [
        VhostUserDevice("pad1", driver, Path("/run/1")),
        VhostUserDevice("pad1-motion", driver, Path("/run/2"), beside="pad1"),
        VhostUserDevice("pad1-touchpad", driver, Path("/run/3"), beside="pad1"),
        VhostUserDevice("pad2", driver, Path("/run/4")),
        VhostUserDevice("pad3", driver, Path("/run/5")),
        VhostUserDevice("pad3-motion", driver, Path("/run/6"), beside="pad3"),
    ]
    arguments = qemu_arguments(replace(default_guest(), devices=pads))
    assert {
        ("-device", f"{driver},id=pad1,chardev=pad1-socket,addr=0x1e.0,multifunction=on"),
        ("-device", f"{driver},id=pad1-motion,chardev=pad1-motion-socket,addr=0x1e.1"),
        ("-device", f"{driver},id=pad1-touchpad,chardev=pad1-touchpad-socket,addr=0x1e.2"),
        ("-device", f"{driver},id=pad2,chardev=pad2-socket"),
        ("-device", f"{driver},id=pad3,chardev=pad3-socket,addr=0x1d.0,multifunction=on"),
        ("-device", f"{driver},id=pad3-motion,chardev=pad3-motion-socket,addr=0x1d.1"),
    } <= pairs(arguments)


def test_places_for_what_is_plugged_later_share_slots_too() -> None:
    pad = VhostUserDevice("pad1", "vhost-user-input-pci", Path("/run/1"))
    config = replace(default_guest(), devices=[pad, replace(pad, id="pad1-motion", beside="pad1")], spare_ports=9)
    found = pairs(qemu_arguments(config))
    ports = [(0x1D, function) for function in range(2, 8)] + [(0x1C, function) for function in range(3)]
    for number, (slot, function) in enumerate(ports):
        place = f"addr={slot:#x}.{function}" + ",multifunction=on" * (not function)
        assert ("-device", f"pcie-root-port,id=subos-input{number},chassis={3 + number},bus=pcie.0,{place}") in found


def test_the_order_of_devices_is_kept() -> None:
    arguments = " ".join(qemu_arguments(default_guest()))
    assert arguments.index("id=root,") < arguments.index("id=mouse,") < arguments.index("virtserialport")


def test_further_disks_can_only_be_read() -> None:
    found = pairs(qemu_arguments(replace(default_guest(), media=[Path("/run/a,b/agent.iso")])))
    assert {
        ("-blockdev", "driver=file,node-name=medium0-file,filename=/run/a,,b/agent.iso,read-only=on"),
        ("-blockdev", "driver=raw,node-name=medium0,file=medium0-file,read-only=on"),
        ("-device", "virtio-blk-pci,drive=medium0"),
    } <= found


def test_a_disk_image_is_booted_by_its_firmware() -> None:
    config = MachineConfig(
        name="box",
        architecture=PC,
        accelerator="kvm",
        image=DiskImage(Path("/d/x,y:z.qcow2"), "qcow2"),
        serial_fd=5,
        hotplug_slots=0,
    )
    arguments = qemu_arguments(config)
    found = pairs(arguments)
    assert ("-blockdev", "driver=file,node-name=disk-file,filename=/d/x,,y:z.qcow2,locking=auto") in found
    assert ("-blockdev", "driver=qcow2,node-name=disk,file=disk-file") in found
    assert ("-chardev", "socket,id=serial,fd=5") in found
    assert "-no-reboot" not in arguments  # an installer reboots, and goes on
    assert ("-cpu", "host") in found
    assert "-kernel" not in arguments
    assert not any("virtio-serial" in argument or "pcie-root-port" in argument for argument in arguments)


def test_a_machine_boots_something() -> None:
    with pytest.raises(ValueError, match="kernel or an image"):
        qemu_arguments(MachineConfig("box", PC, "tcg"))


def test_a_panic_ends_the_machine() -> None:
    for architecture in ARCHITECTURES.values():
        words = kernel_arguments(architecture, "kvm").split()
        assert "panic=-1" in words
        assert f"console={architecture.serial}" in words


def test_an_emulated_guest_begins_with_one_processor() -> None:
    assert "maxcpus=1" in kernel_arguments(PC, "tcg").split()
    assert "maxcpus" not in kernel_arguments(PC, "kvm")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2~bpo12+1)\nCopyright", (10, 0, 2)),
        ("QEMU emulator version 8.2.94 (v9.0.0-rc4)", (8, 2, 94)),
        ("QEMU emulator version 9.1", (9, 1, 0)),
        ("error while loading shared libraries", None),
    ],
)
def test_versions(text: str, version: tuple[int, int, int] | None) -> None:
    assert parse_version(text) == version


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setitem(ARCHITECTURES, "test", qemu.Architecture("test", "m", "ttyS0", "isa-serial", "ttyS1"))
    return tmp_path / "qemu-system-test"


def install(program: Path, text: str) -> None:
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)


def test_a_qemu_that_will_do_is_found(program: Path) -> None:
    install(program, "echo QEMU emulator version 8.2.0")
    assert find_qemu(ARCHITECTURES["test"]) == qemu.Qemu(program, (8, 2, 0))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo QEMU emulator version 7.2.11", "QEMU 7.2.11 is too old"),
        ("echo cannot load libfoo.so >&2; exit 127", "does not work: cannot load libfoo.so"),
    ],
)
def test_a_qemu_that_will_not_do_is_told(program: Path, text: str, said: str) -> None:
    install(program, text)
    with pytest.raises(UserError) as caught:
        find_qemu(ARCHITECTURES["test"])
    assert said in caught.value.message
    assert "8.2" in caught.value.message + caught.value.hint


def test_no_qemu_is_told(program: Path) -> None:
    with pytest.raises(UserError, match="qemu-system-test was not found"):
        find_qemu(ARCHITECTURES["test"])


def test_kvm_wants_the_device_and_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device, cpuinfo = tmp_path / "kvm", tmp_path / "cpuinfo"
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu sse vmx ept\n")
    assert kvm_problem(device, cpuinfo) == f"{device}: No such file or directory"
    device.touch()
    assert kvm_problem(device, cpuinfo) is None
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu sse\nmodel name\t: vmx\n")
    assert kvm_problem(device, cpuinfo) == "the processor offers neither vmx nor svm"


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"QFI\xfb\0\0\0\x03", "qcow2"),
        (b"KDMV\1\0\0\0", "vmdk"),
        (b"vhdxfile", "vhdx"),
        (b"<<< Oracle VM VirtualBox Disk Image >>>\n", "vdi"),
        (b"\xeb\x63\x90", "raw"),
    ],
)
def test_a_disk_images_format_is_seen(tmp_path: Path, head: bytes, kind: str) -> None:
    path = tmp_path / "disk"
    path.write_bytes(head.ljust(1024, b"\0"))
    assert probe_image(path) == DiskImage(path, kind)


def test_what_is_no_disk_image_is_told(tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(b"x")
    for path, said in ((short, "is not a disk image"), (tmp_path / "none", "No such file"), (tmp_path, "directory")):
        with pytest.raises(UserError, match=said):
            probe_image(path)


def test_a_read_only_image_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(1024))
    # Root may write to everything, so the mode will not do.
    monkeypatch.setattr("os.access", lambda _path, mode: not mode & os.W_OK)
    with pytest.raises(UserError, match="cannot be written"):
        probe_image(path)
