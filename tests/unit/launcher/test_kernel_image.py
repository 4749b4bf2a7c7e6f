import gzip
import lzma
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_devices.errors import UserError
from subos_devices.launcher.kernel_image import fastest_image, kernel_version, pvh_kernel, read_image


def elf_kernel(note: int) -> bytes:
    """An ELF file that is one Xen note: name size, description size, type, "Xen", an entry point."""
    notes = struct.pack("<III4sI", 4, 4, 7, b"Xen\0", 0) + struct.pack("<III4sI", 4, 4, note, b"Xen\0", 0x1000)
    header = b"\x7fELF\x02\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    return header + struct.pack("<IIQQQQQQ", 4, 4, 120, 0, 0, len(notes), len(notes), 4) + notes


def bzimage(version: bytes, payload: bytes = b"", protocol: int = 0x20F) -> bytes:
    """A boot sector, three more setup sectors, and a payload 16 bytes into what follows."""
    image = bytearray(4 * 512)
    image[0x1F1] = 3
    image[0x202:0x206] = b"HdrS"
    image[0x206:0x208] = protocol.to_bytes(2, "little")
    image[0x20E:0x210] = (0x300).to_bytes(2, "little")
    image[0x248:0x250] = struct.pack("<II", 16, len(payload))
    text = version + b"\0"
    image[0x500 : 0x500 + len(text)] = text
    return bytes(image) + bytes(16) + payload


def test_a_bzimage_names_its_version_in_its_header() -> None:
    assert kernel_version(bzimage(b"6.12.9+deb12-amd64 (someone@debian.org) #1 SMP")) == "6.12.9+deb12-amd64"


BANNER = b"\x00noise Linux version %s (%s) \x00 Linux version 6.1.0-13-arm64 (maker@host) (gcc) #1\n"


@pytest.mark.parametrize("wrap", [bytes, gzip.compress, lzma.compress])
def test_other_images_are_searched_for_the_banner(wrap: "type[bytes]") -> None:
    assert kernel_version(wrap(BANNER)) == "6.1.0-13-arm64"


def test_an_efi_zboot_image_is_searched_inside() -> None:
    inside = gzip.compress(BANNER)
    image = b"MZ\0\0zimg" + struct.pack("<II", 64, len(inside)) + b"\0" * 8 + b"gzip".ljust(40, b"\0") + inside
    assert kernel_version(image) == "6.1.0-13-arm64"


@pytest.mark.parametrize("image", [b"", b"\x7fELF", b"Linux version %s (%s)", b"\x1f\x8bdamaged", bzimage(b"")])
def test_what_is_no_kernel_has_no_version(image: bytes) -> None:
    assert kernel_version(image) is None


@given(st.binary(max_size=2000), st.sampled_from([b"", b"\x1f\x8b", b"MZ\0\0zimg", bytes(0x202) + b"HdrS"]))
def test_noise_is_no_kernel_that_boots(noise: bytes, head: bytes) -> None:
    kernel_version(head + noise)
    assert pvh_kernel(head + noise) is None


def test_the_elf_kernel_inside_a_bzimage_is_found() -> None:
    elf = elf_kernel(18)
    # The last four bytes of a payload are its size when unpacked.
    assert pvh_kernel(bzimage(b"6.1", lzma.compress(elf) + struct.pack("<I", len(elf)))) == elf


@pytest.mark.parametrize(
    "image",
    [
        bzimage(b"6.1", gzip.compress(elf_kernel(6))),  # no PVH entry
        bzimage(b"6.1", gzip.compress(elf_kernel(18)), protocol=0x207),  # no payload fields yet
        bzimage(b"6.1", gzip.compress(elf_kernel(18))[:40]),  # damaged
        bzimage(b"6.1", b"\x1f\x8bnonsense"),
        bzimage(b"6.1", b"\x02\x21\x4c\x18lz4"),  # a format that we do not read
        BANNER,
    ],
)
def test_other_kernels_boot_as_they_are(image: bytes) -> None:
    assert pvh_kernel(image) is None


def test_the_fastest_image_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    packed, plain = tmp_path / "packed", tmp_path / "plain"
    packed.write_bytes(bzimage(b"6.1", gzip.compress(elf_kernel(18))))
    plain.write_bytes(bzimage(b"6.1"))
    copy = fastest_image(packed)
    assert copy.read_bytes() == elf_kernel(18)
    inode = copy.stat().st_ino
    assert fastest_image(packed) == copy
    assert copy.stat().st_ino == inode
    assert fastest_image(plain) == plain
    assert fastest_image(plain) == plain


def test_a_kernel_that_is_not_there_is_the_persons_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file") as caught:
        read_image(tmp_path / "none")
    assert "--kernel" in caught.value.hint
