"""The guest's kernel, for tests that boot it in other ways than `run` does."""

from __future__ import annotations

import shutil
from pathlib import Path

from subos_devices.launcher.initramfs import module_order
from subos_devices.launcher.kernel import Kernel


def small_copy(kernel: Kernel, folder: Path) -> Path:
    """A copy of the kernel in `folder`, which anybody may read, with no more modules than the guest loads.

    Returns the image: `folder`/boot/NAME, with its modules where they are looked for.
    """
    image = folder / "boot" / kernel.image.name
    image.parent.mkdir(parents=True)
    shutil.copyfile(kernel.image, image)
    tree = folder / "lib" / "modules" / kernel.version
    (tree / "kernel").mkdir(parents=True)
    if kernel.modules is not None:
        shutil.copyfile(kernel.modules.folder / "modules.builtin", tree / "modules.builtin")
        for name in module_order(kernel):
            source = kernel.modules.files[name]
            shutil.copyfile(source, tree / "kernel" / source.name)
    return image
