"""What a kernel image says of itself, and the form of it that boots fastest.

x86: Documentation/arch/x86/boot.rst ("The real-mode kernel header").
arm64: Documentation/arch/arm64/booting.rst; EFI zboot: drivers/firmware/efi/libstub/zboot-header.S.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from subos_devices.errors import UserError

from .cache import cache_folder, cached_file, key_of
from .compression import decompress, is_compressed

SETUP_SECTS = 0x1F1
HEADER_MAGIC = 0x202
PROTOCOL_VERSION = 0x206
KERNEL_VERSION = 0x20E
PAYLOAD_OFFSET = 0x248
SECTOR = 512

PT_NOTE = 4
XEN_ELFNOTE_PHYS32_ENTRY = 18
"""The 32-bit entry point of a kernel that starts by the PVH protocol (include/xen/interface/elfnote.h)."""

_BANNER = re.compile(rb"Linux version ([0-9]+\.[!-~]+) ")


def read_image(path: Path) -> bytes:
    """The bytes of a kernel image. Raises UserError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"the kernel {path} cannot be read: {error.strerror}",
            "name another with --kernel, or leave it out: a kernel is then downloaded",
        ) from error


def kernel_version(image: bytes) -> str | None:
    """The release of a kernel (`uname -r`), read from the image itself; None if it is no kernel."""
    if _is_bzimage(image):
        (offset,) = struct.unpack_from("<H", image, KERNEL_VERSION)
        text = image[offset + 0x200 :][:256].split(b"\0")[0].split(b" ")[0]
        return text.decode("ascii", "replace") if offset and text else None
    try:
        banner = _BANNER.search(_unwrapped(image))
    except ValueError:
        return None
    return banner[1].decode("ascii", "replace") if banner else None


def _is_bzimage(image: bytes) -> bool:
    return len(image) >= PAYLOAD_OFFSET + 8 and image[HEADER_MAGIC : HEADER_MAGIC + 4] == b"HdrS"


def _unwrapped(image: bytes) -> bytes:
    """The kernel inside a compressed file or an EFI zboot image."""
    if image[:2] == b"MZ" and image[4:8] == b"zimg" and len(image) >= 16:
        offset, size = struct.unpack_from("<II", image, 8)
        return decompress(image[offset : offset + size])
    return decompress(image)


def pvh_kernel(bzimage: bytes) -> bytes | None:
    """The ELF kernel inside a bzImage, if it can be entered by PVH; else None.

    QEMU starts such an ELF file directly. The guest is spared decompressing itself, which takes an
    emulated processor longer than all of init.
    """
    if not _is_bzimage(bzimage):
        return None
    (protocol,) = struct.unpack_from("<H", bzimage, PROTOCOL_VERSION)
    if protocol < 0x208:
        return None
    offset, size = struct.unpack_from("<II", bzimage, PAYLOAD_OFFSET)
    start = ((bzimage[SETUP_SECTS] or 4) + 1) * SECTOR + offset
    payload = bzimage[start : start + size]
    if not is_compressed(payload):
        return None
    try:
        elf = decompress(payload)
        return elf if _has_pvh_entry(elf) else None
    except (ValueError, UserError, struct.error):
        return None


def _has_pvh_entry(elf: bytes) -> bool:
    if elf[:6] != b"\x7fELF\x02\x01":  # 64 bits, little endian
        return False
    (headers,) = struct.unpack_from("<Q", elf, 32)
    entry_size, count = struct.unpack_from("<HH", elf, 54)
    for index in range(count):
        kind, _flags, offset, _virtual, _physical, size = struct.unpack_from(
            "<IIQQQQ", elf, headers + index * entry_size
        )
        if kind == PT_NOTE and XEN_ELFNOTE_PHYS32_ENTRY in _xen_notes(elf[offset : offset + size]):
            return True
    return False


def _xen_notes(segment: bytes) -> set[int]:
    notes, at = set(), 0
    while at + 12 <= len(segment):
        name_size, description_size, kind = struct.unpack_from("<III", segment, at)
        if segment[at + 12 : at + 12 + name_size] == b"Xen\0":
            notes.add(kind)
        at += 12 + (name_size + 3 & ~3) + (description_size + 3 & ~3)
    return notes


def fastest_image(path: Path) -> Path:
    """The file to give to QEMU for the kernel `path`: an uncompressed copy in the cache if that boots."""
    copy = cache_folder("images") / f"{key_of(path)}.elf"
    refused = copy.with_suffix(".no-pvh")
    if copy.exists():
        return copy
    if refused.exists() or (elf := pvh_kernel(read_image(path))) is None:
        cached_file(refused, bytes)
        return path
    return cached_file(copy, lambda: elf)
