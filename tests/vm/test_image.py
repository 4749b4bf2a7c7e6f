"""`run --image`: a disk with a system of its own gets the same devices."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

from subos_devices.launcher.kernel import find_kernel
from support.command import assert_nothing_is_left, subos
from support.hand_made import initramfs
from support.steps import step

pytestmark = pytest.mark.vm

SIZE = 64 << 20  # bytes
BOOT = """\
DEFAULT linux
LABEL linux
  KERNEL /vmlinuz
  INITRD /initrd
  APPEND console=ttyS0 quiet panic=-1
"""
PROOF = """\
mount -t virtiofs disk-share /mnt
{ uname -r; cat /mnt/from-host; grep -o 'SubOS Mouse' /proc/bus/input/devices; } >/mnt/proof 2>&1
umount /mnt
echo the disk says goodbye
poweroff -f
"""


def make_disk(folder: Path) -> Path:
    """A disk that is one FAT file system, with syslinux; neither root nor a mount is needed."""
    kernel = find_kernel()
    disk = folder / "disk.img"
    with disk.open("wb") as file:
        file.truncate(SIZE)
    (folder / "initrd").write_bytes(initramfs(kernel, PROOF))
    (folder / "syslinux.cfg").write_text(BOOT)
    (folder / "vmlinuz").write_bytes(kernel.image.read_bytes())
    tools = [["mformat", "-i", disk, "-F", "::"], ["syslinux", "--install", disk]]
    tools += [["mcopy", "-i", disk, folder / name, "::"] for name in ("vmlinuz", "initrd", "syslinux.cfg")]
    for command in tools:
        subprocess.run(command, check=True, capture_output=True)
    return disk


@pytest.mark.skipif(platform.machine() != "x86_64", reason="syslinux boots PCs only")
def test_a_disk_image_with_our_devices(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "from-host").write_text("the host was here\n")
    step("make a disk that boots")
    disk = make_disk(tmp_path)
    step("boot it")
    words = ("run", "--name", "disk", "--image", disk, "--share", f"{shared}:disk-share", "--memory", "512M")
    done = subos(*words, check=0)
    assert b"the disk says goodbye" in done.stdout
    assert (shared / "proof").read_text().splitlines() == [find_kernel().version, "the host was here", "SubOS Mouse"]
    assert_nothing_is_left("disk")
