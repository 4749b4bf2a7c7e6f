"""Where a VM keeps its sockets: names, claims, what the dead left behind, listening."""

from __future__ import annotations

import argparse
import fcntl
import os
import socket
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from subos_devices import runtime
from subos_devices.commands import input as input_command
from subos_devices.errors import UserError
from subos_devices.supervisor import control
from support.processes import descriptors


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "subos"


@pytest.mark.parametrize("name", ["a", "work", "my-vm_2.1", "9", "x" * 40])
def test_names(name: str, folder: Path) -> None:
    assert runtime.vm_folder(name) == folder / name


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "-x", "a/b", "../a", "a b", "ä", "a\n", "x" * 41])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UserError, match="cannot be a VM's name"):
        runtime.vm_folder(name)


def test_without_a_runtime_folder_there_is_still_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert runtime.base_folder() == Path("/run/subos")
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    assert runtime.base_folder() == Path("/tmp/subos-1234")


def test_a_claim_is_private_held_and_removed(folder: Path) -> None:
    before = descriptors()
    assert runtime.vm_names() == []
    with runtime.claim("work") as mine:
        assert mine == folder / "work"
        assert stat.S_IMODE(mine.stat().st_mode) == stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert runtime.is_running("work")
        assert runtime.vm_names() == ["work"]
        (mine / "console.log").write_text("…")
        with pytest.raises(UserError, match="is running"), runtime.claim("work"):
            pass
        with runtime.claim("other"):
            assert runtime.vm_names() == ["other", "work"]
        assert (mine / "console.log").exists()
    assert not mine.exists()
    assert not runtime.is_running("work")
    assert descriptors() == before


def test_a_claim_is_removed_whatever_happens(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt), runtime.claim("work"):
        raise KeyboardInterrupt
    assert not (folder / "work").exists()


def test_what_a_dead_vm_left_goes_first(folder: Path) -> None:
    stale = folder / "work" / "share"
    stale.mkdir(parents=True, mode=0o700)
    (stale / "file").write_text("old")
    (folder / "work" / "lock").write_text("")
    (folder / "work" / "dangling").symlink_to("/no/such/file")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "work" / "control.sock"))
    assert not runtime.is_running("work")
    with runtime.claim("work") as mine:
        assert [path.name for path in mine.iterdir()] == ["lock"]


def test_folders_of_the_dead_go_with_the_next_claim(folder: Path) -> None:
    """A killed launcher's default name, vm-PID, never comes again."""
    for name in ("vm-1", "vm-2/deep", "begun"):
        (folder / name).mkdir(parents=True, mode=0o700)
    for name in ("vm-1", "vm-2"):
        (folder / name / "lock").write_text("")
    (folder / "vm-2/deep/file").write_text("")
    (folder / "vm-1/link").symlink_to(folder / "vm-2/deep")
    with runtime.claim("alive") as alive:
        (alive / "control.sock").write_text("")
        with runtime.claim("work"):
            assert runtime.vm_names() == ["alive", "work"]
            assert (alive / "control.sock").exists()


def test_the_lock_is_the_last_to_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From then on all that lies there may be a successor's."""
    removed: list[str] = []
    unlink = os.unlink

    def watch(path: str | Path, **options: int) -> None:
        removed.append(os.path.basename(path))
        unlink(path, **options)

    with runtime.claim("work") as mine:
        for number in range(40):  # in whatever order the folder lists them
            (mine / f"{number}.sock").write_text("")
        (mine / "share").mkdir()
        (mine / "share/file").write_text("")
        monkeypatch.setattr(os, "unlink", watch)
    assert len(removed) == 42
    assert removed[-1] == "lock"
    assert not mine.exists()


def test_who_only_looks_does_not_hold_the_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `status` does in a loop: it holds a lock for a moment."""
    (folder / "work").mkdir(parents=True)
    look = os.open(folder / "work" / "lock", os.O_CREAT | os.O_RDONLY)
    fcntl.flock(look, fcntl.LOCK_SH)
    monkeypatch.setattr(time, "sleep", lambda _: os.close(look))
    with runtime.claim("work"):
        pass


def test_claims_at_once_leave_each_other_alone(folder: Path) -> None:
    """Each cleans up after the dead when it begins, and is taken for dead by nobody."""

    def come_and_go(name: str) -> None:
        for turn in range(50):
            with runtime.claim(name) as mine:
                (mine / "control.sock").write_text(str(turn))
                assert runtime.is_running(name)
                assert (mine / "control.sock").read_text() == str(turn)

    names = [f"vm-{number}" for number in range(4)]
    with ThreadPoolExecutor(len(names)) as threads:
        assert list(threads.map(come_and_go, names)) == [None] * len(names)
    assert runtime.vm_names() == []


def test_another_users_folder_is_believed_by_nobody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody can make /tmp/subos-UID, and say there what he likes."""
    with runtime.claim("work") as mine:
        (mine / "mouse.driver.sock").write_text("")
        monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
        for look in (
            runtime.vm_names,
            lambda: runtime.is_running("work"),
            lambda: control.ask("work", "status"),
            lambda: input_command.run(argparse.Namespace(socket=None, words=["work", "click"])),
        ):
            with pytest.raises(UserError, match="belongs to somebody else") as caught:
                look()
            assert "XDG_RUNTIME_DIR" in caught.value.hint


def test_a_link_in_the_folders_place_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="somebody else"), runtime.claim("work"):
        pass
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_listening(tmp_path: Path, kind: socket.SocketKind) -> None:
    path = tmp_path / "socket"
    with runtime.listen(path, kind), socket.socket(socket.AF_UNIX, kind) as client:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        client.connect(str(path))
        with pytest.raises(UserError, match="already serves"):
            runtime.listen(path, kind)
    with runtime.listen(path, kind):  # over what the dead one left
        pass
    assert list(tmp_path.iterdir()) == [path]


def test_nobodys_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(UserError, match="cannot be made"):
        runtime.listen(path)
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["no/such/folder/socket", "x" * 200])
def test_where_no_socket_can_be(tmp_path: Path, name: str) -> None:
    before = descriptors()
    with pytest.raises(UserError, match="cannot be made"):
        runtime.listen(tmp_path / name)
    assert descriptors() == before
