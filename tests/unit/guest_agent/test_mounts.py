"""What the host asks to have mounted, and how the guest's list of mounts is read. Mounting itself: tests/vm."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_agent import mounts
from subos_agent.mounts import Place, mounted
from subos_agent.places import open_folder, true_path
from subos_protocol.agent.errors import RemoteError
from support.agents import asking, on_a_loop


def test_the_list_of_mounts(tmp_path: Path) -> None:
    """As the kernel writes it: space, tab, newline and backslash in octal, all else as it is."""
    text = (
        b"proc /proc proc rw,nosuid 0 0\n"
        b"src /a\\040b\\011\\012\\134x virtiofs rw,relatime 0 0\n"
        b"other /y tmpfs rw 0 0\n"
        b"src /b\rc\xff virtiofs ro 0 0\n"
        b"\n"
        b"short\n"
    )
    (tmp_path / "mounts").write_bytes(text)
    assert mounted(tmp_path / "mounts") == [("src", "/a b\t\n\\x"), ("src", os.fsdecode(b"/b\rc\xff"))]


@given(st.binary(max_size=200))
def test_any_list_of_mounts(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "mounts"
    path.write_bytes(text)
    assert all(isinstance(tag, str) and isinstance(folder, str) for tag, folder in mounted(path))


def test_places() -> None:
    assert Place.from_head({"tag": "src", "path": "/a/./b/"}) == Place("src", "/a/b")
    assert Place("src", "/a/b").folder == "/a/b"
    assert Place.from_head({"tag": "f", "path": "/a", "name": "x y"}).folder == "/run/subos/shares/f"


ANY = st.none() | st.booleans() | st.integers() | st.text(max_size=40) | st.lists(st.text(max_size=3), max_size=2)
ODD = st.sampled_from(["-o", "--help", "..", ".", "/", "/..", "/a/../../b", "a/b", "\0", "/\0", "x" * 37])


@given(st.fixed_dictionaries({}, optional={"tag": ANY | ODD, "path": ANY | ODD, "name": ANY | ODD}))
def test_any_request_is_a_place_or_refused(head: dict[str, Any]) -> None:
    try:
        place = Place.from_head(head)
    except RemoteError:
        return
    assert 0 < len(place.tag) <= 36
    assert not place.tag.startswith("-")
    assert place.path.startswith("/")
    assert ".." not in place.path.split("/")
    assert "/" not in place.name
    assert place.name not in (".", "..")


class Libc:
    """Stands for the kernel: `made` are mounts by tag, `failing` are errors by tag, the first one first."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str, int]] = []
        self.failing: dict[str, list[int]] = {}

    def mount(self, tag: bytes, target: bytes, kind: bytes, flags: int, data: None) -> int:
        assert (kind, data) == (b"virtiofs", None)
        if failing := self.failing.get(tag.decode()):
            ctypes.set_errno(failing.pop(0))
            return -1
        self.made.append((tag.decode(), os.readlink(target.decode()), flags))
        return 0

    def umount2(self, folder: bytes, flags: int) -> int:
        self.made = [made for made in self.made if made[1] != os.fsdecode(folder)]
        return 0


@pytest.fixture
def libc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Libc:
    kernel = Libc()
    monkeypatch.setattr(mounts, "_libc", kernel)
    monkeypatch.setattr(mounts, "SINGLE", tmp_path / "shares")
    monkeypatch.setattr(mounts, "mounted", lambda: [made[:2] for made in kernel.made])
    return kernel


def service(*, anywhere: bool = True) -> Any:
    made = mounts.Mounts(anywhere=anywhere)
    return asking({"mount": made.mount, "unmount": made.unmount})


