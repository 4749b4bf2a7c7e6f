"""Guest memory: the regions of one SET_MEM_TABLE, mapped, with bounds-checked translation.

Regions that continue one another in guest-physical space and in their file become one span; the largest span is
the *primary* one, in which nearly every buffer lies. Hot paths read `primary`, `base` and `size` and
do their own arithmetic on it; everything else asks `view`.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from typing import NamedTuple

from subos_protocol.vhost_user import vhost_user_mem_region

from .errors import BadChain, BadMemory


class Span(NamedTuple):
    """`size` bytes from guest-physical `base`, as one flat view ('B')."""

    base: int
    size: int
    view: memoryview


class GuestMemory:
    """Maps `regions`, each from its own descriptor of `fds`; the descriptors stay the caller's.

    Raises BadMemory for overlapping or empty regions, and for files shorter than they claim (touching those would
    be a SIGBUS).
    """

    def __init__(self, regions: Sequence[vhost_user_mem_region], fds: Sequence[int]) -> None:
        if not regions or len(regions) != len(fds):
            raise BadMemory(f"{len(regions)} memory regions with {len(fds)} descriptors")
        self.regions = tuple(regions)
        self.spans = _spans(regions, fds)
        primary = max(self.spans, key=lambda span: span.size)
        self.base, self.size, self.primary = primary

    def view(self, address: int, length: int) -> memoryview:
        """`length` bytes at guest-physical `address`, writable. Raises BadChain outside guest memory."""
        offset = address - self.base
        if 0 <= offset <= self.size - length:
            return self.primary[offset : offset + length]
        for span in self.spans:
            offset = address - span.base
            if 0 <= offset <= span.size - length:
                return span.view[offset : offset + length]
        raise BadChain(f"{length} bytes at guest address {address:#x} lie outside guest memory")

    def guest_address(self, user_address: int, length: int) -> int:
        """The guest-physical address of `length` bytes at the front end's `user_address`. Raises BadMemory."""
        for region in self.regions:
            offset = user_address - region.user_addr
            if 0 <= offset <= region.size - length:
                return region.guest_addr + offset
        raise BadMemory(f"{length} bytes at front-end address {user_address:#x} lie in no memory region")


def _spans(regions: Sequence[vhost_user_mem_region], fds: Sequence[int]) -> list[Span]:
    """Maps each file once, whole (hugetlbfs wants its own alignment), and joins what continues."""
    files: dict[tuple[int, int], tuple[int, int, int]] = {}  # identity → fd, bytes claimed, bytes there
    located: list[tuple[vhost_user_mem_region, tuple[int, int]]] = []
    for region, fd in zip(regions, fds, strict=True):
        end = region.mmap_offset + region.size
        if not region.size or max(end, region.guest_addr + region.size, region.user_addr + region.size) > 1 << 64:
            raise BadMemory(f"a memory region of {region.size} bytes at {region.guest_addr:#x}")
        try:
            status = os.fstat(fd)
        except OSError as error:
            raise BadMemory(f"the memory region at {region.guest_addr:#x}: {error.strerror}") from error
        key = (status.st_dev, status.st_ino)
        files[key] = (fd, max(end, files.get(key, (fd, 0, 0))[1]), status.st_size)
        located.append((region, key))
    views: dict[tuple[int, int], memoryview] = {}
    for key, (fd, claimed, there) in files.items():
        if claimed > there:
            raise BadMemory(f"memory regions claim {claimed} bytes of a file of {there}")
        try:
            views[key] = memoryview(mmap.mmap(fd, claimed))
        except (OSError, ValueError, OverflowError) as error:
            raise BadMemory(f"guest memory of {claimed} bytes cannot be mapped: {error}") from error
    located.sort(key=lambda pair: pair[0].guest_addr)
    runs: list[tuple[int, int, int, tuple[int, int]]] = []  # guest address, size, file offset, file
    for region, key in located:
        if runs:
            base, size, offset, file = runs[-1]
            if region.guest_addr < base + size:
                raise BadMemory(f"memory regions overlap at {region.guest_addr:#x}")
            if (region.guest_addr, region.mmap_offset, key) == (base + size, offset + size, file):
                runs[-1] = (base, size + region.size, offset, file)
                continue
        runs.append((region.guest_addr, region.size, region.mmap_offset, key))
    return [Span(base, size, views[file][offset : offset + size]) for base, size, offset, file in runs]
