"""Decompression by magic number: the formats in which kernels and their modules come."""

from __future__ import annotations

import ctypes
import lzma
import zlib

from subos_devices.errors import UserError

GZIP = b"\x1f\x8b"
XZ = b"\xfd7zXZ\0"
ZSTD = b"\x28\xb5\x2f\xfd"


def is_compressed(data: bytes) -> bool:
    return data.startswith((GZIP, XZ, ZSTD))


def decompress(data: bytes) -> bytes:
    """The first gzip, xz or zstd stream of `data`; what follows it is left out.

    Anything else comes back as it is. Raises ValueError for a damaged stream, UserError when this
    machine has nothing that reads zstd.
    """
    try:
        if data.startswith(GZIP):
            return zlib.decompressobj(wbits=31).decompress(data)
        if data.startswith(XZ):
            return lzma.LZMADecompressor().decompress(data)
    except (zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"damaged compressed data: {error}") from error
    return _zstd(data) if data.startswith(ZSTD) else data


class _Buffer(ctypes.Structure):
    """ZSTD_inBuffer and ZSTD_outBuffer of zstd.h."""

    _fields_ = [("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("position", ctypes.c_size_t)]


def _zstd(data: bytes) -> bytes:
    # Python reads zstd from 3.14 on only; dpkg, rpm and pacman all bring the library along.
    try:
        library = ctypes.CDLL("libzstd.so.1")
    except OSError as error:
        raise UserError("zstd data cannot be read: libzstd.so.1 is missing", "install libzstd") from error
    library.ZSTD_createDStream.restype = ctypes.c_void_p
    library.ZSTD_decompressStream.restype = ctypes.c_size_t
    chunk = ctypes.create_string_buffer(1 << 20)
    source = _Buffer(ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), len(data), 0)
    stream = ctypes.c_void_p(library.ZSTD_createDStream())
    parts = []
    try:
        while True:
            target = _Buffer(ctypes.cast(chunk, ctypes.c_void_p), len(chunk), 0)
            left = library.ZSTD_decompressStream(stream, ctypes.byref(target), ctypes.byref(source))
            if library.ZSTD_isError(ctypes.c_size_t(left)):
                raise ValueError("damaged compressed data: zstd")
            parts.append(chunk.raw[: target.position])
            if left == 0:
                return b"".join(parts)
            if source.position == source.size and target.position < target.size:
                raise ValueError("damaged compressed data: zstd stream ends early")
    finally:
        library.ZSTD_freeDStream(stream)
