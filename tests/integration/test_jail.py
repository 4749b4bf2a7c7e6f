"""Workers in their jail: told of in status and log, closed around the next one too, and no feature is lost in it."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from subos_devices.errors import UserError
from subos_devices.supervisor.sandbox import jail, landlock, report, seccomp
from subos_devices.supervisor.sandbox.namespaces import FLAGS
from subos_devices.supervisor.sandbox.policies import Choice
from subos_devices.supervisor.sandbox.system import must
from subos_devices.testing import FrontEnd, Supervised, supervise
from subos_devices.testing.fuse import FuseClient
from subos_devices.vhost_user.device import DeviceSpec
from subos_protocol.fuse import FUSE_ENTRY_OUT, FUSE_OPEN_IN, FUSE_OPEN_OUT, FUSE_READ_IN, fuse_open_in, fuse_read_in
from subos_protocol.fuse_opcodes import FUSE_ROOT_ID, FuseInit, FuseOpcode
from support.children import in_child
from support.ordinary import as_nobody, open_folder
from support.strangers import Inquisitive, Reverser
from support.waiting import eventually

from .test_sandbox import ONLY_ROOT

MS_REC, MS_PRIVATE, MS_SHARED = 1 << 14, 1 << 18, 1 << 20  # linux/mount.h


def settled(supervised: Supervised) -> dict[str, Any]:
    """Its status, once the zygote has said which process it is."""
    return eventually(lambda: status if (status := supervised.status())["pid"] else {})


def is_filtered(pid: int) -> bool:
    return "\nSeccomp:\t2\n" in Path(f"/proc/{pid}/status").read_text()


def test_status_says_what_holds_a_worker_and_the_next_one() -> None:
    with supervise() as supervised, FrontEnd.connect(supervised.add("rng")) as vm:
        queue = vm.queue(0)
        first = settled(supervised)
        assert first["sandbox"] == report.try_out("rng")
        assert is_filtered(first["pid"])
        os.kill(first["pid"], signal.SIGKILL)
        assert len(queue.request(writable=[8])[0]) == 8
        second = settled(supervised)
        assert second["pid"] != first["pid"]
        assert second["sandbox"] == first["sandbox"]
        assert is_filtered(second["pid"])


def ask(vm: FrontEnd, what: str) -> Any:
    return json.loads(vm.queues[0].request([what.encode()], [4096])[0])


def test_a_worker_has_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "secret")
    with supervise() as supervised, FrontEnd.connect(supervised.add(Inquisitive)) as vm:
        vm.queue(0)
        assert ask(vm, "environment") == {}
        assert b"A_TOKEN" not in Path(f"/proc/{settled(supervised)['pid']}/environ").read_bytes()
        targets = {os.readlink(f"/proc/{settled(supervised)['pid']}/fd/{stream}") for stream in range(3)}
        assert targets <= {"/null", "/dev/null"}


def test_a_worker_that_its_filter_kills_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with supervise() as supervised, FrontEnd.connect(supervised.add(Inquisitive, name="nosy")) as vm:
        vm.queue(0).add([b"signal"], [4096])
        with caplog.at_level(logging.ERROR, logger="subos"):
            vm.queues[0].kick()
            eventually(lambda: "nosy: its worker was killed by its sandbox" in caplog.text)
        vm.reboot()
        assert ask(vm, "environment") == {}


def test_a_filter_that_logs_lets_it() -> None:
    with supervise(Choice(seccomp="log")) as supervised, FrontEnd.connect(supervised.add(Inquisitive)) as vm:
        vm.queue(0)
        ask(vm, "signal")
        assert "seccomp (log)" in supervised.status()["sandbox"]["on"]


def test_an_error_of_a_device_is_told_with_its_place(caplog: pytest.LogCaptureFixture) -> None:
    with (
        supervise() as supervised,
        FrontEnd.connect(supervised.add(Reverser)) as vm,
        caplog.at_level(logging.WARNING, logger="subos"),
    ):
        vm.queue(0).add([b"crash"], [8])
        vm.queues[0].kick()
        eventually(lambda: "RuntimeError: a bug in this device (at strangers.py:" in caplog.text)


def test_without_a_sandbox_status_says_so() -> None:
    with supervise(Choice("off")) as supervised, FrontEnd.connect(supervised.add("rng")):
        status = settled(supervised)
        assert report.summary(status["sandbox"]) == "off"
        assert not is_filtered(status["pid"])


def refuse(*_: object, **__: object) -> None:
    raise OSError(95, "this kernel has none")


@pytest.mark.parametrize(
    ("module", "name", "layer"), [(landlock, "restrict", "Landlock"), (seccomp, "install", "seccomp")]
)
def test_a_layer_that_is_missing_is_named_and_the_others_hold(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, layer: str
) -> None:
    before = report.try_out("rng")
    monkeypatch.setattr(module, name, refuse)
    after = report.try_out("rng")
    assert after["missing"] == {**before["missing"], layer: "this kernel has none"}
    assert after["on"] == [each for each in before["on"] if each != layer]


def test_all_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """--sandbox require."""
    monkeypatch.setattr(landlock, "restrict", refuse)
    spec = DeviceSpec("rng", "rng")

    def run(mode: str) -> str:
        reader, writer = os.pipe()
        myself = os.pidfd_open(os.getpid())
        pid, cell = jail.born(spec, Choice(mode))
        if pid == 0:
            try:
                assert cell is not None
                jail.close_jail(spec, cell, myself)
                os.write(writer, b"closed")
            except UserError as error:
                os.write(writer, f"{error.message}; {error.hint}".encode())
            finally:
                os._exit(0)
        os.close(writer)
        os.close(myself)
        with open(reader, "rb") as said:
            answer = said.read().decode()
        os.waitpid(pid, 0)
        return answer

    assert run("auto") == "closed"
    assert "rng: no sandbox of all layers here: " in run("require")
    assert "--sandbox auto goes without it" in run("require")


def test_all_where_all_is_there() -> None:
    if report.try_out("rng")["missing"]:
        pytest.skip(f"this host lacks {report.try_out('rng')['missing']}")
    with supervise(Choice("require")) as supervised, FrontEnd.connect(supervised.add("rng")) as vm:
        assert vm.queue(0).request(writable=[8])


def test_a_device_that_starts_threads_too_early() -> None:
    with supervise() as supervised, pytest.raises(UserError, match="starts threads while it is loaded"):
        supervised.add("support.eager:Eager")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rng", "--allow", "net"], "--allow is for a device of yours"),
        (["a.b:C", "--allow", "anything"], "--allow 'anything' is no grant"),
        (["rng", "--sandbox", "on"], "invalid choice: 'on'"),
        (["rng", "--seccomp", "off"], "invalid choice: 'off'"),
    ],
)
def test_what_cannot_be_asked_for(tmp_path: Path, arguments: list[str], said: str) -> None:
    command = [sys.executable, "-m", "subos_devices.cli", "serve", *arguments, "--socket-path", str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


# --- shares


class Client:
    """A guest's kernel, as far as these tests need one."""

    def __init__(self, vm: FrontEnd) -> None:
        self.fuse = FuseClient(vm.queue(1))
        self.mount()

    def mount(self) -> None:
        self.fuse.init(flags=FuseInit.FUSE_ASYNC_READ)

    def lookup(self, name: bytes, folder: int = FUSE_ROOT_ID) -> int:
        return FUSE_ENTRY_OUT.unpack(
            self.fuse.request(FuseOpcode.FUSE_LOOKUP, folder, name + b"\0", reply=FUSE_ENTRY_OUT.size)
        ).nodeid

    def open(self, node: int) -> int:
        question = FUSE_OPEN_IN.pack(fuse_open_in(os.O_RDONLY, 0))
        return FUSE_OPEN_OUT.unpack(
            self.fuse.request(FuseOpcode.FUSE_OPEN, node, question, reply=FUSE_OPEN_OUT.size)
        ).fh

    def read(self, node: int, handle: int) -> bytes:
        question = FUSE_READ_IN.pack(fuse_read_in(handle, 0, 100, 0, 0, 0, 0))
        return self.fuse.request(FuseOpcode.FUSE_READ, node, question, reply=100)

    def finds(self, name: bytes, in_folder: bytes = b"") -> bool:
        try:
            return bool(self.lookup(name, self.lookup(in_folder) if in_folder else FUSE_ROOT_ID))
        except OSError:
            return False


