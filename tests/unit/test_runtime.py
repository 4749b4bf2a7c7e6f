"""Where a VM keeps its sockets: names, claims, what the dead left behind, listening."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from subos_devices import runtime
from subos_devices.errors import UserError
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
