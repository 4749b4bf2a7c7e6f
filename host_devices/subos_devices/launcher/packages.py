"""The distribution's generic kernel, fetched as an ordinary user.

The package manager downloads and verifies (signed lists, then the hash of each file); nothing is
installed, and nothing of the system's own is written: the files are unpacked into our cache.
Only apt for now.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from subos_devices.errors import UserError

from .cache import cache_folder, temporary_folder

Progress = Callable[[str, float | None], None]
"""Called with what is being done and how much of it is (0..1, or None if unknown)."""

# A kernel's own packages: Debian keeps all in the image, Ubuntu has the modules apart.
_KERNEL_PACKAGE = re.compile(r"linux-(image|modules|modules-extra)-[0-9][^ ]*")


def quiet(_what: str, _part: float | None) -> None:
    """A Progress that shows nothing."""


def downloaded_kernel() -> Path | None:
    """The folder of the kernel that was downloaded last, which holds `boot` and `lib`; or None."""
    current = cache_folder("kernels") / "current"
    return current.resolve() if current.is_dir() else None


def download_kernel(progress: Progress = quiet) -> Path:
    """Downloads and unpacks the newest generic kernel; returns its folder in the cache.

    Raises UserError when there is no apt, no network, no such package.
    """
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise UserError(
            "no kernel was found, and only on apt systems can one be downloaded",
            "install your distribution's generic kernel package and name its image: --kernel /boot/vmlinuz-…",
        )
    kernels = cache_folder("kernels")
    apt = Apt(cache_folder("apt"), progress)
    try:
        folder = _fetch_kernel(apt, kernels)
    except UserError:
        # The system's package lists are missing, or so old that the mirror no longer has what they name.
        apt.update()
        folder = _fetch_kernel(apt, kernels)
    link = kernels / "current.new"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name)
    link.rename(kernels / "current")
    return folder


def _fetch_kernel(apt: Apt, kernels: Path) -> Path:
    packages = apt.kernel_packages()
    folder = kernels / packages[0].replace("=", "_")
    if not folder.is_dir():
        with temporary_folder(folder) as new:
            for package in apt.download(packages, new):
                apt.progress(f"unpacking {package.name}", None)
                apt.call(["dpkg-deb", "-x", str(package), str(new / "root")])
            _index_modules(new / "root")
            (new / "root").rename(folder)
    return folder


def _index_modules(root: Path) -> None:
    """Runs depmod where there is one, so that modprobe works in the guest. We need no index ourselves."""
    depmod = shutil.which("depmod", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    for lib in ("usr/lib/modules", "lib/modules"):
        for tree in (root / lib).glob("*"):
            if depmod:
                # depmod wants to see lib/modules at its base folder.
                base = tree.parent.parent.parent
                subprocess.run([depmod, "-b", str(base), tree.name], capture_output=True, check=False)


class Apt:
    """apt with this machine's sources and keys, and a state of its own where the system's will not do.

    The system's package lists are used if they serve; where they are missing (containers delete them)
    or stale, `state` gets lists of its own, for which no privilege is needed.
    """

    def __init__(self, state: Path, progress: Progress) -> None:
        self.progress = progress
        self.state = state
        # As root apt would drop to the user _apt, who may not write to our cache.
        self.options = ["-o", "APT::Sandbox::User=root", "-o", f"Dir::Cache={state}/cache"]
        (state / "cache/archives/partial").mkdir(parents=True, exist_ok=True)

    def call(self, command: list[str]) -> str:
        """Runs a command and returns its output. Raises UserError with its last word."""
        environment = os.environ | {"LC_ALL": "C"}
        result = subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)
        if result.returncode:
            last = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
            raise UserError(
                f"{command[0]} failed: {last[-1]}", "is the network up? A kernel can be named with --kernel"
            )
        return result.stdout

    def update(self) -> None:
        """Fetches lists of our own, from the machine's own sources with the machine's own keys."""
        lists = self.state / "lists"
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        self.options += ["-o", f"Dir::State::Lists={lists}", "-o", "Acquire::Languages=none"]
        self._with_progress("fetching package lists", ["apt-get", "update", "-q", *self.options])

    def kernel_packages(self) -> list[str]:
        """`NAME=VERSION` of the newest generic kernel's packages, the image first."""
        architecture = self.call(["dpkg", "--print-architecture"]).strip()
        # Debian's name, then Ubuntu's. Neither is the cloud kernel, which lacks input and sound.
        for meta in (f"linux-image-{architecture}", "linux-image-generic"):
            if packages := self._resolve(meta):
                return packages
        raise UserError(
            "apt knows no generic kernel package", "name a kernel image with --kernel, its modules with --modules"
        )

    def _resolve(self, package: str) -> list[str]:
        """The kernel packages that `package` depends on, theirs included."""
        found: list[str] = []
        waiting = [package]
        while waiting:
            stanza = self._show(waiting.pop(0))
            if (name := stanza.get("Package", "")) and _KERNEL_PACKAGE.fullmatch(name):
                found.append(f"{name}={stanza['Version']}")
            for dependency in re.split(r"[,|]", stanza.get("Depends", "")):
                wanted = dependency.split()
                if wanted and _KERNEL_PACKAGE.fullmatch(wanted[0]):
                    exact = re.search(r"\(= *([^)]+)\)", dependency)
                    full = f"{wanted[0]}={exact[1]}" if exact else wanted[0]
                    if full not in waiting and all(item.split("=")[0] != wanted[0] for item in found):
                        waiting.append(full)
        return found

    def _show(self, package: str) -> dict[str, str]:
        """The control fields of a package's newest version, backports included; empty if unknown."""
        try:
            text = self.call(["apt-cache", "show", *self.options, package])
        except UserError:
            return {}
        # apt-cache lists every version it knows of, the newest first.
        return dict(re.findall(r"^([A-Za-z-]+): (.*)$", text.split("\n\n")[0], re.MULTILINE))

    def download(self, packages: list[str], folder: Path) -> list[Path]:
        """Downloads into `folder`, which apt verifies against the signed lists."""
        what = f"downloading {packages[0].split('=')[0]}"
        self._with_progress(what, ["apt-get", "download", "-q", *self.options, *packages], folder)
        return sorted(folder.glob("*.deb"))

    def _with_progress(self, what: str, command: list[str], folder: Path | None = None) -> None:
        self.progress(what, None)
        reader, writer = os.pipe()
        with os.fdopen(reader) as status:
            try:
                process = subprocess.Popen(
                    [*command, "-o", f"APT::Status-Fd={writer}"],
                    cwd=folder,
                    env=os.environ | {"LC_ALL": "C"},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                    pass_fds=(writer,),
                )
            finally:
                os.close(writer)
            with process:
                for line in status:  # dlstatus:ITEM:PERCENT:TEXT
                    fields = line.split(":")
                    if fields[0] == "dlstatus" and len(fields) > 2:
                        self.progress(what, float(fields[2]) / 100)
                errors = process.stderr.read().strip().splitlines() if process.stderr else []
        if process.returncode:
            raise UserError(
                f"{what} failed: {errors[-1] if errors else process.returncode}",
                "is the network up? A kernel can be named with --kernel",
            )


def show_progress(what: str, part: float | None) -> None:
    """A Progress on standard error: in place on a terminal, a line a step elsewhere."""
    if sys.stderr.isatty():
        percent = "" if part is None else f" {part:4.0%}"
        sys.stderr.write(f"\r\033[Ksubos: {what}{percent}" + ("\n" if part == 1 else ""))
        sys.stderr.flush()
    elif part is None:
        print(f"subos: {what}", file=sys.stderr, flush=True)
