"""Disks with a real Debian: its own kernel, systemd and Python, and a login on the first serial port.

mmdebstrap makes the system, without a privilege where the machine lets it; it is kept in the cache, under a name that
changes with what it is made of. The disk has two partitions: a FAT with the kernel, which syslinux boots, and the root.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

from subos_devices.launcher.cache import cache_folder, key_of, temporary_folder

MIB = 1 << 20
SECTOR = 512
FIRST = 2048
"""The sector where the first partition begins."""
BOOT_SIZE, ROOT_SIZE = 64 * MIB, 1200 * MIB
PACKAGES = "systemd-sysv,udev,login,mount,kmod,python3,initramfs-tools,linux-image-cloud-amd64"
LEFT_OUT = ("doc", "man", "locale", "info")
MBR_PLACES = ("/usr/lib/syslinux/mbr/mbr.bin", "/usr/share/syslinux/mbr.bin", "/usr/lib/syslinux/bios/mbr.bin")
BOOT = """\
DEFAULT linux
LABEL linux
  KERNEL /vmlinuz
  INITRD /initrd.img
  APPEND root=/dev/vda2 rw console=ttyS0 quiet panic=-1 net.ifnames=0
"""
# Only what the disk needs: under emulation a larger one costs seconds to unpack.
BEFORE_KERNEL = """\
mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"
printf 'MODULES=list\\nCOMPRESS=gzip\\n' >"$1/etc/initramfs-tools/conf.d/small"
printf 'virtio_pci\\nvirtio_blk\\n' >"$1/usr/share/initramfs-tools/modules.d/disk"
"""
# A bind mount shows the system without what mmdebstrap has mounted in it meanwhile.
AT_THE_END = """\
set -e
chroot "$1" passwd -d root
: >"$1/etc/machine-id"
echo debian >"$1/etc/hostname"
rm -f "$1/usr/sbin/policy-rc.d"
echo force-unsafe-io >"$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
rm -rf "$1"/var/lib/apt/lists/*_* "$1"/var/cache/apt/*.bin "$1"/var/cache/apt/archives/*.deb
cp "$1"/boot/vmlinuz-* OUT/vmlinuz
cp "$1"/boot/initrd.img-* OUT/initrd.img
mount --bind "$1" OUT/root
mke2fs -q -t ext4 -d OUT/root OUT/root.ext4 SIZEM
umount OUT/root
"""


def disk(suite: str, place: Path, *more: str) -> Path:
    """A copy of the disk of the release `suite` (bookworm, say) with `more` packages, for one test to write to."""
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", cached(suite, *more), place], check=True)
    return place


def cached(suite: str, *more: str) -> Path:
    """The disk in the cache; made at first, which takes a minute or two and the network."""
    packages = ",".join([PACKAGES, *more])
    text = (packages, LEFT_OUT, BOOT, BEFORE_KERNEL, AT_THE_END, BOOT_SIZE, ROOT_SIZE)
    path = cache_folder("debian") / f"{suite}-{key_of(*text)}.img"
    if not path.exists():
        with temporary_folder(path) as folder:
            _make_system(suite, packages, folder)
            _put_together(folder, folder / path.name)
            (folder / path.name).rename(path)
    return path


def _make_system(suite: str, packages: str, folder: Path) -> None:
    """Makes `vmlinuz`, `initrd.img` and `root.ext4` in `folder`."""
    (folder / "root").mkdir()
    (folder / "root.ext4").touch()
    folder.chmod(0o777)  # who is root in a user namespace is another user here
    end = AT_THE_END.replace("OUT", str(folder)).replace("SIZE", str(ROOT_SIZE // MIB))
    command = ["nice", "mmdebstrap", "--quiet", "--variant=minbase", "--format=null", f"--include={packages}"]
    command += ["--dpkgopt=force-unsafe-io"]
    command += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT]
    command += [f"--essential-hook={BEFORE_KERNEL}", f"--customize-hook={end}", suite, "-"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, f"mmdebstrap could not make {suite}:\n{done.stderr[-4000:]}"


def _put_together(folder: Path, place: Path) -> None:
    """The disk from its parts: a partition table, the FAT and the root."""
    root = FIRST + BOOT_SIZE // SECTOR
    with place.open("wb") as file:
        file.write(_boot_record([(0x0C, FIRST, BOOT_SIZE // SECTOR), (0x83, root, ROOT_SIZE // SECTOR)]))
        file.truncate(root * SECTOR + ROOT_SIZE)
    (folder / "syslinux.cfg").write_text(BOOT)
    offset = FIRST * SECTOR
    fat = f"{place}@@{offset}"
    tools = [["mformat", "-i", fat, "-F", "-T", str(BOOT_SIZE // SECTOR), "-H", str(FIRST), "::"]]
    tools += [["mcopy", "-i", fat, folder / name, "::"] for name in ("vmlinuz", "initrd.img", "syslinux.cfg")]
    tools += [["syslinux", "--install", "--offset", str(offset), place]]
    tools += [["dd", f"if={folder / 'root.ext4'}", f"of={place}", "bs=1M", "conv=sparse,notrunc"]]
    tools[-1] += [f"seek={root * SECTOR // MIB}"]
    for command in tools:
        subprocess.run(command, check=True, capture_output=True)


def _boot_record(partitions: list[tuple[int, int, int]]) -> bytes:
    """A master boot record with (kind, first sector, sectors) of each partition; the first is the active one."""
    program = next(path for path in map(Path, MBR_PLACES) if path.exists()).read_bytes()
    table = b"".join(
        struct.pack("<B3xB3xII", 0x80 if number == 0 else 0, *partition) for number, partition in enumerate(partitions)
    )
    return program[:440].ljust(446, b"\0") + table.ljust(64, b"\0") + b"\x55\xaa"


def missing() -> list[str]:
    """The tools that making a disk wants and this machine lacks."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [name for name in ("mmdebstrap", "mke2fs", "syslinux", "mformat") if not shutil.which(name, path=path)]
