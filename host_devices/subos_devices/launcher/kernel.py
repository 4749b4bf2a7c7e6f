"""Finds the guest's kernel and its modules."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from subos_devices.errors import UserError

from .kernel_image import kernel_version, read_image
from .modules import ModuleTree
from .packages import Progress, download_kernel, downloaded_kernel, quiet

BOOT_DRIVERS = ("virtio_pci", "virtiofs", "overlay", "virtio_console")
"""Without these the default guest does not start, in the order in which they are loaded."""

DEVICE_DRIVERS = ("virtio_input", "evdev", "joydev", "uinput", "virtio_rng", "vmw_vsock_virtio_transport")
"""What drives our devices. A kernel without them boots, and does not see those devices."""


@dataclass(frozen=True)
class Kernel:
    """`modules` is None for a kernel that has all built in."""

    image: Path
    version: str
    modules: ModuleTree | None

    def missing(self, drivers: tuple[str, ...] = BOOT_DRIVERS + DEVICE_DRIVERS) -> list[str]:
        """Those of `drivers` that this kernel is known not to have."""
        if self.modules is None or not self.modules.built_in:
            return []  # Without a modules.builtin nothing is known to be missing.
        return self.modules.missing(drivers)


def find_kernel(
    image: Path | None = None, modules: Path | None = None, progress: Progress = quiet, root: Path = Path("/")
) -> Kernel:
    """The kernel `image` (--kernel); else the running one, if it may be read and has our drivers; else
    the distribution's generic kernel, downloaded once into the cache.

    Raises UserError. `root` is where /boot and /lib/modules are looked for.
    """
    if image is not None:
        return _checked(open_kernel(image, modules, root))
    if modules is not None:
        raise UserError("--modules is of no use without --kernel", "name the kernel that the modules are for")
    return running_kernel(root) or cached_kernel() or _in_folder(download_kernel(progress))


def cached_kernel() -> Kernel | None:
    """The kernel that was downloaded before, if there is one."""
    folder = downloaded_kernel()
    return _in_folder(folder) if folder else None


def running_kernel(root: Path = Path("/"), version: str | None = None) -> Kernel | None:
    """The kernel that runs now, if its image can be read and it can drive all our devices."""
    version = version or os.uname().release
    for image in (root / f"boot/vmlinuz-{version}", root / f"usr/lib/modules/{version}/vmlinuz"):
        try:
            kernel = open_kernel(image, None, root)
        except UserError:
            continue
        # Cloud kernels have no input drivers. A kernel without a tree is not one that we know.
        if kernel.version == version and kernel.modules is not None and not kernel.missing():
            return kernel
    return None


def open_kernel(image: Path, modules: Path | None, root: Path = Path("/")) -> Kernel:
    """The kernel in the file `image`. Raises UserError if it is none, or `modules` is no module tree."""
    version = kernel_version(read_image(image))
    if version is None:
        raise UserError(
            f"{image} is not a Linux kernel that QEMU can start",
            "a bzImage (x86) or an Image (arm64) is wanted, such as /boot/vmlinuz-VERSION",
        )
    if modules is not None:
        return Kernel(image, version, ModuleTree(_given_modules(modules, version)))
    above = image.resolve().parent.parent
    for folder in (above / "lib/modules", above / "usr/lib/modules", root / "lib/modules"):
        if (folder / version).is_dir():
            return Kernel(image, version, ModuleTree((folder / version).resolve()))
    return Kernel(image, version, None)


def _given_modules(modules: Path, version: str) -> Path:
    # Both a tree itself and what it stands in are natural to name.
    for folder in (modules / "lib/modules" / version, modules / version, modules):
        if (folder / "kernel").is_dir() or (folder / "modules.builtin").exists():
            return folder.resolve()
    raise UserError(
        f"{modules} holds no modules for the kernel {version}",
        f"name the folder that ends in lib/modules/{version}",
    )


def _in_folder(folder: Path) -> Kernel:
    images = sorted(folder.glob("boot/vmlinuz-*")) + sorted(folder.glob("lib/modules/*/vmlinuz"))
    if not images:
        raise UserError(f"{folder} holds no kernel image", "remove that folder, and it is downloaded again")
    return _checked(open_kernel(images[-1], None))


def _checked(kernel: Kernel) -> Kernel:
    if missing := kernel.missing(BOOT_DRIVERS):
        raise UserError(
            f"the kernel {kernel.version} has no {', '.join(missing)}",
            "name another with --kernel (or its modules with --modules), or leave it out: one is downloaded",
        )
    return kernel
