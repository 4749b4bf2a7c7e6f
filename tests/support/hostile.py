"""A hostile worker: any Python, in the jail that a device of some kind gets, and what it may try.

Nothing that it aims at is worth anything: the files, sockets and the process are the test's own. An attack returns
where it has done what it says, and raises where it could not.
"""

from __future__ import annotations

import _thread
import ctypes
import fcntl
import mmap
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from subos_devices.fs import syscalls
from subos_devices.registry import KINDS, load
from subos_devices.supervisor.parenting import keep_only
from subos_devices.supervisor.sandbox.jail import OFF, Cell, born, close_jail, narrow
from subos_devices.supervisor.sandbox.namespaces import fork_with
from subos_devices.supervisor.sandbox.policies import Choice
from subos_devices.supervisor.sandbox.seccomp import CLONE_FILES
from subos_devices.supervisor.sandbox.system import call
from subos_devices.vhost_user.device import DeviceSpec

from .ordinary import become_nobody

POSSIBLE, REFUSED, KILLED, NONE = "possible", "refused", "killed", "it has none"
EXECUTED = 77  # the exit status of what took a worker's place
SECRET = b"what nobody may see"


@dataclass(frozen=True)
class Scene:
    """What there is to attack. `share` is what a share may have."""

    share: Path
    folder: Path
    secret: Path
    driver: Path
    abstract: str
    victim: int
    handle: bytes
    keeper: int = 0


@contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    """`folder` must be one that every user of this machine can enter."""
    for name in ("share", "folder"):
        (folder / name).mkdir()
        (folder / name).chmod(0o777)
    (folder / "share" / "inside").write_bytes(b"shared")
    secret = folder / "folder" / "secret"
    secret.write_bytes(SECRET)
    for path in (secret, folder / "share" / "inside"):
        path.chmod(0o666)
        if os.geteuid() == 0:
            os.chown(path, 65534, 65534)  # an ordinary user's worker would own it, too
    driver, abstract = folder / "folder" / "driver.sock", f"\0subos-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as one, socket.socket(socket.AF_UNIX) as two:
        one.bind(os.fspath(driver))
        driver.chmod(0o777)
        one.listen()
        two.bind(abstract)
        two.listen()
        with open(secret, "rb") as file:
            handle = syscalls.name_to_handle(file.fileno())
        as_nobody = become_nobody if os.geteuid() == 0 else None
        victim = subprocess.Popen(["sleep", "1000"], preexec_fn=as_nobody)
        try:
            yield Scene(folder / "share", folder / "folder", secret, driver, abstract, victim.pid, handle)
            assert victim.poll() is None, "the victim was hit"
        finally:
            victim.kill()
            victim.wait()


Attack = Callable[[Scene], object]
ATTACKS: dict[str, Attack] = {}


def attack(what: str) -> Callable[[Attack], Attack]:
    def note(function: Attack) -> Attack:
        ATTACKS[what] = function
        return function

    return note


def prevented(what: str = "it did not come to that") -> OSError:
    return PermissionError(1, what)


# --- files


@attack("read a file outside its paths")
def _read(scene: Scene) -> None:
    escapes = ["", "../" * 40, "/share/../", "/proc/1/root", "/proc/self/root", "/proc/self/cwd"]
    for prefix in escapes:
        try:
            with open(prefix + os.fspath(scene.secret), "rb") as file:
                if file.read() == SECRET:
                    return
        except OSError as error:
            last = error
    raise last


@attack("read one by its file handle")
def _by_handle(scene: Scene) -> None:
    for root in ("/share", "/", os.fspath(scene.share)):
        try:
            mount = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
            with open(syscalls.open_by_handle(mount, scene.handle, os.O_RDONLY), "rb") as file:
                if file.read() == SECRET:
                    return
        except OSError as error:
            last = error
    raise last


@attack("write to a file outside them")
def _write(scene: Scene) -> None:
    with open(scene.secret, "ab") as file:
        file.write(b"")


@attack("make a file outside them")
def _make(scene: Scene) -> None:
    try:
        os.close(os.open(scene.folder / "made", os.O_CREAT | os.O_WRONLY))
        os.unlink(scene.folder / "made")
    except OSError:
        os.close(os.open("/made", os.O_CREAT | os.O_WRONLY))
        os.unlink("/made")