@contextmanager
def shared(folder: Path, **options: Any) -> Iterator[tuple[Supervised, Path, Client]]:
    root = folder / "a share"
    root.mkdir(exist_ok=True)
    (root / "file").write_bytes(b"content")
    with supervise() as supervised, FrontEnd.connect(supervised.add("fs", shared_dir=str(root), **options)) as vm:
        yield supervised, root, Client(vm)


def test_a_share_that_goes_and_comes_back(tmp_path: Path) -> None:
    with shared(tmp_path) as (supervised, root, client):
        node = client.lookup(b"file")
        handle = client.open(node)
        away = root.with_name("away")
        root.rename(away)
        eventually(lambda: not client.finds(b"file"))
        assert client.read(node, handle) == b"content"
        away.rename(root)
        eventually(lambda: client.finds(b"file"))
        assert client.read(node, handle) == b"content"
        assert supervised.status()["restarts"] == 0


@ONLY_ROOT
def test_file_systems_below_a_share_are_seen_also_those_that_come_later(tmp_path: Path) -> None:
    """Where the host's mounts are shared, as systemd has them: in a mount namespace that is made so."""

    def run() -> None:
        must("unshare", FLAGS["mount"])
        must("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
        must("mount", b"none", b"/", None, MS_REC | MS_SHARED, None)
        tempfile.tempdir = str(tmp_path)
        for name in ("early", "late"):
            (tmp_path / "a share" / name).mkdir(parents=True)
        mount(tmp_path / "a share" / "early")
        with shared(tmp_path) as (supervised, root, client):
            assert client.finds(b"mounted", in_folder=b"early")
            assert not client.finds(b"mounted", in_folder=b"late")
            mount(root / "late")
            eventually(lambda: client.finds(b"mounted", in_folder=b"late"))
            assert supervised.status()["restarts"] == 0

    in_child(run)


def mount(folder: Path) -> None:
    must("mount", b"none", os.fsencode(folder), b"tmpfs", 0, None)
    (folder / "mounted").touch()


@ONLY_ROOT
def test_another_folder_in_a_share_s_place(tmp_path: Path) -> None:
    with shared(tmp_path) as (supervised, root, client):
        if "root" not in supervised.status()["sandbox"]["on"]:
            pytest.skip(f"no root of its own here: {supervised.status()['sandbox']['missing']}")
        node = client.lookup(b"file")
        handle = client.open(node)
        root.rename(root.with_name("old"))
        root.mkdir()
        (root / "new").write_bytes(b"another")
        eventually(lambda: client.finds(b"new"))
        new = client.lookup(b"new")
        assert client.read(new, client.open(new)) == b"another"
        assert client.read(node, handle) == b"content"
        assert supervised.status()["restarts"] == 0


@ONLY_ROOT
def test_an_ordinary_user_s_share_gets_a_new_jail_with_another_folder() -> None:
    """Landlock's rule is for the folder that was."""

    def run() -> None:
        tempfile.tempdir = str(folder)
        with shared(folder) as (supervised, root, client):
            if "Landlock" not in supervised.status()["sandbox"]["on"]:
                return
            assert client.finds(b"file")
            root.rename(root.with_name("old"))
            root.mkdir()
            (root / "new").write_bytes(b"another")
            eventually(lambda: not client.finds(b"file") and supervised.status()["restarts"])
            client.mount()  # once more
            new = eventually(lambda: client.finds(b"new") and client.lookup(b"new"))
            assert client.read(new, client.open(new)) == b"another"

    with open_folder() as folder:
        as_nobody(run)


@ONLY_ROOT
def test_owners_of_a_share_are_those_of_the_host() -> None:
    """In a user namespace all others' files would be nobody's."""

    def run() -> None:
        tempfile.tempdir = str(folder)
        with supervise() as supervised, FrontEnd.connect(supervised.add("fs", shared_dir="/etc")) as vm:
            client = Client(vm)
            entry = client.fuse.request(FuseOpcode.FUSE_LOOKUP, FUSE_ROOT_ID, b"passwd\0", reply=FUSE_ENTRY_OUT.size)
            assert FUSE_ENTRY_OUT.unpack(entry).uid == 0

    with open_folder() as folder:
        as_nobody(run)


def test_a_file_that_is_shared_is_alone_in_its_jail_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "beside").touch()
    path = str(tmp_path / "file")
    with supervise() as supervised, FrontEnd.connect(supervised.add("fs", shared_dir=path)) as vm:
        client = Client(vm)
        assert client.finds(b"file")
        assert not client.finds(b"beside")