@on_a_loop
async def test_what_cannot_be_mounted(tmp_path: Path, libc: Libc) -> None:
    (tmp_path / "file").touch()
    libc.failing = {"bad": [errno.EPERM]}
    async with service() as peer:
        for head, code in (
            ({"tag": "-o", "path": "/x"}, "malformed"),
            ({"tag": "src", "path": "x"}, "malformed"),
            ({"tag": "src", "path": str(tmp_path), "name": "file"}, "failed"),
            ({"tag": "src", "path": str(tmp_path / "file" / "x")}, "failed"),
        ):
            with pytest.raises(RemoteError) as refused:
                await peer.ask({"op": "mount", **head})
            assert refused.value.code == code
        with pytest.raises(RemoteError, match="not permitted"):
            await peer.ask({"op": "mount", "tag": "bad", "path": str(tmp_path / "bad")})
        assert libc.made == []
        for _ in range(2):  # what is there already stays
            await peer.ask({"op": "mount", "tag": "src", "path": str(tmp_path / "a/good"), "read_only": True})
            assert libc.made == [("src", str(tmp_path / "a/good"), mounts.MS_RDONLY)]
        await peer.ask({"op": "unmount", "tag": "src", "path": "/anything"})
        assert libc.made == []


@on_a_loop
async def test_two_requests_at_once_mount_once(tmp_path: Path, libc: Libc) -> None:
    libc.failing = {"src": [errno.EINVAL]}
    async with service() as peer:
        head = {"op": "mount", "tag": "src", "path": str(tmp_path / "place")}
        await asyncio.gather(*(peer.ask(head) for _ in range(8)))
        assert libc.made == [("src", str(tmp_path / "place"), 0)]


@on_a_loop
async def test_a_device_that_comes_late(tmp_path: Path, libc: Libc, monkeypatch: pytest.MonkeyPatch) -> None:
    libc.failing = {"late": [errno.EINVAL, errno.EINVAL], "never": [errno.EINVAL] * 1000}
    async with service() as peer:
        await peer.ask({"op": "mount", "tag": "late", "path": str(tmp_path / "late")})
        assert [made[0] for made in libc.made] == ["late"]
        monkeypatch.setattr(mounts, "DEVICE_SECONDS", 0.1)
        with pytest.raises(RemoteError, match="Invalid argument"):
            await peer.ask({"op": "mount", "tag": "never", "path": str(tmp_path / "never")})


@on_a_loop
async def test_one_file_becomes_a_link_and_goes_again(tmp_path: Path, libc: Libc) -> None:
    link = tmp_path / "etc" / "a b"
    link.parent.mkdir()
    link.write_text("what was there before")
    head = {"tag": "f", "path": str(link), "name": "the file"}
    async with service() as peer:
        for _ in range(2):
            await peer.ask({"op": "mount", **head})
            assert os.readlink(link) == f"{tmp_path}/shares/f/the file"
        await peer.ask({"op": "unmount", **head})
        assert not os.path.lexists(link)
        assert not (tmp_path / "shares/f").exists()
        link.symlink_to("/somewhere/else")
        await peer.ask({"op": "unmount", **head})
        assert os.readlink(link) == "/somewhere/else"


@on_a_loop
async def test_where_a_guest_that_allows_no_commands_takes_shares(libc: Libc) -> None:
    """A share over /etc would be as good as a command."""
    async with service(anywhere=False) as peer:
        for path in ("/etc/cron.d", "/", "/mnt", "/root/.ssh", "/mnt/../etc"):
            with pytest.raises(RemoteError) as refused:
                await peer.ask({"op": "mount", "tag": "src", "path": path})
            assert (refused.value.code, "allow exec" in refused.value.hint) == ("refused", True)
        assert libc.made == []


def test_links_that_root_follows_and_those_it_does_not(tmp_path: Path) -> None:
    """All in the test's own folder."""
    tmp_path.chmod(0o755)
    for name in ("target", "safe", "shared"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o755)
    (tmp_path / "safe" / "link").symlink_to("../target")
    (tmp_path / "shared" / "link").symlink_to("../target")
    (tmp_path / "shared").chmod(0o777)
    folder = open_folder(f"{tmp_path}/safe/link/new/./one")
    assert true_path(folder) == f"{tmp_path}/target/new/one"
    os.close(folder)
    with pytest.raises(OSError, match="does not follow"):
        open_folder(f"{tmp_path}/shared/link/new")
    (tmp_path / "safe" / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="does not follow"):
        open_folder(f"{tmp_path}/safe/loop")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        open_folder(f"{tmp_path}/file/x")