@attack("list a folder outside them")
def _list(scene: Scene) -> None:
    os.listdir(scene.folder)


@attack("see that a file is there, and its size")
def _stat(scene: Scene) -> None:
    os.stat(scene.secret)


@attack("change a file's mode outside them")
def _chmod(scene: Scene) -> None:
    os.chmod(scene.secret, 0o666)


@attack("open a device node")
def _device_node(scene: Scene) -> None:
    for path in ("/dev/null", "/share/node"):
        try:
            if path == "/share/node":
                os.mknod(path, 0o20666, os.makedev(1, 3))
            os.close(os.open(path, os.O_RDWR))
            return
        except OSError as error:
            last = error
    raise last


# --- sockets


@attack("reach another device's driver socket")
def _driver(scene: Scene) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(os.fspath(scene.driver))


@attack("reach an abstract Unix socket")
def _abstract(scene: Scene) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(scene.abstract)


@attack("open an Internet socket")
def _internet(scene: Scene) -> None:
    socket.socket(socket.AF_INET).close()


@attack("open a netlink socket")
def _netlink(scene: Scene) -> None:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()


# --- processes


@attack("see other processes")
def _see(scene: Scene) -> None:
    if not os.path.exists(f"/proc/{scene.victim}/stat") or str(scene.victim) not in os.listdir("/proc"):
        raise prevented()
    Path(f"/proc/{scene.victim}/status").read_bytes()


@attack("send a process a signal")
def _kill(scene: Scene) -> None:
    os.kill(scene.victim, signal.SIGCONT)


@attack("have the kernel send it one (F_SETOWN)")
def _set_owner(scene: Scene) -> None:
    fcntl.fcntl(0, fcntl.F_SETOWN, scene.victim)


@attack("trace a process")
def _trace(scene: Scene) -> None:
    _call("ptrace", 0x4206, scene.victim, 0, 0)  # PTRACE_SEIZE


@attack("take a process's descriptors")
def _take(scene: Scene) -> None:
    pidfd = os.pidfd_open(scene.victim)
    os.close(_call("pidfd_getfd", pidfd, 0, 0))


@attack("send its keeper a signal")
def _kill_keeper(scene: Scene) -> None:
    os.kill(scene.keeper, signal.SIGCONT)


@attack("trace its keeper")
def _trace_keeper(scene: Scene) -> None:
    _call("ptrace", 0x4206, scene.keeper, 0, 0)


@attack("read its keeper's memory")
def _read_keeper(scene: Scene) -> None:
    with open(f"/proc/{scene.keeper}/mem", "rb") as memory:
        memory.read(0)


@attack("start a process")
def _fork(scene: Scene) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


@attack("execute a program")
def _execute(scene: Scene) -> None:
    os.execv("/bin/sh", ["sh", "-c", f"exit {EXECUTED}"])


@attack("run code of its own making")
def _code(scene: Scene) -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC, flags=mmap.MAP_PRIVATE | 0x20).close()


@attack("become another user")
def _become(scene: Scene) -> None:
    os.setresuid(-1, -1, -1)
    os.setresuid(12345, 12345, 12345)


# --- the kernel


@attack("load a kernel module")
def _module(scene: Scene) -> None:
    _reaches_kernel("init_module", None, 0, b"")


@attack("load a BPF program")
def _bpf(scene: Scene) -> None:
    _reaches_kernel("bpf", 5, bytes(128), 128)


@attack("mount something")
def _mount(scene: Scene) -> None:
    for folder in ("/", os.fspath(scene.share)):
        try:
            _call("mount", b"none", os.fsencode(folder), b"tmpfs", 0, None)
            return
        except OSError as error:
            last = error
    raise last


@attack("make a namespace")
def _namespace(scene: Scene) -> None:
    _call("unshare", 0x1000_0000)


@attack("use the keys of its user")
def _keys(scene: Scene) -> None:
    _call("keyctl", 0, -3, 0, 0, 0)  # KEYCTL_GET_KEYRING_ID of the session


