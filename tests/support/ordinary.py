"""An ordinary user of this machine, who runs guests: nobody, with all that this takes in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import subos_agent
import subos_desktop
import subos_devices
import subos_protocol
from subos_devices.launcher.kernel import find_kernel

from .children import in_child
from .kernels import small_copy

NOBODY = 65534


@dataclass(frozen=True)
class OrdinaryUser:
    """`work` is a folder of this user's in `home`, which is root's."""

    home: Path
    python: str
    uid: int = NOBODY

    @property
    def work(self) -> Path:
        return self.home / "work"

    def run_in_guest(self, *words: object) -> subprocess.CompletedProcess[str]:
        """`subos-devices run` with a kernel and these words."""
        kernel = next((self.home / "kernel" / "boot").iterdir())
        return subprocess.run(
            [self.python, "-m", "subos_devices.cli", "run", "--kernel", kernel, *map(str, words)],
            preexec_fn=become_nobody,
            cwd=self.work,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(self.home),
                "HOME": str(self.work),
                "XDG_CACHE_HOME": str(self.home / "cache"),
                "XDG_RUNTIME_DIR": str(self.home / "runtime"),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )


@contextmanager
def ordinary_user() -> Iterator[OrdinaryUser]:
    """Only root can be somebody else."""
    home = Path("/var/tmp", f"subos-nobody-{os.getpid()}")  # the folders above pytest's own are not for others
    home.mkdir(mode=0o755)
    try:
        for package in (subos_agent, subos_desktop, subos_devices, subos_protocol):
            source = Path(package.__path__[0])
            shutil.copytree(source, home / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        small_copy(find_kernel(), home / "kernel")
        for name in ("cache", "runtime", "work"):
            (home / name).mkdir()
            os.chown(home / name, NOBODY, NOBODY)
        yield OrdinaryUser(home, _python())
    finally:
        shutil.rmtree(home)


def as_nobody(function: Callable[[], None]) -> None:
    """Runs `function` in a child that is an ordinary user, with a Python that this user may run. Raises AssertionError
    with what it raised."""
    python = _python()

    def run() -> None:
        become_nobody()
        sys.executable = python
        function()

    in_child(run)


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user of this machine can enter and write; those above pytest's own are not for others."""
    with tempfile.TemporaryDirectory(prefix="subos-", dir="/var/tmp") as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


def become_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def _python() -> str:
    """A Python that an ordinary user may run: ours may lie in root's home."""
    names = ("python3", "python3.13", "python3.12", "python3.11")
    for python in filter(None, [sys.executable, "/usr/bin/python3", *map(shutil.which, names)]):
        try_it = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        with contextlib.suppress(OSError):
            if subprocess.run(try_it, preexec_fn=become_nobody, cwd="/", capture_output=True).returncode == 0:
                return python
    pytest.skip("no Python 3.11 here that an ordinary user may run")
