"""Archives of copied files, honest and hostile ones; all in the test's own folder."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subos_desktop.clipboard import files
from subos_desktop.clipboard.interface import ClipboardError, Malformed, NotOffered


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1000):
        yield data[start : start + 1000]


def archive(*members: tuple[str, bytes, bytes]) -> bytes:
    """(name, type, content) each."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, len(content) if kind == tarfile.REGTYPE else 0, "target"
            tar.addfile(member, io.BytesIO(content))
    return target.getvalue()


@pytest.mark.parametrize(
    "bad",
    [
        ("../x", tarfile.REGTYPE),
        ("a/../../x", tarfile.REGTYPE),
        ("./x", tarfile.REGTYPE),
        ("a//x", tarfile.REGTYPE),
        ("link", tarfile.SYMTYPE),
        ("hard", tarfile.LNKTYPE),
        ("fifo", tarfile.FIFOTYPE),
        ("device", tarfile.CHRTYPE),
        ("/".join("d" * 70), tarfile.DIRTYPE),
        ("good", tarfile.REGTYPE),  # a second time
        ("new/x", tarfile.REGTYPE),  # in a folder that was not sent
        ("new/x", tarfile.DIRTYPE),
        ("good/x", tarfile.REGTYPE),
    ],
)
def test_what_is_not_plain_is_refused_and_nothing_stays(bad: tuple[str, bytes], tmp_path: Path) -> None:
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    data = archive(("good", tarfile.REGTYPE, b"x"), (bad[0], bad[1], b"y"))
    with pytest.raises(ClipboardError):
        asyncio.run(files.unpack(chunks(data), inside))
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]


@settings(max_examples=60)
@given(data=st.binary(max_size=3000))
def test_arbitrary_bytes_are_refused_or_empty(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("drop")
    try:
        assert asyncio.run(files.unpack(chunks(data), folder)) == []
    except ClipboardError:
        assert not folder.exists()


def test_a_cut_archive_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "drop"
    folder.mkdir()
    data = archive(("big", tarfile.REGTYPE, bytes(100_000)))
    with pytest.raises(ClipboardError):
        asyncio.run(files.unpack(chunks(data[:50_000]), folder))
    assert not folder.exists()


def test_uri_lists() -> None:
    assert files.uri_list([Path("/a b"), Path("/\udcff")]) == b"file:///a%20b\r\nfile:///%FF\r\n"
    text = b"# comment\r\nfile:///a%20b\r\nfile://localhost/c\nfile://elsewhere/d\nhttp://x/y\n\n"
    assert files.local_paths(text) == [Path("/a b"), Path("/c")]
    with pytest.raises(NotOffered):
        files.local_paths(b"http://x/y\nfile:relative\nfile:///%00\n")


def test_two_files_of_one_name(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text(folder)

    async def both() -> list[Path]:
        drop = tmp_path / "drop"
        drop.mkdir()
        return await files.unpack(files.pack([tmp_path / "a" / "x.txt", tmp_path / "b" / "x.txt"]), drop)

    assert [(path.name, path.read_text()) for path in asyncio.run(both())] == [("x (2).txt", "b"), ("x.txt", "a")]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    async def missing() -> None:
        async for _ in files.pack([tmp_path / "missing"]):
            pass

    with pytest.raises(ClipboardError, match="cannot be read"):
        asyncio.run(missing())


def test_malformed_is_a_clipboard_error() -> None:
    assert issubclass(Malformed, ClipboardError)
