"""Where a running VM keeps its sockets: one folder a VM, which only its owner may enter.

NAME/lock                  held while the VM runs
NAME/control.sock          status, detach, share-add … (JSON lines)
NAME/DEVICE.vhost.sock     vhost-user, for QEMU
NAME/DEVICE.driver.sock    where a host driver sends its events
NAME/vsock.sock            streams to the guest's ports: CONNECT PORT (see vsock/README.md)
NAME/vsock.sock_PORT       where the guest's streams to a port of the host lead, if somebody listens there
NAME/qmp.sock, NAME/initrd
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from .errors import UserError
from .unix import MAX_PATH

LOCK_PATIENCE = 0.2  # seconds; whoever only looks, or cleans up after the dead, holds a lock for less
LOCK_STEP = 0.01
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")


def base_folder() -> Path:
    """The folder of all VMs of this user; not made yet, perhaps.

    Raises UserError where it is another user's, who could pass for our VMs: anybody can make a folder in /tmp.
    """
    base = _base_path()
    try:
        found = base.lstat()
    except FileNotFoundError:
        return base
    if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode):
        raise UserError(f"{base} belongs to somebody else", "set XDG_RUNTIME_DIR to a folder of yours")
    return base


def _base_path() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        return Path(runtime, "subos")
    if os.geteuid() == 0:
        return Path("/run/subos")
    return Path(f"/tmp/subos-{os.geteuid()}")


def vm_folder(name: str) -> Path:
    """The folder of the VM `name`. Raises UserError for a name that cannot be one, and as `base_folder` does."""
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


def running_folder(name: str) -> Path:
    """The folder of the VM `name`, which runs. Raises UserError."""
    folder = vm_folder(name)
    if not is_running(name):
        names = ", ".join(filter(is_running, vm_names()))
        raise UserError(f"no VM called {name!r} is running", f"there is {names}" if names else "none is running")
    return folder


def _lock(folder: Path) -> int:
    """Makes the folder and locks it. Raises UserError while somebody else has."""
    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # its last holder removed it just now
        if _try_lock(lock):
            return lock
        os.close(lock)
        if time.monotonic() > deadline:
            raise UserError(
                f"a VM called {folder.name!r} is running", "choose another --name, or see subos-devices status"
            )
        time.sleep(LOCK_STEP)


def _try_lock(lock: int) -> bool:
    """False where somebody else holds it, or has removed it between our open and our lock."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(lock).st_nlink > 0


def _empty(folder: Path) -> None:
    """Removes all but the lock. The caller has locked it."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != "lock":
            entry.unlink(missing_ok=True)


def _remove(folder: Path) -> None:
    """Removes a folder that the caller has locked. The lock goes last: from then on the folder may be another's."""
    with contextlib.suppress(OSError):
        _empty(folder)
        (folder / "lock").unlink()
        folder.rmdir()


def _remove_dead(base: Path) -> None:
    """Removes what killed launchers have left: a name such as vm-PID never comes again to clean up after itself."""
    for folder in base.iterdir():
        try:
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()  # an empty one: its launcher died early, or is just about to make a lock there
            continue
        try:
            if _try_lock(lock):
                _remove(folder)
        finally:
            os.close(lock)


@contextlib.contextmanager
def claim(name: str) -> Iterator[Path]:
    """Makes and holds the folder of `name`, and removes it at the end. What dead VMs have left goes first.

    Raises UserError while a running VM holds the name, or where the folder is another user's.
    """
    folder = vm_folder(name)
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_dead(base_folder())  # asked for anew: somebody may have been quicker to make it
    lock = _lock(folder)
    try:
        _empty(folder)
        try:
            yield folder
        finally:
            _remove(folder)
    finally:
        os.close(lock)


def listen(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """A listening Unix socket at `path`, for its owner only; a stale one is replaced, a live one is an error.

    It appears there only when it can be connected to, so that who waits for the file need not try again.
    """
    if len(os.fsencode(path)) > MAX_PATH:
        raise UserError(
            f"the socket {path} cannot be made: its path has more than {MAX_PATH} bytes",
            "choose a shorter --name, tag or folder",
        )
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
