"""Where a running VM keeps its sockets: one folder a VM, which only its owner may enter.

NAME/control.sock          status, stop, detach (JSON lines)
NAME/DEVICE.sock           vhost-user, for QEMU
NAME/DEVICE.driver.sock    where a host driver sends its events
NAME/qmp.sock, NAME/console.log
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from .errors import UserError

MAX_PATH = 107  # bytes of a Unix socket's path (unix(7))
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")


def base_folder() -> Path:
    """The folder of all VMs of this user; not made yet, perhaps."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        return Path(runtime, "subos")
    if os.geteuid() == 0:
        return Path("/run/subos")
    return Path(f"/tmp/subos-{os.geteuid()}")


def vm_folder(name: str) -> Path:
    """The folder of the VM `name`. Raises UserError for a name that cannot be one."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} cannot be a VM's name", "letters, digits, '.', '_' and '-', at most 40, the first no sign"
        )
    return base_folder() / name


def vm_names() -> list[str]:
    """VMs that have a folder, running or not."""
    base = base_folder()
    return sorted(path.name for path in base.iterdir() if path.is_dir()) if base.is_dir() else []


def is_running(name: str) -> bool:
    """Whether somebody holds the folder of `name`."""
    try:
        fd = os.open(vm_folder(name) / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _lock(folder: Path) -> int:
    """Makes the folder and locks it. Raises UserError while somebody else has."""
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # its last holder removed it just now
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise UserError(
                f"a VM called {folder.name!r} is running", "choose another --name, or see subos-devices status"
            ) from None
        if os.fstat(lock).st_nlink:
            return lock
        os.close(lock)  # removed between our open and our lock


@contextlib.contextmanager
def claim(name: str) -> Iterator[Path]:
    """Makes and holds the folder of `name`, and removes it at the end. What a dead VM left there goes first.

    Raises UserError while a running VM holds the name, or where the folder is another user's.
    """
    folder = vm_folder(name)
    base = folder.parent
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = base.lstat()
    if owner.st_uid != os.geteuid() or not stat.S_ISDIR(owner.st_mode):
        raise UserError(f"{base} belongs to somebody else", "set XDG_RUNTIME_DIR to a folder of yours")
    lock = _lock(folder)
    try:
        for stale in folder.iterdir():
            if stale.name != "lock":
                stale.unlink() if not stale.is_dir() else shutil.rmtree(stale)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def listen(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """A listening Unix socket at `path`, for its owner only; a stale one is replaced, a live one is an error.

    It appears there only when it can be connected to, so that who waits for the file need not try again.
    """
    if len(os.fsencode(path)) > MAX_PATH:
        raise UserError(f"the socket {path} cannot be made: its path has more than {MAX_PATH} bytes")
    hidden = path.with_name(f".{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX, kind)
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, kind) as probe:
                try:
                    probe.connect(os.fspath(path))
                except OSError:
                    path.unlink(missing_ok=True)
                else:
                    raise UserError(f"somebody already serves {path}", "choose another socket, or end that process")
        old = os.umask(0o177)
        try:
            listener.bind(os.fspath(hidden))
        finally:
            os.umask(old)
        listener.listen(16)
        os.link(hidden, path)  # unlike a rename, this replaces nobody's file
    except OSError as error:
        listener.close()
        raise UserError(f"the socket {path} cannot be made: {error.strerror or error}") from error
    except UserError:
        listener.close()
        raise
    finally:
        hidden.unlink(missing_ok=True)
    return listener