@attack("use io_uring")
def _uring(scene: Scene) -> None:
    os.close(_call("io_uring_setup", 1, ctypes.create_string_buffer(120)))


# --- what others need, too


@attack("take 64 GiB of memory")
def _memory(scene: Scene) -> None:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE: it is the limit that is asked for
    mmap.mmap(-1, 64 << 30, flags=flags).close()


@attack("take memory that no limit counts")
def _shared(scene: Scene) -> None:
    try:
        mmap.mmap(-1, 1 << 20).close()
    except OSError:
        os.close(os.memfd_create("hostile"))


@attack("start 400 threads")
def _threads(scene: Scene) -> None:
    gate = _thread.allocate_lock()
    gate.acquire()
    _thread.stack_size(64 << 10)
    for _ in range(400):
        _thread.start_new_thread(gate.acquire, ())


@attack("open 2000 descriptors")
def _descriptors(scene: Scene) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for _ in range(2000):
        os.dup(0)


def _call(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    result = call(name, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _reaches_kernel(name: str, *arguments: int | bytes | None) -> None:
    """Succeeds where the kernel looks at the arguments at all, which are nonsense."""
    try:
        _call(name, *arguments)
    except PermissionError:
        raise
    except OSError:
        pass


# --- the jail


def has_keeper(spec: DeviceSpec) -> bool:
    return spec.kind in KINDS and load(spec.kind).keeps


def outcome(spec: DeviceSpec, choice: Choice, where: Scene, what: str, *, nobody: bool) -> str:
    """POSSIBLE, REFUSED or KILLED: one attack, by a worker of `spec`'s kind, which an ordinary user's zygote starts
    where `nobody` says so. NONE for one on a keeper, where it has none."""
    if "keeper" in what and not has_keeper(spec):
        return NONE
    reader, writer = os.pipe()
    zygote = os.fork()
    if zygote == 0:
        _be_the_zygote(spec, choice, where, ATTACKS[what], writer, nobody)
    os.close(writer)
    with open(reader, "rb") as said:
        answer = said.read().decode()
    os.waitpid(zygote, 0)
    assert answer, f"{what}: nobody has said how it ended"
    assert not answer.startswith("!"), answer
    return answer


def _be_the_zygote(spec: DeviceSpec, choice: Choice, where: Scene, what: Attack, writer: int, nobody: bool) -> None:
    """In a child of the test's: starts the worker, and says how it ended. Never returns."""
    try:
        if nobody:
            become_nobody()
        myself = os.pidfd_open(os.getpid())
        pid, cell = born(spec, choice, keeper=has_keeper(spec))
        if pid == 0:
            _attack(spec, cell, where, what, writer, myself)
        _say_how_it_ended(pid, writer)
    finally:
        os._exit(0)


def _say_how_it_ended(pid: int, writer: int) -> None:
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == -signal.SIGSYS:
        os.write(writer, KILLED.encode())
    elif status == EXECUTED:
        os.write(writer, POSSIBLE.encode())
    elif status:
        os.write(writer, f"!the worker ended with {status}".encode())


def _attack(spec: DeviceSpec, cell: Cell | None, where: Scene, what: Attack, writer: int, zygote: int) -> None:
    status = 1
    try:
        keep_only({writer, zygote})
        sandbox = OFF
        if cell is not None:
            _, sandbox = close_jail(spec, cell, zygote)
        elif os.geteuid() == 0:
            call("unshare", 0x0002_0000)  # without a jail a mount would be a real one
            call("mount", b"none", b"/", None, 0x4_4000, None)
        if has_keeper(spec):
            where = replace(where, keeper=os.getpid())
            if pid := fork_with(CLONE_FILES):
                _say_how_it_ended(pid, writer)
                os._exit(0)
            if cell is not None:
                narrow(cell, sandbox)
        answer = POSSIBLE
        try:
            what(where)
        except (OSError, MemoryError, RuntimeError, ValueError):
            answer = REFUSED
        os.write(writer, answer.encode())
        status = 0
    except BaseException as error:
        os.write(writer, f"!{type(error).__name__}: {error}".encode())
    finally:
        os._exit(status)
