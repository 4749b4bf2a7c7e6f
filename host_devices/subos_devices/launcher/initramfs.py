"""The initial RAM file system of the default guest: busybox, the modules this kernel needs, our init.

Its main part depends on the kernel only and is cached. What a single run wants is a second, tiny
archive behind it: there are no limits of length and no quoting rules, as on a kernel command line.
"""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path

from subos_devices.errors import UserError

from .cache import cache_folder, cached_file, key_of
from .cpio import Archive
from .kernel import BOOT_DRIVERS, DEVICE_DRIVERS, Kernel
from .modules import MissingModule

APPLETS = (
    *("cat", "cp", "hostname", "insmod", "ip", "ln", "mkdir", "mkfifo", "mount", "poweroff", "printf"),
    *("readlink", "rm", "rmdir", "setsid", "sh", "sleep", "stty", "switch_root", "sync", "umount"),
)


def find_busybox() -> Path:
    """A busybox that needs no shared libraries. Raises UserError."""
    for name in ("busybox", "busybox.static", "busybox-static"):
        found = shutil.which(name)
        if found and is_static(Path(found).read_bytes()):
            return Path(found)
    raise UserError(
        "no static busybox was found", "install it: busybox-static (Debian, Ubuntu, Alpine), busybox (Fedora)"
    )


def is_static(elf: bytes) -> bool:
    """Whether a 64-bit little-endian ELF program has no PT_INTERP (man 5 elf)."""
    if elf[:6] != b"\x7fELF\x02\x01":
        return False
    headers = int.from_bytes(elf[32:40], "little")
    size, count = int.from_bytes(elf[54:56], "little"), int.from_bytes(elf[56:58], "little")
    kinds = (elf[headers + i * size :][:4] for i in range(count))
    return all(int.from_bytes(kind, "little") != 3 for kind in kinds)


def guest_script(name: str) -> bytes:
    return files("subos_devices.launcher").joinpath("guest", name).read_bytes()


def base_archive(kernel: Kernel, busybox: Path) -> bytes:
    """The part that is the same for every run of `kernel`. Raises UserError for a driver that is not there."""
    archive = Archive()
    for folder in ("dev", "proc", "sys", "lower", "layer", "root", "bin", "modules", "subos"):
        archive.folder(folder)
    archive.character_device("dev/console", 5, 1)
    archive.file("bin/busybox", busybox.read_bytes(), 0o755)
    for applet in APPLETS:
        archive.link(f"bin/{applet}", "busybox")
    archive.file("init", guest_script("init"), 0o755)
    archive.file("subos/boot", guest_script("boot"))
    order = module_order(kernel)
    archive.file("modules/order", "".join(f"{name}\n" for name in order).encode())
    for name in order:
        assert kernel.modules is not None
        archive.file(f"modules/{name}.ko", kernel.modules.read(name))
    return archive.finish()


def module_order(kernel: Kernel) -> list[str]:
    """The modules to load: what the guest cannot boot without, then the drivers of our devices."""
    if kernel.modules is None:
        return []
    absent = kernel.modules.missing(BOOT_DRIVERS + DEVICE_DRIVERS)
    try:
        return kernel.modules.load_order(name for name in BOOT_DRIVERS + DEVICE_DRIVERS if name not in absent)
    except MissingModule as error:
        raise UserError(
            f"the modules in {kernel.modules.folder} are incomplete: no {error.args[0]}",
            "name the whole tree with --modules",
        ) from error


def base_file(kernel: Kernel, busybox: Path) -> Path:
    """The cached `base_archive`."""
    drivers = BOOT_DRIVERS + DEVICE_DRIVERS
    parts = [kernel.version, busybox, APPLETS, drivers, guest_script("init"), guest_script("boot")]
    if kernel.modules is not None:
        tree = kernel.modules.folder
        parts += [tree, *(path for path in [tree / "modules.builtin"] if path.exists())]
    path = cache_folder("initramfs") / f"{key_of(*parts)}.cpio"
    return cached_file(path, lambda: base_archive(kernel, busybox))
