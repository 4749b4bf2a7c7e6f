"""What the host asks to have mounted, and how the guest's list of mounts is read. Mounting itself: tests/vm."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_agent import mounts
from subos_agent.mounts import Place, mounted
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


@on_a_loop
async def test_what_cannot_be_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it reaches a program that mounts."""
    ran: list[tuple[str, ...]] = []

    async def run(*argv: str) -> tuple[int, str]:
        ran.append(argv)
        return (0, "") if argv[-1].endswith("good") else (32, "mount: bad option")

    monkeypatch.setattr(mounts, "_run", run)
    monkeypatch.setattr(mounts, "SINGLE", tmp_path / "shares")
    (tmp_path / "file").touch()
    async with asking() as peer:
        for head, code in (
            ({"tag": "-o", "path": "/x"}, "malformed"),
            ({"tag": "src", "path": "x"}, "malformed"),
            ({"tag": "src", "path": str(tmp_path), "name": "file"}, "failed"),
            ({"tag": "src", "path": str(tmp_path / "file" / "x")}, "failed"),
        ):
            with pytest.raises(RemoteError) as refused:
                await peer.ask({"op": "mount", **head})
            assert refused.value.code == code
        assert ran == []
        with pytest.raises(RemoteError, match="mount: bad option"):
            await peer.ask({"op": "mount", "tag": "src", "path": str(tmp_path / "bad")})
        await peer.ask({"op": "mount", "tag": "src", "path": str(tmp_path / "good"), "read_only": True})
        assert ran[-1] == ("mount", "-t", "virtiofs", "-o", "ro", "src", str(tmp_path / "good"))


@on_a_loop
async def test_one_file_becomes_a_link_and_goes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(*argv: str) -> tuple[int, str]:
        return 0, ""

    monkeypatch.setattr(mounts, "_run", run)
    monkeypatch.setattr(mounts, "SINGLE", tmp_path / "shares")
    link = tmp_path / "etc" / "a b"
    link.parent.mkdir()
    link.write_text("what was there before")
    head = {"tag": "f", "path": str(link), "name": "the file"}
    async with asking() as peer:
        for _ in range(2):
            await peer.ask({"op": "mount", **head})
            assert os.readlink(link) == f"{tmp_path}/shares/f/the file"
        await peer.ask({"op": "unmount", **head})
        assert not os.path.lexists(link)
        assert not (tmp_path / "shares/f").exists()
        link.symlink_to("/somewhere/else")
        await peer.ask({"op": "unmount", **head})
        assert os.readlink(link) == "/somewhere/else"
