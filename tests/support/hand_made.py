"""A VM that somebody else started: QEMU by hand, with a little guest of its own that talks on its serial port."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from subos_devices.launcher.cpio import Archive
from subos_devices.launcher.initramfs import find_busybox, module_order
from subos_devices.launcher.kernel import Kernel
from subos_devices.launcher.kernel_image import fastest_image
from subos_devices.launcher.qemu import choose_accelerator, find_qemu, this_architecture

from .console import Console

MEMORY = "384M"
SHARED = ("-object", f"memory-backend-memfd,id=mem,size={MEMORY},share=on", "-machine", "memory-backend=mem")
TIMEOUT = 120.0  # seconds

INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /mnt
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module.ko"; done </modules/order
"""

UP = "the hand-made guest is up"
SHELL = f"""\
stty -echo
echo {UP}
while :; do sh; done  # its interactive shell takes the end of a job for the end of its input, at times
"""


def initramfs(kernel: Kernel, then: str) -> bytes:
    """A guest that mounts what a system wants, loads the drivers of our devices, and goes on as `then` says."""
    archive = Archive()
    archive.character_device("dev/console", 5, 1)
    archive.file("bin/busybox", find_busybox().read_bytes(), 0o755)
    archive.file("init", (INIT + then).encode(), 0o755)
    order = module_order(kernel)
    archive.file("modules/order", "".join(f"{name}\n" for name in order).encode())
    for name in order:
        assert kernel.modules is not None
        archive.file(f"modules/{name}.ko", kernel.modules.read(name))
    return archive.finish()


class HandMade(Console):
    """QEMU with a QMP socket at `qmp`, and the guest's shell."""

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        self.qmp = folder / "qmp.sock"
        process = subprocess.Popen(
            [
                find_qemu().program,
                *("-nodefaults", "-no-user-config", "-display", "none", "-name", "hand-made"),
                *("-accel", choose_accelerator(), "-m", MEMORY, "-qmp", f"unix:{self.qmp},server=on,wait=off"),
                *("-serial", "stdio", *arguments),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        super().__init__(process, "the hand-made guest", TIMEOUT)

    def __enter__(self) -> HandMade:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.process:
            if self.process.poll() is None:
                self.process.kill()


@contextmanager
def booted(folder: Path, kernel: Kernel, machine: Sequence[str], *, reboots: bool = False) -> Iterator[HandMade]:
    """A hand-made VM whose shell is ready. `machine` are the arguments that matter to hot-plug."""
    image = folder / "initramfs"
    image.write_bytes(initramfs(kernel, SHELL))
    append = f"console={this_architecture().serial} quiet panic=-1"
    boot = ("-kernel", str(fastest_image(kernel.image)), "-initrd", str(image), "-append", append)
    with HandMade(folder, [*machine, *boot, *([] if reboots else ["-no-reboot"])]) as vm:
        vm.wait_for(UP)
        yield vm
