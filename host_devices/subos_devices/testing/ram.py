"""A simulated guest's memory: memfds at guest-physical addresses, as QEMU shares them."""

from __future__ import annotations

import mmap
import os
from collections import defaultdict
from collections.abc import Iterable

from subos_protocol.vhost_user import vhost_user_mem_region

USER_OFFSET = 0x7F00_0000_0000  # front-end address minus guest-physical address, so that nobody mixes them up
MIB = 1 << 20


class GuestRam:
    """Memory in `layout`, pairs of guest-physical address and size, both in bytes; gaps are allowed.

    With `one_file` all regions lie in one memfd, one after the other, as QEMU splits a machine's memory around its
    PCI hole; otherwise each has a memfd of its own. It must outlive the queues that are laid out in it.
    """

    def __init__(self, layout: Iterable[tuple[int, int]] = ((0, 16 * MIB),), *, one_file: bool = False) -> None:
        self.regions: list[vhost_user_mem_region] = []
        """As SET_MEM_TABLE describes them; `fds` holds the descriptor of each."""
        self.fds: list[int] = []
        self._views: list[memoryview] = []
        self._next: list[int] = []
        self._pool: dict[tuple[int, int, int], list[int]] = defaultdict(list)
        offset = 0
        for address, size in layout:
            if one_file and self.fds:
                fd = os.dup(self.fds[0])
            else:
                fd, offset = os.memfd_create("guest-ram", os.MFD_CLOEXEC), 0
            os.ftruncate(fd, offset + size)
            self.fds.append(fd)
            self.regions.append(vhost_user_mem_region(address, size, USER_OFFSET + address, offset))
            offset += size
        for region, fd in zip(self.regions, self.fds, strict=True):
            whole = memoryview(mmap.mmap(fd, region.mmap_offset + region.size))
            self._views.append(whole[region.mmap_offset :])
            # Nothing is put at guest address 0, where a forgotten address would look right.
            self._next.append(region.guest_addr or mmap.PAGESIZE)

    def view(self, address: int, length: int) -> memoryview:
        """`length` bytes at guest-physical `address`, writable. Raises IndexError outside the regions."""
        for region, view in zip(self.regions, self._views, strict=True):
            offset = address - region.guest_addr
            if 0 <= offset <= region.size - length:
                return view[offset : offset + length]
        raise IndexError(f"{length} bytes at {address:#x} lie in no region")

    def read(self, address: int, length: int) -> bytes:
        return bytes(self.view(address, length))

    def write(self, address: int, data: bytes) -> None:
        self.view(address, len(data))[:] = data

    def alloc(self, size: int, *, align: int = 16, region: int = 0) -> int:
        """Guest-physical address of `size` zeroed bytes in region number `region`. Raises MemoryError."""
        pool = self._pool[size, align, region]
        if pool:
            address = pool.pop()
        else:
            address = -(-self._next[region] // align) * align
            described = self.regions[region]
            if address + size > described.guest_addr + described.size:
                raise MemoryError(f"region {region} of the simulated guest is full")
            self._next[region] = address + size
        self.write(address, bytes(size))
        return address

    def free(self, address: int, size: int, *, align: int = 16, region: int = 0) -> None:
        """Gives back what `alloc` gave, called with the same arguments."""
        self._pool[size, align, region].append(address)

    def close(self) -> None:
        self._views.clear()
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()

    def __enter__(self) -> GuestRam:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
