import base64
import gzip
import lzma

import pytest

from subos_devices.launcher.compression import decompress, is_compressed

TEXT = b"subos " * 400_000

# What zstd 1.5 made of "subos\\n" and of 3,000,000 zero bytes, which take several buffers to unpack.
ZSTD_TEXT = base64.b64decode("KLUv/QRYMQAAc3Vib3MKcrFZdA==")
ZSTD_ZEROS = base64.b64decode(
    "KLUv/QRYVAAAEAAAAQD7/znAAgIAEAACABAAAgAQAAIAEAACABAAAgAQAAIAEAACABAAAgAQAAIAEAACABAAAgAQAAIAEAACABAA"
    "AgAQAAIAEAACABAAAgAQAAIAEAACABAAAgAQAAM2DgADya/W"
)


def test_zstd_is_read() -> None:
    assert decompress(ZSTD_TEXT + b"1234") == b"subos\n"
    assert decompress(ZSTD_ZEROS) == bytes(3_000_000)
    with pytest.raises(ValueError, match="ends early"):
        decompress(ZSTD_ZEROS[:-8])


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_streams_are_read_and_what_follows_is_left(pack: "type[bytes]") -> None:
    packed = pack(TEXT)
    assert is_compressed(packed)
    assert decompress(packed + b"\x12\x34\x56\x78") == TEXT


def test_plain_bytes_come_back() -> None:
    assert decompress(b"\x7fELF") == b"\x7fELF"
    assert not is_compressed(b"\x7fELF")


@pytest.mark.parametrize("head", [b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"])
def test_damage_is_told(head: bytes) -> None:
    with pytest.raises(ValueError, match="damaged"):
        decompress(head + b"\xff" * 64)