def test_a_read_only_share_is_read_only_to_its_worker_too(tmp_path: Path) -> None:
    with shared(tmp_path, readonly=True) as (supervised, _root, client):
        node = client.lookup(b"file")
        assert client.read(node, client.open(node)) == b"content"
        mounts = Path(f"/proc/{settled(supervised)['pid']}/mountinfo").read_text().splitlines()
        if "root" in supervised.status()["sandbox"]["on"]:
            (share,) = [line.split() for line in mounts if line.split()[4] == "/share"]
            assert {"ro", "nosuid", "nodev", "noexec"} <= set(share[5].split(","))


@ONLY_ROOT
def test_a_disk_that_is_unmounted_is_gone_and_comes_back(tmp_path: Path) -> None:
    """Also to a worker that still has it in a mount namespace of its own."""

    def run() -> None:
        must("unshare", FLAGS["mount"])
        must("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
        tempfile.tempdir = str(tmp_path)
        disk = tmp_path / "a share"
        disk.mkdir()
        mount(disk)
        with shared(tmp_path) as (supervised, root, client):
            assert client.finds(b"mounted")
            must("umount2", os.fsencode(root), 0)
            (root / "mounted").touch()  # what lies below is not the disk
            eventually(lambda: not client.finds(b"mounted"))
            mount(root)
            eventually(lambda: client.finds(b"mounted"))
            assert supervised.status()["restarts"] == 0

    in_child(run)
